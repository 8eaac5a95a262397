"""Activations of a recurrence, with derivatives that are read off the output.

A backward pass that needs only the states h_t = phi(z_t), and not the
pre-activations z_t, keeps one array of length T instead of two. That works for every
activation here, because each lets phi'(z) be told from phi(z).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

NAMES = ("leaky_relu", "relu", "tanh", "identity", "modrelu")


@dataclasses.dataclass(frozen=True)
class Activation:
    r"""A pointwise activation phi by name.

    ==========  =====================================  ==================
    name        phi(z)                                 Lipschitz constant
    ==========  =====================================  ==================
    leaky_relu  z where z >= 0, leak * z elsewhere     1
    relu        max(z, 0)                              1
    tanh        tanh(z)                                1
    identity    z                                      1
    modrelu     sign(z) * max(\\|z\\| + offset, 0)       1 where offset <= 0
    ==========  =====================================  ==================

    `modrelu` takes a trained `offset` of shape (n,) (Arjovsky, Shah and Bengio,
    2016); with a positive offset it jumps at zero and has no Lipschitz constant. The
    derivative at a kink is that of the left piece for `relu` and of the right piece
    for `leaky_relu`.

    Attributes:
      name: one of `NAMES`.
      leak: slope of `leaky_relu` left of zero, in [0, 1]; 0 is ReLU up to the kink,
        1 the identity. The other activations ignore it.

    Raises:
      ValueError: for an unknown name or a leak outside [0, 1].
    """

    name: str = "leaky_relu"
    leak: float = 0.01

    def __post_init__(self):
        if self.name not in NAMES:
            raise ValueError(
                f"activation must be one of {', '.join(NAMES)}, got {self.name!r}"
            )
        number = isinstance(self.leak, (int, float)) and math.isfinite(self.leak)
        if not number or not 0 <= self.leak <= 1:
            raise ValueError(f"leak must lie in [0, 1], got {self.leak!r}")

    @property
    def needs_offset(self) -> bool:
        """Whether phi has a trained offset of its own (modReLU)."""
        return self.name == "modrelu"

    def __call__(self, z: jax.Array, offset: jax.Array | None = None) -> jax.Array:
        """phi(z), elementwise; z of shape (..., n), offset of shape (n,)."""
        match self.name:
            case "leaky_relu":
                return jnp.where(z >= 0, z, self.leak * z)
            case "relu":
                return jnp.where(z > 0, z, jnp.zeros_like(z))
            case "tanh":
                return jnp.tanh(z)
            case "identity":
                return z
            case "modrelu":
                zero = jnp.zeros_like(z)
                return jnp.sign(z) * jnp.maximum(jnp.abs(z) + offset, zero)

    def pull_back(self, g: jax.Array, h: jax.Array) -> jax.Array:
        """g * phi'(z), with phi'(z) read off the output h = phi(z)."""
        match self.name:
            case "leaky_relu":
                # A leak of zero sends the whole left half line to zero, and there
                # the sign of z is lost: h = 0 then counts as left of the kink.
                right = h >= 0 if self.leak > 0 else h > 0
                return jnp.where(right, g, self.leak * g)
            case "relu":
                return jnp.where(h > 0, g, jnp.zeros_like(g))
            case "tanh":
                return g * (1 - h * h)
            case "identity":
                return g
            case "modrelu":
                return jnp.where(h != 0, g, jnp.zeros_like(g))

    @property
    def lipschitz(self) -> float:
        """Lipschitz constant (of modReLU: where no offset is positive)."""
        return 1.0
