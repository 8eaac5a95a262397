"""What can be asked of a matrix, and parameters that never leave it: pure functions.

A `Constraint` says all there is to say of a parameterization: which matrices W
(n_out, n_in) are allowed, how W is made from free parameters, which parameters give a
W, with which W to start, and how a recurrence applies it. It knows nothing of layers:
`svdrnn.matrices` holds one with its parameters as a module, `svdrnn.kernels` puts one
in the place of a flax kernel, `svdrnn.trees` in the place of a leaf of any tree of
parameters.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key

from svdrnn import householder, initializers, skew, spectral, transitions
from svdrnn._types import AnyArray, Number
from svdrnn.checks import check_finite, check_name
from svdrnn.spectral import Reflectors, check_interval, reflector_counts

# Starts of a kernel: near the matrix that is there or at it, or whatever that is.
FROM_MATRIX = ("project", "strict")
FROM_NOTHING = ("random", "identity", *initializers.BLOCK_ROTATIONS)
INITS = (*FROM_MATRIX, *FROM_NOTHING)
DRAWN = ("random", *initializers.BLOCK_ROTATIONS)  # at random

# A singular value outside of the interval is put at this share of the way from the
# center to the end: the end itself has an infinite parameter, and close to it the
# gradient is that much smaller than at the center.
END = 0.99


class Constraint(abc.ABC):
    """A set of matrices W (n_out, n_in), and parameters that never leave it.

    A constraint of your own has `matrix` and `parameters`, and says what holds by
    `interval`, if that is a range of singular values, or else by `violation`. Make it
    a frozen dataclass: NNX compares and hashes it as part of a model's structure. Its
    methods see one matrix without leading axes; stacks of matrices are mapped over.

    The other methods follow from these two. A constraint that knows better, as one that
    has the singular values without decomposing W, overrides them.
    """

    @property
    def interval(self) -> tuple[float, float]:
        """Range of the singular values."""
        return 0.0, math.inf

    @property
    def fixed(self) -> tuple[str, ...]:
        """Names of parameters that are kept beside the trained ones, untrained."""
        return ()

    @abc.abstractmethod
    def matrix(
        self, parameters: Mapping[str, AnyArray], shape: tuple[int, int]
    ) -> Float[Array, "n_out n_in"]:
        """W (n_out, n_in) from its parameters, whatever their values."""

    @abc.abstractmethod
    def parameters(self, w: Float[Array, "n_out n_in"]) -> dict[str, Array]:
        """Parameters of w where it is allowed, and else of an allowed matrix near it.

        Has to work on traced arrays, so its answer may not depend on values by `if`.
        """

    def random(
        self, key: Key[Array, ""], shape: tuple[int, int], dtype: DTypeLike
    ) -> dict[str, Array]:
        """Parameters of a random matrix: here of the one near a LeCun normal W."""
        draw = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0)
        return self.parameters(draw(key, shape, dtype))

    def identity(self, shape: tuple[int, int], dtype: DTypeLike) -> dict[str, Array]:
        """Parameters of the matrix near the one with ones on its diagonal."""
        return self.parameters(jnp.eye(*shape, dtype=dtype))

    def rotation(
        self, init: str, key: Key[Array, ""], shape: tuple[int, int], dtype: DTypeLike
    ) -> dict[str, Array]:
        """Parameters of a rotation R of planes of two coordinates by random angles.

        Here of the allowed matrix near R.

        Args:
          init: the law of the angles, see `initializers.rotation_angles`.
          key: draws them.
          shape: of W, which has to be square.
          dtype: of the parameters.

        Raises:
          ValueError: W is not square.
        """
        _check_square_start(init, shape)
        wide = householder.factor_dtype(dtype)
        angles = initializers.rotation_angles(key, shape[0], init, wide)
        return self.parameters(skew.block_rotation(angles, shape[0]).astype(dtype))

    def with_sigma(
        self,
        parameters: Mapping[str, AnyArray],
        shape: tuple[int, int],
        init_sigma: Any,
    ) -> dict[str, Array]:
        """The parameters with other singular values, where those are parameters.

        Raises:
          ValueError: they are none, as here.
        """
        del parameters, shape
        raise ValueError(f"init_sigma must be None under {self}, got {init_sigma!r}")

    def violation(self, w: ArrayLike) -> float:
        """How far w (n_out, n_in) is from allowed: here its worst singular value."""
        low, high = self.interval
        sigma = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
        return float(max(0.0, low - sigma.min(), sigma.max() - high))

    def reflectors_of(self, shape: tuple[int, int]) -> tuple[int, int] | None:
        """(of U, of V), the reflectors that a matrix of this shape has, if any."""
        del shape
        return None

    def redundant(self, shape: tuple[int, int]) -> int:
        """How many stored numbers no result depends on, of a matrix of this shape."""
        del shape
        return 0

    def singular_values(
        self, parameters: Mapping[str, AnyArray], shape: tuple[int, int]
    ) -> Float[Array, "*stack smaller"]:
        """Singular values of W in descending order; here an n^3 decomposition."""
        return spectral.singular_values(self.matrix(parameters, shape))

    def transition(
        self,
        parameters: Mapping[str, AnyArray],
        shape: tuple[int, int],
        method: str = "auto",
        *,
        custom_backward: bool = True,
    ) -> transitions.Transition:
        """A square W as a recurrent transition, built once a sequence.

        Args:
          parameters: of W.
          shape: of W.
          method: here `dense` or `auto`, see `transitions.from_matrix`.
          custom_backward: False for forward mode through the building of W, where
            there is another way to build it.

        Returns:
          The form in float32, or in float64 where the parameters are: rounded to fewer
          digits, W would leave what the constraint allows.

        Raises:
          ValueError: another method; W is not square.
        """
        del custom_backward
        wide = {name: _widened(value) for name, value in parameters.items()}
        return transitions.from_matrix(self.matrix(wide, shape), method)


def largest_violation(constraint: Constraint, matrices: ArrayLike) -> float:
    """The largest violation of a stack of matrices (..., n_out, n_in).

    Measured by numpy in float64, on the matrices themselves and not on parameters.
    """
    stack = np.asarray(matrices, np.float64)
    if not np.all(np.isfinite(stack)):
        return math.inf
    flat = stack.reshape(-1, *stack.shape[-2:])
    return max((float(constraint.violation(w)) for w in flat), default=0.0)


def _check_square_start(init: str, shape: tuple[int, int]) -> None:
    """Raises ValueError unless W is square, for a start that has to be."""
    if shape[0] != shape[1]:
        raise ValueError(f"init {init!r} needs a square matrix, got shape {shape}")


def check_no_sigma(init_sigma: Any) -> None:
    """Raises ValueError for first singular values beside those of a matrix."""
    if init_sigma is not None:
        raise ValueError(
            f"init_sigma must be None where a matrix is the start, got {init_sigma!r}"
        )


@dataclasses.dataclass(frozen=True)
class Free(Constraint):
    """Every W: the parameter is the matrix.

    Parameters: `w` (n_out, n_in).
    """

    def matrix(self, parameters, shape):
        """W (n_out, n_in)."""
        del shape
        return parameters["w"]

    def parameters(self, w):
        """W itself."""
        return {"w": w}

    def violation(self, w):
        """0, whatever w is."""
        del w
        return 0.0


@dataclasses.dataclass(frozen=True)
class Spectral(Constraint):
    """W = U Sigma V^T, its singular values in [center - radius, center + radius].

    U and V are products of Householder reflectors, and
    sigma_i = 2 radius (sigmoid(raw_i) - 1/2) + center. With a center of which the
    radius reaches beyond 0 a sigma_i may be negative, and the singular values are in
    [0, |center| + radius].

    Parameters: `u_vectors` (m1, n_out), `v_vectors` (m2, n_in) and, unless the radius
    is 0, `sigma_raw` (min(n_out, n_in),).

    Starting from a matrix, a singular value outside of the interval is moved to `END`
    of the way to its end; those inside are kept. Random: random reflectors, every
    sigma_i at the center (center 0: sigma_raw from N(0, 1)). Identity: sigma I with
    the sigma of the interval nearest to 1 (of a negative center, to -1). Rotation:
    center R of a square W with all reflectors. U and V have no derivative where
    singular values are equal, so a start from a matrix refuses to be differentiated.

    Args:
      radius: r >= 0.
      center: sigma*.
      reflectors: a number, a pair (m1, m2), or None for as many as reach every matrix;
        see `reflector_counts`. Fewer cannot start from a matrix.
      custom_backward: False allows forward mode (`jax.jvp`), as for
        `householder.orthogonal_matrix`.

    Cost: that of `spectral.materialize`.

    Raises:
      ValueError: for a radius or center out of range, or both 0; where a matrix is
        asked for, for reflectors that do not fit it, or where it is differentiated.

    Source: Zhang, Lei and Dhillon, "Stabilizing Gradients for Deep Neural Networks via
    Efficient SVD Parameterization", 2018.
    """

    radius: Number
    center: Number = 1.0
    reflectors: Reflectors = None
    custom_backward: bool = dataclasses.field(default=True, repr=False, kw_only=True)

    def __post_init__(self):
        radius, center = check_interval(self.radius, self.center)
        object.__setattr__(self, "radius", radius)
        object.__setattr__(self, "center", center)
        if isinstance(self.reflectors, list):
            object.__setattr__(self, "reflectors", tuple(self.reflectors))

    @property
    def interval(self) -> tuple[float, float]:
        """[max(0, |center| - radius), |center| + radius]."""
        radius, size = float(self.radius), abs(float(self.center))
        return max(0.0, size - radius), size + radius

    def reflectors_of(self, shape):
        """(m1, m2)."""
        return reflector_counts(self.reflectors, *shape)

    def redundant(self, shape):
        """The entries of the vectors below their upper trapezoids."""
        return sum(m * (m - 1) // 2 for m in self.reflectors_of(shape))

    def sigma(
        self,
        parameters: Mapping[str, AnyArray],
        shape: tuple[int, int],
        dtype: DTypeLike | None = None,
    ) -> Float[Array, "*stack smaller"]:
        """Sigma's diagonal, whose magnitudes are the singular values.

        Args:
          parameters: of W.
          shape: of W.
          dtype: in which it is computed; None is that of the parameters.
        """
        if self.radius == 0:
            u = parameters["u_vectors"]
            size = (*u.shape[:-2], min(shape))
            return jnp.full(size, self.center, u.dtype if dtype is None else dtype)
        raw = parameters["sigma_raw"]
        return spectral.bounded_singular_values(
            raw if dtype is None else raw.astype(dtype),
            radius=self.radius,
            center=self.center,
        )

    def svd(
        self,
        parameters: Mapping[str, AnyArray],
        shape: tuple[int, int],
        dtype: DTypeLike | None = None,
    ) -> spectral.SVD:
        """The parameters as the pytree that `svdrnn.spectral` works on.

        Args:
          parameters: of W.
          shape: of W.
          dtype: of its leaves; None is that of the parameters. A wider one keeps sigma,
            and gradients to it, from being rounded to a narrow one.
        """
        u, v = parameters["u_vectors"], parameters["v_vectors"]
        sigma = self.sigma(parameters, shape, dtype)
        if dtype is None:
            return spectral.SVD(u, v, sigma)
        return spectral.SVD(u.astype(dtype), v.astype(dtype), sigma)

    def matrix(self, parameters, shape):
        """W = U Sigma V^T, (n_out, n_in)."""
        return spectral.materialize(
            self.svd(parameters, shape), custom_backward=self.custom_backward
        )

    def singular_values(self, parameters, shape):
        """The magnitudes of sigma in descending order."""
        return spectral.singular_values(self.svd(parameters, shape))

    def transition(self, parameters, shape, method="auto", *, custom_backward=True):
        """W as a recurrent transition, in float32, or in float64 where parameters are.

        Args:
          parameters: of W.
          shape: of W.
          method: one of `transitions.METHODS`, see `transitions.from_svd`.
          custom_backward: False, here or of the constraint, is for forward mode.

        Raises:
          ValueError: an unknown method; W is not square.
        """
        dtype = householder.factor_dtype(parameters["u_vectors"].dtype)
        return transitions.from_svd(
            self.svd(parameters, shape, dtype),
            method,
            custom_backward=custom_backward and self.custom_backward,
        )

    def decompose(self, w: Float[Array, "n_out n_in"]) -> spectral.SVD:
        """W = U Sigma V^T with all reflectors and its singular values as they are.

        A negative center holds W = (-U) |Sigma| V^T with the signs moved to Sigma.

        Raises:
          ValueError: for too few reflectors.
        """
        full = min(w.shape)
        self._check_all_reflectors(
            w.shape, f"to start from a matrix of shape {w.shape}"
        )
        m1, m2 = self.reflectors_of(w.shape)
        sign = -1.0 if self.center < 0 else 1.0
        svd = spectral.from_matrix(sign * w)
        # Zero rows are reflectors that do nothing; they only fill up to m1 and m2.
        u = jnp.pad(svd.u_vectors, ((0, m1 - full), (0, 0)))
        v = jnp.pad(svd.v_vectors, ((0, m2 - full), (0, 0)))
        return spectral.SVD(u, v, sign * svd.sigma)

    def parameters_of(self, svd: spectral.SVD, dtype: DTypeLike) -> dict[str, Array]:
        """The parameters of a W whose factors are known.

        Raises:
          ValueError: a singular value not strictly inside the interval, where its value
            is known (outside of `jit`).
        """
        u, v = svd.u_vectors.astype(dtype), svd.v_vectors.astype(dtype)
        return self._named(u, v, self._raw(svd.sigma).astype(dtype))

    def parameters(self, w):
        """Of w with its singular values moved into the interval."""
        wide = _undifferentiated(self, w).astype(householder.factor_dtype(w.dtype))
        return self.parameters_of(self._moved_inside(self.decompose(wide)), w.dtype)

    def random(self, key, shape, dtype):
        """Random reflectors, every sigma_i at the center."""
        u_key, v_key, raw_key = jax.random.split(key, 3)
        return self.random_by_keys(u_key, v_key, raw_key, shape, dtype)

    def identity(self, shape, dtype):
        """U = V from rows e_k, with any number of reflectors, and equal sigma_i."""
        m = self._equal_count(shape)
        wide = householder.factor_dtype(dtype)
        sigma = jnp.full((min(shape),), -1.0 if self.center < 0 else 1.0, wide)
        u, v = (jnp.eye(m, n, dtype=wide) for n in shape)
        svd = self._moved_inside(spectral.SVD(u, v, sigma))
        return self.parameters_of(svd, dtype)

    def rotation(self, init, key, shape, dtype):
        """W = center R, see `rotation_by_keys`."""
        rows_key, raw_key, angles_key = jax.random.split(key, 3)
        return self.rotation_by_keys(init, rows_key, raw_key, angles_key, shape, dtype)

    def with_sigma(self, parameters, shape, init_sigma):
        """The parameters with given singular values, in turn.

        Raises:
          ValueError: for no number, more than there are singular values, and numbers
            not strictly inside the interval.
        """
        return self.at_sigma(parameters, self.checked_sigma(init_sigma, shape))

    def checked_sigma(self, init_sigma, shape):
        """Given singular values, in turn, as an array; see `with_sigma`."""
        size = min(shape)
        values = _numbers(init_sigma)
        fit = values is not None and 1 <= values.size <= size
        low, high = self.center - self.radius, self.center + self.radius
        if fit := fit and np.all((low < values) & (values < high)):
            try:
                interval = {"radius": self.radius, "center": self.center}
                initializers.check_inside(values, **interval)
            except ValueError:  # of values as JAX rounds them
                fit = False
        if not fit:
            raise ValueError(
                f"init_sigma must be None or 1 to {size} numbers strictly between"
                f" {low:g} and {high:g} (center {self.center:g}, radius"
                f" {self.radius:g}), also once rounded, got {init_sigma!r}"
            )
        return np.resize(values, size)

    def at_sigma(self, parameters, sigma):
        """The parameters with singular values strictly inside the interval."""
        dtype = parameters["u_vectors"].dtype
        return {**parameters, "sigma_raw": self._raw(sigma).astype(dtype)}

    # A module draws its keys from a stream, one after another, and a kernel splits one
    # key. The starts themselves are the same. `raw_key` draws sigma_raw, which is
    # random where the center is 0.

    def random_by_keys(
        self,
        u_key: Key[Array, ""],
        v_key: Key[Array, ""],
        raw_key: Key[Array, ""],
        shape: tuple[int, int],
        dtype: DTypeLike,
    ) -> dict[str, Array]:
        """Independent random reflectors of U and V, every sigma_i at the center."""
        m1, m2 = self.reflectors_of(shape)
        u = initializers.reflector_rows(u_key, (m1, shape[0]), dtype)
        v = initializers.reflector_rows(v_key, (m2, shape[1]), dtype)
        return self._at_center(u, v, raw_key)

    def rotation_by_keys(
        self,
        init: str,
        rows_key: Key[Array, ""],
        raw_key: Key[Array, ""],
        angles_key: Key[Array, ""],
        shape: tuple[int, int],
        dtype: DTypeLike,
    ) -> dict[str, Array]:
        """W = center R: random rows of V, and those of U that make R of them.

        Raises:
          ValueError: W is not square, or there are too few reflectors.
        """
        _check_square_start(init, shape)
        self._check_all_reflectors(shape, f"for init {init!r}")
        v = initializers.reflector_rows(rows_key, shape, dtype)
        wide = householder.factor_dtype(dtype)
        angles = initializers.rotation_angles(angles_key, shape[0], init, wide)
        return self._at_center(initializers.rotated_rows(v, angles), v, raw_key)

    def equal_rows_by_keys(
        self,
        rows_key: Key[Array, ""],
        raw_key: Key[Array, ""],
        shape: tuple[int, int],
        dtype: DTypeLike,
    ) -> dict[str, Array]:
        """W = center I: equal random reflectors of U and V.

        Raises:
          ValueError: W is not square, or the reflectors are not equally many.
        """
        _check_square_start("identity", shape)
        m = self._equal_count(shape)
        u = initializers.reflector_rows(rows_key, (m, shape[0]), dtype)
        # A copy: two parameters must not share one buffer.
        return self._at_center(u, jnp.array(u), raw_key)

    def _at_center(self, u, v, raw_key):
        """Given reflectors, and every sigma_i at the center unless that is 0."""
        size = min(u.shape[1], v.shape[1])
        raw = initializers.raw_singular_values(raw_key, size, self.center, u.dtype)
        return self._named(u, v, raw)

    def _named(self, u, v, raw):
        """The parameters by name; with radius 0 there are no singular values."""
        named = {"u_vectors": u, "v_vectors": v}
        return named | {"sigma_raw": raw} if self.radius > 0 else named

    def _raw(self, sigma):
        """The sigma_raw of singular values strictly inside the interval."""
        return initializers.raw_from_singular_values(
            sigma, radius=self.radius, center=self.center
        )

    def _moved_inside(self, svd):
        """The factors with singular values outside of the interval moved to `END`."""
        away = svd.sigma - self.center
        end = self.center + END * self.radius * jnp.sign(away)
        sigma = jnp.where(jnp.abs(away) < self.radius, svd.sigma, end)
        return dataclasses.replace(svd, sigma=sigma)

    def _check_all_reflectors(self, shape, purpose):
        """Raises ValueError unless there are enough to reach every matrix."""
        m1, m2 = self.reflectors_of(shape)
        if min(m1, m2) < min(shape):
            raise ValueError(
                f"reflectors must be None or at least {min(shape)} in U and in V"
                f" {purpose} (init 'random' and 'identity' take fewer), got {m1} and"
                f" {m2}"
            )

    def _equal_count(self, shape):
        """The reflectors of U and of V; ValueError unless they are equally many."""
        m1, m2 = self.reflectors_of(shape)
        if m1 != m2:
            raise ValueError(
                f"reflectors must be equally many in U and V for init 'identity', got "
                f"{m1} and {m2}"
            )
        return m1


def _widened(value: AnyArray) -> AnyArray:
    """A parameter in the dtype in which factors are computed."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    return value.astype(householder.factor_dtype(value.dtype))


def _numbers(value: Any) -> np.ndarray | None:
    """Known numbers as a vector in float64, or None for anything else."""
    try:
        values = np.asarray(value)
    except (TypeError, ValueError):
        return None  # a tracer, or lists of several lengths
    kinds = (jnp.floating, jnp.integer)
    if not any(jnp.issubdtype(values.dtype, kind) for kind in kinds):
        return None
    return values.ravel().astype(np.float64)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _undifferentiated(constraint, w):
    """The matrix, and an error where a derivative is taken through it."""
    del constraint
    return w


@_undifferentiated.defjvp
def _undifferentiated_jvp(constraint, primals, tangents):
    del primals, tangents
    raise ValueError(
        f"kernel must not be differentiated where it is put under {constraint}: start "
        "outside of the function that is differentiated, or from "
        "jax.lax.stop_gradient(kernel)"
    )


class SpectralNorm(Spectral):
    """W with singular values in [0, at_most]: `Spectral` about the middle, at_most / 2.

    Exact at every step, without the power iteration that a division by the largest
    singular value needs.

    Args:
      at_most: c > 0.
      reflectors, custom_backward: see `Spectral`.

    Raises:
      ValueError: for an `at_most` out of range.
    """

    def __init__(
        self,
        at_most: Number,
        reflectors: Reflectors = None,
        *,
        custom_backward: bool = True,
    ):
        half = check_finite("at_most", at_most, above=0) / 2
        super().__init__(half, half, reflectors, custom_backward=custom_backward)

    def __repr__(self):
        at_most = 2 * self.radius
        return f"SpectralNorm(at_most={at_most}, reflectors={self.reflectors})"


@dataclasses.dataclass(frozen=True)
class Orthogonal(Constraint):
    """W with orthonormal rows or columns, whichever are fewer: every sigma_i is 1.

    With p the smaller and n the larger side, W or W^T is
        -H_0 H_1 ... H_{p-1} [I; 0] S   `"householder"`, p reflectors of length n
        B f(A) [I; 0]                   `"exponential"`, `"cayley"`
    where f is the map, A (n, n) is skew-symmetric, B a fixed orthogonal matrix, the
    start, so that A = 0 there, and S a fixed diagonal of signs. (The minus lets
    reflectors reach the identity without a zero row, which would never move; S does so
    for the other starts that would have one, such as -I, and is I for all others.) The
    maps reach the matrices of the determinant they start with, Cayley's those for which
    B^T W has no eigenvalue -1; householder reaches every matrix but keeps its
    determinant too as it trains.

    Parameters: `vectors` (p, n) with `signs` (p,) fixed; or `skew_entries`
    (p (2 n - p - 1) / 2,), A above its diagonal in its first p rows (the others are
    zero), with `base` B (n, n) fixed.

    Starts from the orthogonal matrix nearest to a given one, its polar factor; random
    is the polar factor of a normal matrix, which is uniform. The start can be
    differentiated.

    Args:
      map: `"householder"`, `"exponential"` or `"cayley"`.
      custom_backward: see `Spectral`; of householder only.

    Cost: householder 4 p^2 n flops or so; the maps n^3, also where p is small.

    Raises:
      ValueError: for another map.

    Source: Lezcano-Casado, "Trivializations for Gradient-Based Optimization on
    Manifolds", 2019 (the base); Helfrich, Willmott and Ye (2018).
    """

    map: str = "householder"
    custom_backward: bool = dataclasses.field(default=True, repr=False, kw_only=True)

    def __post_init__(self):
        check_name("map", self.map, ("householder", *skew.MAPS))

    @property
    def interval(self) -> tuple[float, float]:
        """[1, 1]."""
        return 1.0, 1.0

    @property
    def fixed(self) -> tuple[str, ...]:
        """The signs of householder, the base of the maps."""
        return ("signs",) if self.map == "householder" else ("base",)

    def redundant(self, shape):
        """The entries of the vectors below their upper trapezoid."""
        p = min(shape)
        return p * (p - 1) // 2 if self.map == "householder" else 0

    def singular_values(self, parameters, shape):
        """Ones."""
        name = "vectors" if self.map == "householder" else "skew_entries"
        return jnp.ones((min(shape),), parameters[name].dtype)

    def reflectors_of(self, shape):
        """p on the larger side."""
        if self.map != "householder":
            return None
        n_out, n_in = shape
        return (n_in, 0) if n_out >= n_in else (0, n_out)

    def matrix(self, parameters, shape):
        """W (n_out, n_in) with W^T W = I or W W^T = I."""
        p = min(shape)
        if self.map == "householder":
            q = _first_columns(parameters["vectors"], self.custom_backward)
            tall = -q * parameters["signs"][None]
        else:
            base, entries = parameters["base"], parameters["skew_entries"]
            n = base.shape[0]
            zeros = n * (n - 1) // 2 - entries.size
            a = skew.skew_matrix(jnp.pad(entries, (0, zeros)))
            tall = householder.matmul(base, skew.rotation(a, self.map)[:, :p])
        return tall if shape[0] >= shape[1] else tall.T

    def parameters(self, w):
        """Of the polar factor of w."""
        wide = w.astype(householder.factor_dtype(w.dtype))
        q = _polar_factor(wide if w.shape[0] >= w.shape[1] else wide.T)
        n, p = q.shape
        householder_map = self.map == "householder"
        vectors, signs = householder.signed_reflectors(-q if householder_map else q)
        if householder_map:
            return {"vectors": vectors.astype(w.dtype), "signs": signs.astype(w.dtype)}
        base = householder.orthogonal_matrix(vectors)
        base *= jnp.pad(signs, (0, n - p), constant_values=1)[None]
        return {
            "skew_entries": jnp.zeros((p * (2 * n - p - 1) // 2,), w.dtype),
            "base": base.astype(w.dtype),
        }


# By hand, because the derivative of the decomposition is not finite where singular
# values are equal, as all of them are of a matrix that is orthogonal already.
@jax.custom_jvp
def _polar_factor(w: Float[Array, "n p"]) -> Float[Array, "n p"]:
    """The orthonormal columns nearest to w, p <= n: with w = U Sigma V^T, U V^T."""
    u, _, v_transposed = jnp.linalg.svd(w, full_matrices=False)
    return householder.matmul(u, v_transposed)


@_polar_factor.defjvp
def _polar_factor_jvp(primals, tangents):
    """U X V^T + (I - U U^T) dW V Sigma^{-1} V^T, with A = U^T dW V and ...

    ... X_ij = (A - A^T)_ij / (sigma_i + sigma_j). What has no size to divide by, where
    w has not full rank and no one nearest matrix, is 0.
    """
    matmul = householder.matmul
    (w,), (dw,) = primals, tangents
    u, sigma, v_transposed = jnp.linalg.svd(w, full_matrices=False)
    dwv = matmul(dw, v_transposed.T)
    a = matmul(u.T, dwv)
    least = jnp.finfo(w.dtype).eps * sigma[0]

    def over(x, size):
        return jnp.where(size > least, x / jnp.where(size > least, size, 1), 0)

    inside = matmul(u, over(a - a.T, sigma[:, None] + sigma[None]))
    outside = over(dwv - matmul(u, a), sigma[None])
    return matmul(u, v_transposed), matmul(inside + outside, v_transposed)


def _first_columns(
    vectors: Float[Array, "p n"], custom_backward: bool
) -> Float[Array, "n p"]:
    """The first p columns (n, p) of the product of reflectors (p, n)."""
    p, n = vectors.shape
    if p == n:
        return householder.orthogonal_matrix(vectors, custom_backward=custom_backward)
    eye = jnp.eye(p, n, dtype=vectors.dtype)
    return householder.apply_reflectors(vectors, eye).T
