"""Square and rectangular matrices as NNX modules: how W is parameterized.

Every parameterization offers `matrix()`, `matrix_shape`, `singular_values()` and
`num_redundant`; those that can be a recurrent transition also `transition(method)`,
which gives the form of W that `svdrnn.recurrence` applies at every step.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from svdrnn import diagnostics, householder, initializers, recurrence, skew, spectral

METHODS = ("auto", "scan", "wy", "low_rank", "dense")


def check_method(method: str) -> None:
    """Raises ValueError unless `method` names a way to apply a transition."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")


def check_positive(name: str, value: int) -> None:
    """Raises ValueError unless `value` is an integer of at least 1."""
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integer or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def check_finite(name: str, value: float, *, least=None, above=None) -> float:
    """`value` as a float; ValueError unless it is a finite number within bounds."""
    number = isinstance(value, (int, float, np.integer, np.floating))
    good = number and not isinstance(value, bool) and math.isfinite(value)
    bounds = ""
    if least is not None:
        bounds, good = f" and at least {least}", good and value >= least
    if above is not None:
        bounds, good = f" and above {above}", good and value > above
    if not good:
        raise ValueError(f"{name} must be finite{bounds}, got {value!r}")
    return float(value)


def check_real(name: str, array) -> None:
    """Raises ValueError for an array of complex numbers."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, got {array.dtype}")


def _given_matrix(init, shape, dtype):
    """A matrix given as `init`, in `dtype`; ValueError unless it fits."""
    try:
        matrix = jnp.asarray(init, dtype)
    except (TypeError, ValueError):
        raise ValueError(f"init must be a name or a matrix, got {init!r}") from None
    if matrix.shape != shape:
        raise ValueError(f"init must have shape {shape}, got {matrix.shape}")
    if not isinstance(matrix, jax.core.Tracer) and not bool(
        jnp.all(jnp.isfinite(matrix))
    ):
        raise ValueError("init must be finite, got NaN or infinite entries")
    return matrix


def reflector_counts(reflectors, n_out: int, n_in: int) -> tuple[int, int]:
    """(m1, m2), the reflectors of U (n_out) and of V (n_in).

    Args:
      reflectors: one number for both sides, capped at min(n_out, n_in), which already
        reaches every matrix; a pair (m1, m2), taken literally; None for that cap.

    Raises:
      ValueError: for anything else, a number below 1, or a pair larger than
        (n_out, n_in).
    """
    full = min(n_out, n_in)
    if reflectors is None:
        return full, full
    if isinstance(reflectors, (tuple, list)) and len(reflectors) == 2:
        for side, count, limit in zip(
            ("U", "V"), reflectors, (n_out, n_in), strict=True
        ):
            check_positive(f"reflectors of {side}", count)
            if count > limit:
                raise ValueError(
                    f"reflectors of {side} must be at most {limit}, the length of "
                    f"its vectors, got {count}"
                )
        return tuple(reflectors)
    if isinstance(reflectors, (tuple, list)):
        raise ValueError(
            f"reflectors must be a number, a pair or None, got {reflectors!r}"
        )
    check_positive("reflectors", reflectors)
    return min(reflectors, full), min(reflectors, full)


def prefers_low_rank(n: int, reflectors: int) -> bool:
    """Whether diagonal plus low rank beats a dense transition of size n.

    Counted flops of a training step, per item and time step: 12 n k against 6 n^2 with
    k reflectors in total, hence k < n/2. Thin products run at a lower rate than
    square ones, which moves the border to k <= n/3.
    """
    return 3 * reflectors <= n


class SpectralMatrix(nnx.Module):
    """W = U Sigma V^T (n_out, n_in) with singular values held in an interval.

    U and V are products of m1 and m2 Householder reflectors, and
    sigma_i = 2 radius (sigmoid(raw_i) - 1/2) + center, in [center - radius,
    center + radius]. With radius 0 sigma is frozen and has no parameters (oRNN,
    Mhammedi et al., 2017).

    Parameters: `u_vectors` (m1, n_out), `v_vectors` (m2, n_in), `sigma_raw`
    (min(n_out, n_in),). Entries of the vectors below the upper trapezoid are stored as
    zeros, never matter and get zero gradients.

    Args:
      n_in, n_out: the shape of W.
      reflectors: see `reflector_counts`.
      radius: r >= 0.
      center: sigma*; 0 is meant for residual branches, and then sigma_raw starts at
        N(0, 1) instead of 0.
      init: `"random"` (rows N(0, 1/n), independent for U and V); `"identity"`
        (equal rows, so that W = center * I; square with m1 = m2 only); `"henaff"` or
        `"cayley"` (W = center * R with R a rotation of planes of two coordinates by
        random angles, see `initializers.rotation_angles`; square with n reflectors
        on each side only); or a matrix of shape (n_out, n_in), which needs
        min(n_out, n_in) reflectors on each side. Where that matrix needs no reflection
        its row is zero, and a zero row has no gradient: a matrix close to the identity
        is better started as `"identity"`.
      param_dtype: dtype of the parameters.
      rngs: its `params` stream draws the initial values.

    Raises:
      ValueError: for sizes, counts, radius, center or init out of range, and for a
        given matrix with a singular value not strictly inside the interval.
    """

    INITS = ("random", "identity", *initializers.BLOCK_ROTATIONS)

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        reflectors,
        radius: float,
        center: float = 1.0,
        init: str | jax.Array = "random",
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_positive("n_in", n_in)
        check_positive("n_out", n_out)
        m1, m2 = reflector_counts(reflectors, n_out, n_in)
        radius = check_finite("radius", radius, least=0)
        center = check_finite("center", center)
        if radius == 0 and center == 0:
            raise ValueError("radius and center must not both be 0: W would be 0")
        self.n_in, self.n_out = n_in, n_out
        self.radius, self.center = radius, center
        if isinstance(init, str):
            u, v, raw = self._named_init(init, m1, m2, param_dtype, rngs)
        else:
            u, v, raw = self._matrix_init(init, m1, m2, param_dtype)
        self.u_vectors = nnx.Param(u)
        self.v_vectors = nnx.Param(v)
        self.sigma_raw = nnx.Param(raw) if radius > 0 else None

    def _named_init(self, init, m1, m2, dtype, rngs):
        if init not in self.INITS:
            raise ValueError(
                f"init must be one of {', '.join(self.INITS)} or a matrix, got {init!r}"
            )
        u = initializers.reflector_rows(rngs.params(), (m1, self.n_out), dtype)
        size = min(self.n_out, self.n_in)
        raw = initializers.raw_singular_values(rngs.params(), size, self.center, dtype)
        if init == "random":
            v = initializers.reflector_rows(rngs.params(), (m2, self.n_in), dtype)
            return u, v, raw
        if init in initializers.BLOCK_ROTATIONS:
            n = self.n_in
            if not self.n_out == m1 == m2 == n:
                raise ValueError(
                    f"init {init!r} needs a square matrix with n reflectors in U and "
                    f"in V, got shape ({self.n_out}, {n}), reflectors {m1}, {m2}"
                )
            wide = householder.factor_dtype(dtype)
            angles = initializers.rotation_angles(rngs.params(), n, init, wide)
            return initializers.rotated_rows(u, angles), u, raw
        if self.n_out != self.n_in or m1 != m2:
            raise ValueError(
                "init 'identity' needs a square matrix with equally many reflectors in "
                f"U and V, got shape ({self.n_out}, {self.n_in}), reflectors {m1}, {m2}"
            )
        # A copy: two parameters must not share one buffer.
        return u, jnp.array(u), raw

    def _matrix_init(self, matrix, m1, m2, dtype):
        matrix = _given_matrix(matrix, (self.n_out, self.n_in), dtype)
        full = min(self.n_out, self.n_in)
        if m1 < full or m2 < full:
            raise ValueError(
                f"init from a matrix needs {full} reflectors on each side, got "
                f"{m1} and {m2}"
            )
        # A negative center holds W = (-U) |Sigma| V^T with the signs moved to Sigma.
        sign = -1.0 if self.center < 0 else 1.0
        svd = spectral.from_matrix(sign * matrix)
        raw = initializers.raw_from_singular_values(
            sign * svd.sigma, radius=self.radius, center=self.center
        )
        # Zero rows are reflectors that do nothing; they only fill up to m1 and m2.
        u = jnp.pad(svd.u_vectors, ((0, m1 - full), (0, 0)))
        v = jnp.pad(svd.v_vectors, ((0, m2 - full), (0, 0)))
        return u, v, raw

    @property
    def matrix_shape(self) -> tuple[int, int]:
        return self.n_out, self.n_in

    def sigma(self) -> jax.Array:
        """Sigma's diagonal, (min(n_out, n_in),)."""
        if self.sigma_raw is None:
            dtype = self.u_vectors[...].dtype
            return jnp.full((min(self.n_out, self.n_in),), self.center, dtype)
        return spectral.bounded_singular_values(
            self.sigma_raw[...], radius=self.radius, center=self.center
        )

    def svd(self) -> spectral.SVD:
        """The parameters as the pytree that `svdrnn.spectral` works on."""
        return spectral.SVD(self.u_vectors[...], self.v_vectors[...], self.sigma())

    def matrix(self) -> jax.Array:
        """W, (n_out, n_in)."""
        return spectral.materialize(self.svd())

    def singular_values(self) -> jax.Array:
        """Singular values of W in descending order, without decomposing it."""
        return diagnostics.singular_values(self.svd())

    def transition(self, method: str = "auto", *, custom_backward: bool = True):
        """W as a recurrent transition, built once a sequence (square W only).

        `low_rank` and `dense` are the fast forms, and `auto` picks between them
        (`prefers_low_rank`). `scan` and `wy` apply the factors at every step.
        """
        check_method(method)
        if self.n_in != self.n_out:
            raise ValueError(
                f"a transition must be square, got shape {self.matrix_shape}"
            )
        svd = self.svd()
        if method == "auto":
            reflectors = svd.u_vectors.shape[0] + svd.v_vectors.shape[0]
            method = "low_rank" if prefers_low_rank(self.n_in, reflectors) else "dense"
        if method == "low_rank":
            factors = spectral.diagonal_plus_low_rank(svd)
            return recurrence.DiagonalPlusLowRank(*factors)
        if method == "dense":
            w = spectral.materialize(svd, custom_backward=custom_backward)
            return recurrence.Dense(w)
        return recurrence.Factored(svd, method)

    @property
    def num_redundant(self) -> int:
        """Stored entries below the trapezoids, which no result depends on.

        Of a stack of matrices, with leading axes on every parameter, those of all.
        """
        *stack, m1, _ = self.u_vectors.shape
        m2 = self.v_vectors.shape[-2]
        return math.prod(stack) * (m1 * (m1 - 1) + m2 * (m2 - 1)) // 2


class DenseMatrix(nnx.Module):
    """An unconstrained square W: the parameter is the matrix.

    Args:
      n: size of W.
      init: `"lecun_normal"`, `"orthogonal"`, `"identity"` or an (n, n) matrix.
      param_dtype: dtype of the parameter.
      rngs: its `params` stream draws the initial value.

    Raises:
      ValueError: for a size below 1, an unknown name or a matrix of another shape.
    """

    INITS = ("lecun_normal", "orthogonal", "identity")

    def __init__(
        self,
        n: int,
        *,
        init: str | jax.Array = "lecun_normal",
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_positive("n", n)
        if isinstance(init, str):
            if init not in self.INITS:
                raise ValueError(
                    f"init must be one of {', '.join(self.INITS)} or a matrix, "
                    f"got {init!r}"
                )
            if init == "identity":
                w = jnp.eye(n, dtype=param_dtype)
            else:
                draw = getattr(jax.nn.initializers, init)()
                w = draw(rngs.params(), (n, n), param_dtype)
        else:
            w = _given_matrix(init, (n, n), param_dtype)
        self.w = nnx.Param(w)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        return self.w.shape

    def matrix(self) -> jax.Array:
        """W, (n, n)."""
        return self.w[...]

    def singular_values(self) -> jax.Array:
        """Singular values of W in descending order; an n^3 decomposition."""
        return diagnostics.singular_values(self.matrix())

    def transition(self, method: str = "auto", *, custom_backward: bool = True):
        """W as a recurrent transition; there is only the dense form."""
        del custom_backward
        if method not in ("auto", "dense"):
            raise ValueError(
                f"method of an unconstrained transition must be auto or dense, "
                f"got {method!r}"
            )
        return recurrence.Dense(self.matrix())

    @property
    def num_redundant(self) -> int:
        return 0


class OrthogonalMatrix(nnx.Module):
    """W = f(A) D, orthogonal: f the exponential (expRNN) or the Cayley map (scoRNN).

    A is skew-symmetric and D a fixed diagonal of signs, +1 and then -1. With the
    exponential, W reaches every rotation (D changes the sign of the determinant where
    the number of -1 is odd); with the Cayley map, every W for which W D has no
    eigenvalue -1, which is why scoRNN has a D. All singular values are 1.

    Parameters: `skew_entries` (n (n - 1) / 2,), A above its diagonal, row after row.

    Args:
      n: size of W.
      map: `"exponential"` or `"cayley"`.
      negative_fraction: share of -1 in D, in [0, 1]; n of them are rounded.
      init: W D at the start: `"henaff"` or `"cayley"`, a rotation of planes of two
        coordinates by random angles, see `initializers.rotation_angles`; or
        `"identity"`, A = 0. Under the Cayley map an angle t needs an entry
        -tan(t / 2): Henaff's angles near pi give large ones, which move slowly.
      param_dtype: dtype of the parameters.
      rngs: its `params` stream draws the initial values.

    Raises:
      ValueError: for a size below 1, an unknown name or a fraction out of range.

    Source: Lezcano-Casado and Martinez-Rubio (2019); Helfrich, Willmott and Ye (2018).
    """

    INITS = (*initializers.BLOCK_ROTATIONS, "identity")

    def __init__(
        self,
        n: int,
        *,
        map: str = "exponential",
        negative_fraction: float = 0.0,
        init: str = "henaff",
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_positive("n", n)
        skew.check_map(map)
        fraction = check_finite("negative_fraction", negative_fraction, least=0)
        if fraction > 1:
            raise ValueError(f"negative_fraction must be at most 1, got {fraction}")
        if not isinstance(init, str) or init not in self.INITS:
            raise ValueError(
                f"init must be one of {', '.join(self.INITS)}, got {init!r}"
            )
        self.n, self.map = n, map
        self.num_negative = round(fraction * n)
        if init == "identity":
            entries = jnp.zeros((n * (n - 1) // 2,), param_dtype)
        else:
            wide = householder.factor_dtype(param_dtype)
            angles = initializers.rotation_angles(rngs.params(), n, init, wide)
            entries = skew.skew_entries(skew.block_skew(angles, n, map))
        self.skew_entries = nnx.Param(entries.astype(param_dtype))

    @property
    def matrix_shape(self) -> tuple[int, int]:
        return self.n, self.n

    def matrix(self) -> jax.Array:
        """W, (n, n)."""
        a = skew.skew_matrix(self.skew_entries[...])
        positive = jnp.arange(self.n) < self.n - self.num_negative
        w = skew.rotation(a, self.map)
        return jnp.where(positive, w, -w)

    def singular_values(self) -> jax.Array:
        """Singular values of W, (n,): ones."""
        return jnp.ones((self.n,), self.skew_entries[...].dtype)

    def transition(self, method: str = "auto", *, custom_backward: bool = True):
        """W as a recurrent transition, built once a sequence; only a dense form."""
        del custom_backward
        if method not in ("auto", "dense"):
            raise ValueError(
                f"method of an orthogonal transition must be auto or dense, "
                f"got {method!r}"
            )
        return recurrence.Dense(self.matrix())

    @property
    def num_redundant(self) -> int:
        return 0
