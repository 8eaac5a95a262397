"""Activations of a recurrence, with derivatives that are read off the output.

A backward pass that needs only the states h_t = phi(z_t), and not the
pre-activations z_t, keeps one array of length T instead of two. That works for every
named activation here, because each lets phi'(z) be told from phi(z). For any other
callable the pre-activations are kept as well, and JAX differentiates phi there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from svdrnn import checks
from svdrnn._types import AnyArray

NAMES = ("leaky_relu", "relu", "tanh", "identity", "modrelu")
LEAK = 0.01  # slope of `leaky_relu` left of zero, unless it is given


@dataclasses.dataclass(frozen=True)
class Activation:
    r"""A pointwise activation phi, by name or as a function.

    | name         | phi(z)                                | Lipschitz constant    |
    |--------------|---------------------------------------|-----------------------|
    | `leaky_relu` | z where z >= 0, leak * z elsewhere    | 1                     |
    | `relu`       | max(z, 0)                             | 1                     |
    | `tanh`       | tanh(z)                               | 1                     |
    | `identity`   | z                                     | 1                     |
    | `modrelu`    | sign(z) * max(\|z\| + offset, 0)      | 1 where offset <= 0   |
    | a callable   | what it gives, elementwise            | its own               |

    `modrelu` takes a trained `offset` of shape (n,) (Arjovsky, Shah and Bengio, 2016);
    with a positive offset it jumps at zero and has no Lipschitz constant. The
    derivative at a kink is that of the left piece for `relu` and a `leaky_relu` whose
    leak is 0, and of the right piece for every other leak. NaN stays NaN.

    Attributes:
      name: one of `NAMES`, or a function of an array that acts on every entry alone.
      leak: slope of `leaky_relu` left of zero, in [0, 1]; 0 is ReLU, 1 the identity,
        and None is 0.01. The other activations have none: theirs stays None.

    Raises:
      ValueError: for an unknown name, a leak outside [0, 1], or one that is given with
        another activation.
    """

    name: str | Callable[[Array], Array] = "leaky_relu"
    leak: Any = None

    def __post_init__(self):
        if not callable(self.name):
            checks.check_name("activation", self.name, NAMES)
        if self.name == "leaky_relu":
            leak = LEAK if self.leak is None else self.leak
            leak = checks.check_finite("leak", leak, least=0, most=1)
            object.__setattr__(self, "leak", leak)
        elif self.leak is not None:
            raise ValueError(
                f"leak must be None with activation {self.name!r}, which has none, got"
                f" {self.leak!r}"
            )

    @property
    def needs_offset(self) -> bool:
        """Whether phi has a trained offset of its own (modReLU)."""
        return self.name == "modrelu"

    @property
    def linear(self) -> bool:
        """Whether phi is the identity, by whichever name."""
        return self.name == "identity" or self.leak == 1

    @property
    def reads_output(self) -> bool:
        """Whether `pull_back` needs the output alone."""
        return not callable(self.name)

    def __call__(
        self,
        z: Float[AnyArray, "*batch n"],
        offset: Float[AnyArray, " n"] | None = None,
    ) -> Float[Array, "*batch n"]:
        """phi(z), elementwise; z of shape (..., n), offset of shape (n,).

        Raises:
          ValueError: a z that is not floating; an offset that is missing or does not
            fit.
        """
        z = jnp.asarray(z)
        checks.check_floating("z", z)
        match self.name:
            case "leaky_relu":
                return jnp.where(self._right(z), z, self.leak * z)
            case "relu":
                return jnp.where(z <= 0, jnp.zeros_like(z), z)
            case "tanh":
                return jnp.tanh(z)
            case "identity":
                return z
            case "modrelu":
                if offset is None:
                    raise ValueError("offset must be given for modrelu, got None")
                checks.check_floating("offset", offset)
                if offset.shape != z.shape[-1:]:
                    raise ValueError(
                        f"offset must have shape {z.shape[-1:]}, got {offset.shape}"
                    )
                zero = jnp.zeros_like(z)
                offset = offset.reshape((1,) * (z.ndim - 1) + offset.shape)
                return jnp.sign(z) * jnp.maximum(jnp.abs(z) + offset, zero)
        return self._function(z)

    def pull_back(
        self,
        g: Float[AnyArray, "*batch n"],
        h: Float[AnyArray, "*batch n"],
        z: Float[AnyArray, "*batch n"] | None = None,
    ) -> Float[Array, "*batch n"]:
        """g * phi'(z), with phi'(z) read off the output h = phi(z).

        Args:
          g: gradient to h.
          h: the output.
          z: the input; needed unless `reads_output`.
        """
        g = jnp.asarray(g)
        match self.name:
            case "leaky_relu":
                return jnp.where(self._right(h), g, self.leak * g)
            case "relu":
                return jnp.where(h <= 0, jnp.zeros_like(g), g)
            case "tanh":
                return g * (1 - h * h)
            case "identity":
                return g
            case "modrelu":
                return jnp.where(h != 0, g, jnp.zeros_like(g))
        return jax.vjp(self._function, z)[1](g)[0]

    def _right(self, x):
        """Where z is right of the kink of `leaky_relu`, told of z or of h alike.

        A leak of zero sends the whole left half line to zero, and there the sign of z
        is lost: zero then counts as left.
        """
        return x >= 0 if self.leak > 0 else x > 0

    def _function(self, z):
        """The callable, kept to the shape and the dtype of its input."""
        h = self.name(z)  # type: ignore[operator]  # it is no name
        if jnp.shape(h) != z.shape:
            raise ValueError(
                f"activation must act on every entry, shape {z.shape}, got a result of"
                f" shape {jnp.shape(h)}"
            )
        return h.astype(z.dtype)
