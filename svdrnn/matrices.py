"""Square and rectangular matrices as NNX modules: how W is parameterized.

A module holds the parameters of a constraint (`svdrnn.constraint`), draws the first of
them from a stream of random numbers, and asks the constraint for the rest.

Every parameterization is a `Matrix`: it offers `matrix()`, `matrix_shape`,
`singular_values()` and `num_redundant`, and, if square, `transition(method)`, the form
of W that a recurrence applies at every step.
"""

from __future__ import annotations

import abc
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from svdrnn import checks, householder, initializers, skew, spectral, transitions
from svdrnn._flax import signature_of_init
from svdrnn._types import AnyArray, Number
from svdrnn.constraint import Free, Spectral, check_no_sigma
from svdrnn.spectral import Reflectors, reflector_counts


def given_matrix(init: Any, shape: tuple[int, int], dtype: DTypeLike) -> Array:
    """A matrix given as `init`, in `dtype`.

    Raises:
      ValueError: it is no matrix, is complex, has another shape or, where its values
        are known (outside of `jit`), entries that are not finite.
    """
    try:
        matrix = jnp.asarray(init)
    except (TypeError, ValueError):
        raise ValueError(f"init must be a name or a matrix, got {init!r}") from None
    checks.check_real("init", matrix)
    if matrix.shape != shape:
        raise ValueError(f"init must have shape {shape}, got {matrix.shape}")
    checks.check_finite_entries("init", matrix)
    return matrix.astype(dtype)


class Matrix(nnx.Module, abc.ABC):
    """A matrix W that is computed from parameters."""

    @property
    @abc.abstractmethod
    def matrix_shape(self) -> tuple[int, int]:
        """The shape (n_out, n_in) of W."""

    @abc.abstractmethod
    def matrix(self) -> Float[Array, "n_out n_in"]:
        """W, (n_out, n_in), a function of the parameters alone.

        What it changes in the module is lost where a layer is called outside of `jit`,
        which then computes with a copy: random numbers it draws are the same each time.
        """

    def singular_values(self) -> Float[Array, "*stack smaller"]:
        """Singular values of W in descending order; an n^3 decomposition."""
        return spectral.singular_values(self.matrix())

    def transition(
        self, method: str = "auto", *, custom_backward: bool = True
    ) -> transitions.Transition:
        """W as a recurrent transition, built once a sequence.

        Args:
          method: `dense`, the one form of a matrix that has no factors, or `auto`,
            which means it.
          custom_backward: of no effect here: there is no other way to build W.

        Raises:
          ValueError: another method; W is not square.
        """
        del custom_backward
        return transitions.from_matrix(self.matrix(), method)

    @property
    def num_redundant(self) -> int:
        """Stored entries of the parameters that no result depends on."""
        return 0


@signature_of_init
class SpectralMatrix(Matrix):
    """W = U Sigma V^T (n_out, n_in) with singular values held in an interval.

    U and V are products of m1 and m2 Householder reflectors, and
    sigma_i = 2 radius (sigmoid(raw_i) - 1/2) + center, in [center - radius,
    center + radius]. With radius 0 sigma is frozen and has no parameters (oRNN,
    Mhammedi et al., 2017).

    Parameters: `u_vectors` (m1, n_out), `v_vectors` (m2, n_in), `sigma_raw`
    (min(n_out, n_in),). Entries of the vectors below the upper trapezoid are stored as
    zeros, never matter and get zero gradients.

    Args:
      n_in: the number of columns of W.
      n_out: the number of rows of W.
      reflectors: the number of reflectors, m1 of U and m2 of V. One number counts for
        both and is capped at min(n_out, n_in), which already reaches every matrix. A
        pair (m1, m2) is taken literally. None means that cap.
      radius: r >= 0, how far a singular value may be from the center; 0 freezes all of
        them (oRNN).
      center: sigma*, the middle of the interval. With 0, which is meant for residual
        branches, sigma_raw starts at N(0, 1) instead of 0.
      init: the first W. `"random"`: rows N(0, 1/n), independent for U and V.
        `"identity"`: equal rows, so that W = center * I; W must be square with m1 = m2.
        `"henaff"` or `"cayley"`: W = center * R with R a rotation of planes of two
        coordinates by random angles, see `initializers.rotation_angles`; W must be
        square with n reflectors on each side. Or a matrix (n_out, n_in), which needs
        min(n_out, n_in) reflectors on each side.
      init_sigma: the first singular values, strictly inside the interval: one number,
        or several that are taken in turn, so that (0.3, 1) lets every second direction
        forget. None puts all of them at the center (see there). It must be None where
        `init` is a matrix, which brings its own.
      param_dtype: the dtype of the parameters.
      rngs: its `params` stream draws the initial values.

    Raises:
      ValueError: for sizes, counts, radius, center, init or init_sigma out of range,
        and for a given matrix with a singular value not strictly inside the interval
        (where its values are known, outside of `jit`).
    """

    INITS = ("random", "identity", *initializers.BLOCK_ROTATIONS)

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        reflectors: Reflectors,
        radius: Number,
        center: Number = 1.0,
        init: str | ArrayLike = "random",
        init_sigma: ArrayLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.n_in = checks.check_integer("n_in", n_in)
        self.n_out = checks.check_integer("n_out", n_out)
        counts = reflector_counts(reflectors, self.n_out, self.n_in)
        self.constraint = Spectral(radius, center, counts)
        if not isinstance(init, str):
            check_no_sigma(init_sigma)
        parameters = self._start(init, init_sigma, param_dtype, rngs)
        self.u_vectors = nnx.Param(parameters["u_vectors"])
        self.v_vectors = nnx.Param(parameters["v_vectors"])
        raw = parameters.get("sigma_raw")
        self.sigma_raw = None if raw is None else nnx.Param(raw)

    def _start(self, init, init_sigma, dtype, rngs):
        """The first parameters, each of which is drawn by a key of its own."""
        shape = self.matrix_shape
        if not isinstance(init, str):
            matrix = given_matrix(init, shape, dtype)
            svd = _decomposed(self.constraint, matrix)
            return self.constraint.parameters_of(svd, dtype)
        _check_init(init, self.INITS, "or a matrix")
        sigma = None
        if init_sigma is not None:
            sigma = self.constraint.checked_sigma(init_sigma, shape)
        keys = [rngs.params() for _ in range(2 if init == "identity" else 3)]
        return _drawn(self.constraint, init, shape, jnp.dtype(dtype), keys, sigma)

    @property
    def radius(self) -> float:
        """How far a singular value may be from the center."""
        return float(self.constraint.radius)

    @property
    def center(self) -> float:
        """The middle of the interval of the singular values."""
        return float(self.constraint.center)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The shape (n_out, n_in) of W."""
        return self.n_out, self.n_in

    def parameters(self) -> dict[str, AnyArray]:
        """What the constraint makes W of, by name; `sigma_raw` unless it is frozen."""
        named: dict[str, AnyArray] = {
            "u_vectors": self.u_vectors[...],
            "v_vectors": self.v_vectors[...],
        }
        if self.sigma_raw is not None:
            named["sigma_raw"] = self.sigma_raw[...]
        return named

    def sigma(self) -> Float[Array, "*stack smaller"]:
        """Sigma's diagonal, (min(n_out, n_in),)."""
        return self.constraint.sigma(self.parameters(), self.matrix_shape)

    def svd(self, dtype: DTypeLike | None = None) -> spectral.SVD:
        """The parameters as the pytree that `svdrnn.spectral` works on.

        Args:
          dtype: of its leaves; None is that of the parameters. A wider one keeps sigma,
            and gradients to it, from being rounded to a narrow one.
        """
        return self.constraint.svd(self.parameters(), self.matrix_shape, dtype)

    def matrix(self, *, custom_backward: bool = True) -> Float[Array, "n_out n_in"]:
        """W, (n_out, n_in).

        Args:
          custom_backward: False for forward mode, see `householder.orthogonal_matrix`.
        """
        return spectral.materialize(self.svd(), custom_backward=custom_backward)

    def singular_values(self) -> Float[Array, "*stack smaller"]:
        """Singular values of W in descending order, without decomposing it."""
        return self.constraint.singular_values(self.parameters(), self.matrix_shape)

    def transition(
        self, method: str = "auto", *, custom_backward: bool = True
    ) -> transitions.Transition:
        """W as a recurrent transition, built once a sequence (square W only).

        Args:
          method: one of `transitions.METHODS`, see `transitions.from_svd`.
          custom_backward: False for forward mode through the building of a dense W.

        Returns:
          The form in float32, or in float64 where the parameters are.

        Raises:
          ValueError: an unknown method; W is not square.
        """
        return self.constraint.transition(
            self.parameters(),
            self.matrix_shape,
            method,
            custom_backward=custom_backward,
        )

    @property
    def num_redundant(self) -> int:
        """Stored entries below the trapezoids, which no result depends on.

        For a stack of matrices, where every parameter has leading axes, it counts
        those of all matrices.
        """
        stack = self.u_vectors.shape[:-2]
        return math.prod(stack) * self.constraint.redundant(self.matrix_shape)


@signature_of_init
class DenseMatrix(Matrix):
    """An unconstrained square W: the parameter is the matrix.

    Parameters: `w` (n, n).

    Args:
      n: the size of W.
      init: the first W: `"lecun_normal"`, `"orthogonal"`, `"identity"` or an (n, n)
        matrix. An orthogonal or identity start makes the model the IRNN.
      param_dtype: the dtype of the parameters.
      rngs: its `params` stream draws the initial values.

    Raises:
      ValueError: for a size below 1, an unknown name or a matrix of another shape,
        complex or not finite.
    """

    INITS = ("lecun_normal", "orthogonal", "identity")

    def __init__(
        self,
        n: int,
        *,
        init: str | ArrayLike = "lecun_normal",
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.n = n = checks.check_integer("n", n)
        self.constraint = Free()
        shape = self.matrix_shape
        if not isinstance(init, str):
            w = given_matrix(init, shape, param_dtype)
        elif _check_init(init, self.INITS, "or a matrix") == "identity":
            w = self.constraint.identity(shape, param_dtype)["w"]
        else:
            w = _dense(init, shape, rngs.params(), jnp.dtype(param_dtype))
        self.w = nnx.Param(w)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The shape (n, n) of W."""
        return self.n, self.n

    def matrix(self) -> Float[Array, "n n"]:
        """W, (n, n)."""
        return self.constraint.matrix({"w": self.w[...]}, self.matrix_shape)


@signature_of_init
class OrthogonalMatrix(Matrix):
    """W = f(A) D, orthogonal: f the exponential (expRNN) or the Cayley map (scoRNN).

    A is skew-symmetric and D a fixed diagonal of signs, +1 and then -1. With the
    exponential, W reaches every rotation (D changes the sign of the determinant where
    the number of -1 is odd); with the Cayley map, every W for which W D has no
    eigenvalue -1, which is why scoRNN has a D. All singular values are 1.

    Parameters: `skew_entries` (n (n - 1) / 2,), A above its diagonal, row after row.

    Source: Lezcano-Casado and Martinez-Rubio (2019); Helfrich, Willmott and Ye (2018).

    Args:
      n: the size of W.
      map: `"exponential"` (expRNN) or `"cayley"` (scoRNN).
      negative_fraction: the share of -1 in D, in [0, 1]; their number is rounded.
      init: W D at the start. `"henaff"` or `"cayley"`: a rotation of planes of two
        coordinates by random angles, see `initializers.rotation_angles`. `"identity"`:
        A = 0. Under the Cayley map an angle t needs an entry -tan(t / 2): Henaff's
        angles near pi give large ones, which move slowly.
      param_dtype: the dtype of the parameters.
      rngs: its `params` stream draws the initial values.

    Raises:
      ValueError: for a size below 1, an unknown name or a fraction out of range.
    """

    INITS = (*initializers.BLOCK_ROTATIONS, "identity")

    def __init__(
        self,
        n: int,
        *,
        map: str = "exponential",
        negative_fraction: Number = 0.0,
        init: str = "henaff",
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.n = n = checks.check_integer("n", n)
        self.map = checks.check_name("map", map, skew.MAPS)
        fraction = checks.check_finite(
            "negative_fraction", negative_fraction, least=0, most=1
        )
        _check_init(init, self.INITS)
        self.num_negative = round(fraction * n)
        if init == "identity":
            entries = jnp.zeros((n * (n - 1) // 2,), param_dtype)
        else:
            dtype = jnp.dtype(param_dtype)
            entries = _skew_entries(n, init, self.map, rngs.params(), dtype)
        self.skew_entries = nnx.Param(entries)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The shape (n, n) of W."""
        return self.n, self.n

    def matrix(self) -> Float[Array, "n n"]:
        """W, (n, n)."""
        return self._matrix(self.skew_entries[...])

    def _matrix(self, skew_entries):
        positive = jnp.arange(self.n) < self.n - self.num_negative
        w = skew.rotation(skew.skew_matrix(skew_entries), self.map)
        return jnp.where(positive[None], w, -w)

    def transition(
        self, method: str = "auto", *, custom_backward: bool = True
    ) -> transitions.Transition:
        """W as a recurrent transition, built once a sequence.

        Args:
          method: `dense`, the one form of a matrix that has no factors, or `auto`,
            which means it.
          custom_backward: of no effect here: there is no other way to build W.

        Returns:
          The form in float32, or in float64 where the parameters are: rounded to fewer
          digits, W would not be orthogonal.

        Raises:
          ValueError: another method.
        """
        del custom_backward
        entries = self.skew_entries[...]
        wide = entries.astype(householder.factor_dtype(entries.dtype))
        return transitions.from_matrix(self._matrix(wide), method)

    def singular_values(self) -> Float[Array, "*stack n"]:
        """Singular values of W, (n,): ones."""
        entries = self.skew_entries[...]
        return jnp.ones((*entries.shape[:-1], self.n), entries.dtype)


# A first matrix is one program, with the keys as arguments.


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _drawn(constraint, init, shape, dtype, keys, sigma):
    """Parameters of a `Spectral` from keys, in the order in which they are drawn."""
    rows_key, raw_key, *other = keys
    if init == "random":
        parameters = constraint.random_by_keys(rows_key, *other, raw_key, shape, dtype)
    elif init == "identity":
        parameters = constraint.equal_rows_by_keys(rows_key, raw_key, shape, dtype)
    else:
        parameters = constraint.rotation_by_keys(
            init, rows_key, raw_key, *other, shape, dtype
        )
    return parameters if sigma is None else constraint.at_sigma(parameters, sigma)


@functools.partial(jax.jit, static_argnums=0)
def _decomposed(constraint, matrix):
    return constraint.decompose(matrix)


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def _dense(init, shape, key, dtype):
    if init == "orthogonal":
        wide = householder.factor_dtype(dtype)  # LAPACK has no narrower one
        return jax.nn.initializers.orthogonal()(key, shape, wide).astype(dtype)
    return Free().random(key, shape, dtype)["w"]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 4))
def _skew_entries(n, init, map, key, dtype):
    wide = householder.factor_dtype(dtype)
    angles = initializers.rotation_angles(key, n, init, wide)
    return skew.skew_entries(skew.block_skew(angles, n, map)).astype(dtype)


def _check_init(init: Any, allowed: tuple[str, ...], more: str = "") -> str:
    """The name of a first matrix."""
    if not isinstance(init, str) or init not in allowed:
        also = f" {more}" if more else ""
        raise ValueError(
            f"init must be one of {', '.join(allowed)}{also}, got {init!r}"
        )
    return init
