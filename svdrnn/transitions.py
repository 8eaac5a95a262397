"""The forms in which a square W is applied at every step of a recurrence.

* `Dense`: W itself. A step costs 2 n^2 flops an item, its backward pass 4 n^2.
* `DiagonalPlusLowRank`: W = diag(d) + A C with A (n, k), C (k, n). A step costs 4 n k
  flops an item and its backward pass 8 n k, so it wins where k is well under n.
* `Factored`: U Sigma V^T, factor by factor, as the paper applies it; the reference.

A form is built once a sequence. It knows its size and its singular values, how to apply
W to a batch, and, if `has_backward`, the pieces of a backward pass over time.
`svdrnn.matrices` makes forms, `svdrnn.recurrence` uses them.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from svdrnn import _platform, checks, householder, spectral
from svdrnn._types import AnyArray

# Every way to apply W = U Sigma V^T; `auto_method` says what "auto" takes.
METHODS = (*householder.METHODS, "low_rank", "dense")


def prefers_low_rank(n: int, reflectors: int) -> bool:
    """Whether the factors of an (n, n) matrix are cheaper to apply than the matrix.

    Counted flops of a training step, per item and time step: 12 n k against 6 n^2 with
    k reflectors in total, hence k < n/2. Thin products run at a lower rate than
    square ones, which moves the border to k <= n/3. The rule of `method="auto"`, of
    recurrent transitions (see `auto_method`) and of `SpectralLinear`, there with n the
    shorter side.

    Args:
      n: size of the matrix.
      reflectors: k = m1 + m2, those of U and of V.
    """
    return 3 * reflectors <= n


# Up to this n a dense W is quicker on an accelerator, where a step is bound by the
# number of its operations; the figures: docs/accelerators.md.
_FEW_OPERATIONS = 512


def auto_method(n: int, reflectors: int) -> str:
    """What `method="auto"` means for a recurrent transition: `low_rank` or `dense`.

    `low_rank` where `prefers_low_rank` says so and, where JAX's default device is a GPU
    or a TPU, n is above 512. A step as a dense W has half as many products.

    Args:
      n: size of the matrix.
      reflectors: k = m1 + m2, those of U and of V.
    """
    bound_by_operations = _platform.name() != "cpu" and n <= _FEW_OPERATIONS
    few = prefers_low_rank(n, reflectors) and not bound_by_operations
    return "low_rank" if few else "dense"


class Transition(abc.ABC):
    """A square W (n, n) in the form in which it is applied; a pytree."""

    # Whether `recurrence` can run its hand-written backward pass over this form, with
    # the methods of `Differentiable`.
    has_backward: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The n of W (n, n)."""

    @abc.abstractmethod
    def apply(
        self, h: Float[AnyArray, "batch n"], precision: jax.lax.PrecisionLike
    ) -> tuple[Float[Array, "batch n"], Any]:
        """W h for every item, and what `Differentiable.accumulate` will want of it."""

    @abc.abstractmethod
    def singular_values(self) -> Float[Array, " n"]:
        """Singular values of W in descending order; of cost n^3 unless factored."""


class Differentiable(Transition):
    """A form with the pieces of a backward pass over time.

    `accumulate` adds one step's part to a running total that begins as
    `zero_gradient` and that `finish` turns into the gradient of the form.
    """

    has_backward = True

    @abc.abstractmethod
    def matrix(self) -> Float[Array, "n n"]:
        """W itself."""

    @property
    @abc.abstractmethod
    def multiplications(self) -> int:
        """Those of `apply` for one item."""

    @abc.abstractmethod
    def pull_back(
        self,
        delta: Float[AnyArray, "batch n"],
        precision: jax.lax.PrecisionLike,
        *,
        whole: bool = True,
    ) -> tuple[Float[Array, "batch n"], Any]:
        """W^T delta for every item, and what `accumulate` will want of it.

        Args:
          delta: gradients to W h.
          precision: of the products.
          whole: False leaves out what is no product, which `completed` adds.
        """

    def completed(
        self, product: Float[AnyArray, "batch n"], delta: Float[AnyArray, "batch n"]
    ) -> Float[Array, "batch n"]:
        """W^T delta of what `pull_back` left of it: here that is all."""
        del delta
        return jnp.asarray(product)

    @abc.abstractmethod
    def zero_gradient(self, batch: int, dtype: DTypeLike) -> Any:
        """The total before the first step."""

    @abc.abstractmethod
    def accumulate(
        self,
        total: Any,
        h: Float[AnyArray, "batch n"],
        kept: Any,
        delta: Float[AnyArray, "batch n"],
        aux: Any,
        precision: jax.lax.PrecisionLike,
    ) -> Any:
        """Adds the sum over the batch of delta h^T, in the terms of this form.

        Args:
          total: so far.
          h: the states that W was applied to.
          kept: what `apply` gave besides W h, or None, to compute it again.
          delta: gradients to W h.
          aux: what `pull_back` gave besides W^T delta.
          precision: of the products.
        """

    @abc.abstractmethod
    def finish(self, total: Any) -> "Differentiable":
        """The gradient in the structure of the form."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class Dense(Differentiable):
    """A transition as the matrix itself.

    Attributes:
      w: (n, n).
    """

    w: Float[AnyArray, "n n"]

    @property
    def size(self) -> int:
        """The n of W (n, n)."""
        return self.w.shape[0]

    def apply(self, h, precision):
        """W h, and nothing."""
        return jnp.matmul(h, self.w.T, precision=precision), ()

    def matrix(self) -> Float[Array, "n n"]:
        """W itself."""
        return jnp.asarray(self.w)

    @property
    def multiplications(self) -> int:
        """n^2."""
        return self.size**2

    def singular_values(self) -> Float[Array, " n"]:
        """Singular values of W in descending order; an n^3 decomposition."""
        return spectral.singular_values(self.w)

    def pull_back(self, delta, precision, *, whole=True):
        """W^T delta, and nothing."""
        del whole  # A product is all there is.
        return jnp.matmul(delta, self.w, precision=precision), ()

    def zero_gradient(self, batch, dtype):
        """Zeros of the shape of W."""
        del batch
        return jnp.zeros(self.w.shape, dtype)

    def accumulate(self, total, h, kept, delta, aux, precision):
        """Adds the sum over the batch of delta h^T."""
        del kept, aux
        return total + batch_outer(delta, h, total.dtype, precision)

    def finish(self, total):
        """The total."""
        return Dense(w=total)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["diagonal", "a", "c"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalPlusLowRank(Differentiable):
    """W = diag(diagonal) + a c.

    Attributes:
      diagonal: (n,).
      a: (n, k).
      c: (k, n).
    """

    diagonal: Float[AnyArray, " n"]
    a: Float[AnyArray, "n k"]
    c: Float[AnyArray, "k n"]

    @property
    def size(self) -> int:
        """The n of W (n, n)."""
        return self.diagonal.shape[0]

    def apply(self, h, precision):
        """W h, and c h."""
        low = jnp.matmul(h, self.c.T, precision=precision)
        out = h * self.diagonal[None] + jnp.matmul(low, self.a.T, precision=precision)
        return out, low

    def matrix(self) -> Float[Array, "n n"]:
        """W itself, of cost n^2 k."""
        return jnp.diag(self.diagonal) + householder.matmul(self.a, self.c)

    @property
    def multiplications(self) -> int:
        """2 n k + n."""
        return (2 * self.a.shape[1] + 1) * self.size

    def singular_values(self) -> Float[Array, " n"]:
        """Singular values of W in descending order; an n^3 decomposition."""
        return spectral.singular_values(self.matrix())

    def pull_back(self, delta, precision, *, whole=True):
        """W^T delta, or c^T a^T delta alone; and a^T delta."""
        low = jnp.matmul(delta, self.a, precision=precision)
        if not whole:
            return jnp.matmul(low, self.c, precision=precision), low
        out = delta * self.diagonal[None] + jnp.matmul(low, self.c, precision=precision)
        return out, low

    def completed(self, product, delta):
        """diag(diagonal) delta + c^T a^T delta."""
        return delta * self.diagonal[None] + product

    def zero_gradient(self, batch, dtype):
        """Zeros for the diagonal of every item, for a^T and for c."""
        # The diagonal is summed over the batch once, at the end: one fused addition a
        # step is cheaper than a reduction. The gradient of a is kept transposed,
        # because wide results of thin products are faster than tall ones.
        return (
            jnp.zeros((batch, self.size), dtype),
            jnp.zeros(self.a.T.shape, dtype),
            jnp.zeros(self.c.shape, dtype),
        )

    def accumulate(self, total, h, kept, delta, aux, precision):
        """Adds delta * h, the outer products of c h and delta, of a^T delta and h."""
        diagonal, a_t, c = total
        if kept is None:
            kept = jnp.matmul(h, self.c.T, precision=precision)
        return (
            diagonal + (delta * h).astype(diagonal.dtype),
            a_t + batch_outer(kept, delta, a_t.dtype, precision),
            c + batch_outer(aux, h, c.dtype, precision),
        )

    def finish(self, total):
        """The totals in the shapes of the parts."""
        diagonal, a_t, c = total
        return DiagonalPlusLowRank(diagonal=diagonal.sum(0), a=a_t.T, c=c)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["svd"], meta_fields=["method"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Factored(Transition):
    """U Sigma V^T applied factor by factor at every step.

    Attributes:
      svd: the parameters.
      method: one of `householder.METHODS`.
    """

    svd: spectral.SVD
    method: str

    @property
    def size(self) -> int:
        """The n of W (n, n)."""
        return self.svd.shape[0]

    def apply(self, h, precision):
        """W h, and nothing."""
        del precision  # Products of reflectors are always at the highest precision.
        return spectral.apply(self.svd, h, method=self.method), ()

    def singular_values(self) -> Float[Array, " n"]:
        """Singular values of W in descending order, of cost n log n."""
        return spectral.singular_values(self.svd)


def from_matrix(w: Float[AnyArray, "n_out n_in"], method: str = "auto") -> "Dense":
    """A W without factors as a transition, which has one form.

    Args:
      w: W, square.
      method: `dense`, or `auto`, which means it.

    Raises:
      ValueError: another method; W is not floating or not square.
    """
    checks.check_name("method", method, ("auto", "dense"))
    w = jnp.asarray(w)
    checks.check_floating("w", w)
    if w.ndim != 2 or w.shape[0] != w.shape[1]:
        raise ValueError(f"a transition must be square, got shape {w.shape}")
    return Dense(w)


def from_svd(
    svd: spectral.SVD, method: str = "auto", *, custom_backward: bool = True
) -> Transition:
    """W = U Sigma V^T in the form of that name, to be built once a sequence.

    Args:
      svd: the parameters of a square W.
      method: one of `METHODS`. `low_rank` and `dense` are the fast forms, and `auto`
        picks between them by `auto_method`; `scan` and `wy` apply the factors at
        every step.
      custom_backward: False for forward mode through the building of `dense`, see
        `householder.orthogonal_matrix`.

    Cost: `low_rank` O(n (m1^2 + m2^2)), `dense` 4/3 n^3 + 2 n^3 flops at most.

    Raises:
      ValueError: an unknown method; W is not square.
    """
    checks.check_name("method", method, METHODS)
    n_out, n_in = svd.shape
    if n_out != n_in:
        raise ValueError(f"a transition must be square, got shape ({n_out}, {n_in})")
    if method == "auto":
        reflectors = svd.u_vectors.shape[-2] + svd.v_vectors.shape[-2]
        method = auto_method(n_in, reflectors)
    if method == "low_rank":
        return DiagonalPlusLowRank(*spectral.diagonal_plus_low_rank(svd))
    if method == "dense":
        return Dense(spectral.materialize(svd, custom_backward=custom_backward))
    return Factored(svd, method)


def batch_outer(
    x: Float[AnyArray, "batch p"],
    y: Float[AnyArray, "batch q"],
    dtype: DTypeLike,
    precision: jax.lax.PrecisionLike,
) -> Float[Array, "p q"]:
    """The sum over the batch of x_i y_i^T, accumulated and returned in `dtype`.

    Raises:
      ValueError: shapes or dtypes that do not fit.
    """
    checks.check_floating("x", x)
    checks.check_floating("y", y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ValueError(
            f"x and y must have shapes (batch, p) and (batch, q), got {x.shape} and"
            f" {y.shape}"
        )

    def product(x_t, y):
        return jnp.matmul(x_t, y, precision=precision, preferred_element_type=dtype)

    def transposed_first(x, y):
        # XLA's products on the CPU are markedly slower with a transposed
        # left operand than after a transposition that is kept apart by a barrier.
        return product(jax.lax.optimization_barrier(x.T), y)

    def folded(x, y):
        return product(x.T, y)

    return jax.lax.platform_dependent(x, y, cpu=transposed_first, default=folded)
