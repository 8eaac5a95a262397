"""Matrices W = U Sigma V^T with U and V products of reflectors: pure functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from svdrnn import checks, householder
from svdrnn._types import AnyArray, Count, Number
from svdrnn.householder import matmul

Reflectors = Count | tuple[Count, Count] | list[Count] | None


def reflector_counts(
    reflectors: Reflectors, n_out: int, n_in: int, name: str = "reflectors"
) -> tuple[int, int]:
    """(m1, m2), the reflectors of U (n_out) and of V (n_in).

    Args:
      reflectors: one number for both sides, capped at min(n_out, n_in), which already
        reaches every matrix; a pair (m1, m2), taken literally; None for that cap.
      n_out: rows of W.
      n_in: columns of W.
      name: what errors call the number.

    Raises:
      ValueError: for anything else, a number below 1, or a pair larger than
        (n_out, n_in).
    """
    full = min(n_out, n_in)
    if reflectors is None:
        return full, full
    if not isinstance(reflectors, (tuple, list)):
        both = min(checks.check_integer(name, reflectors), full)
        return both, both
    if len(reflectors) != 2:
        raise ValueError(f"{name} must be a number, a pair or None, got {reflectors!r}")
    for side, count, limit in zip("UV", reflectors, (n_out, n_in), strict=True):
        if checks.check_integer(f"{name} of {side}", count) > limit:
            raise ValueError(
                f"{name} of {side} must be at most {limit}, the length of its vectors,"
                f" got {count}"
            )
    m1, m2 = map(int, reflectors)
    return m1, m2


def bounded_singular_values(
    raw: Float[AnyArray, "..."], *, radius: Number, center: Number = 1.0
) -> Float[Array, "..."]:
    """Singular values inside [center - radius, center + radius], to rounding.

    sigma = 2 radius (sigmoid(raw) - 1/2) + center = radius tanh(raw / 2) + center.

    Args:
      raw: any shape, unconstrained; 0 gives `center`.
      radius: number >= 0; 0 freezes every value at `center`.
      center: finite number.

    Returns:
      The shape and dtype of `raw`.

    Raises:
      ValueError: raw is not floating; radius negative or not finite; center not
        finite.
    """
    raw = jnp.asarray(raw)
    checks.check_floating("raw", raw)
    radius = checks.check_finite("radius", radius, least=0)
    center = checks.check_finite("center", center)
    wide = raw.astype(householder.factor_dtype(raw.dtype))
    return (radius * jnp.tanh(wide / 2) + center).astype(raw.dtype)


def check_interval(radius: Number, center: Number) -> tuple[float, float]:
    """Radius and center of an interval of singular values, as floats.

    Raises:
      ValueError: they are not finite, the radius is negative, or both are zero.
    """
    radius = checks.check_finite("radius", radius, least=0)
    center = checks.check_finite("center", center)
    if radius == center == 0:
        raise ValueError(
            "radius and center must not both be 0, W would be 0, got"
            f" {radius} and {center}"
        )
    return radius, center


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SVD:
    """Parameters of W = U Sigma V^T (n_out, n_in), a pytree.

    Attributes:
      u_vectors: (m1, n_out), reflectors of U, m1 <= n_out.
      v_vectors: (m2, n_in), reflectors of V, m2 <= n_in.
      sigma: (min(n_out, n_in),), diagonal of Sigma; the singular values of W are its
        magnitudes.

    Shapes are checked by the functions that take an SVD, not here, so that it can
    hold batches under `jax.vmap` and gradients.
    """

    u_vectors: Float[AnyArray, "m1 n_out"]
    v_vectors: Float[AnyArray, "m2 n_in"]
    sigma: Float[AnyArray, " smaller"]

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        return self.u_vectors.shape[-1], self.v_vectors.shape[-1]


def validate(svd: SVD) -> SVD:
    """The SVD with JAX arrays as leaves; ValueError unless shapes and dtypes fit."""
    svd = jax.tree.map(jnp.asarray, svd)
    householder.check_vectors("u_vectors", svd.u_vectors)
    householder.check_vectors("v_vectors", svd.v_vectors)
    checks.check_floating("sigma", svd.sigma)
    n_out, n_in = svd.shape
    if svd.sigma.shape != (min(n_out, n_in),):
        raise ValueError(
            f"sigma must have shape ({min(n_out, n_in)},), as W is ({n_out}, {n_in}), "
            f"got {svd.sigma.shape}"
        )
    return svd


def singular_values(
    w: SVD | Float[AnyArray, "n_out n_in"],
) -> Float[Array, "*stack smaller"]:
    """Singular values of a matrix in descending order, (min(n_out, n_in),).

    Args:
      w: an `SVD`, whose sigma has them up to their signs (cost n log n), or a dense
        matrix, which is decomposed (cost n^3; bfloat16 and float16 in float32).

    Raises:
      ValueError: w is neither an SVD nor a floating matrix with entries.
    """
    if isinstance(w, SVD):
        return -jnp.sort(-jnp.abs(w.sigma))
    matrix = _checked_matrix(w)
    wide = matrix.astype(householder.factor_dtype(matrix.dtype))
    return jnp.linalg.svd(wide, compute_uv=False).astype(matrix.dtype)


def _checked_matrix(w):
    w = jnp.asarray(w)
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"w must be a matrix with entries, got shape {w.shape}")
    checks.check_floating("w", w)
    return w


def _check_square(svd, what):
    n_out, n_in = svd.shape
    if n_out != n_in:
        raise ValueError(f"{what} needs a square matrix, got shape ({n_out}, {n_in})")


def _dtype(svd):
    return jnp.result_type(svd.u_vectors, svd.v_vectors, svd.sigma)


def _cast(svd, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), svd)


def _resize(x, size):
    """Truncates or zero-pads the last axis to `size`."""
    if x.shape[-1] >= size:
        return x[..., :size]
    widths = [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])]
    return jnp.pad(x, widths)


def _sandwich(left, diagonal, right, x, method, invert=lambda sigma: sigma):
    """left diag(invert(diagonal)) right^T x, each side by its reflectors."""
    dtype = jnp.result_type(left, diagonal, right, x)
    # Rounded to a narrow dtype once, at the end.
    wide = householder.factor_dtype(dtype)
    left, diagonal, right, x = (a.astype(wide) for a in (left, diagonal, right, x))
    diagonal = invert(diagonal)
    z = householder.apply_reflectors(right, x, transpose=True, method=method)
    z = _resize(z, diagonal.shape[0]) * diagonal.reshape((1,) * (z.ndim - 1) + (-1,))
    z = _resize(z, left.shape[1])
    return householder.apply_reflectors(left, z, method=method).astype(dtype)


def _check_last_axis(name, x, size):
    x = jnp.asarray(x)
    checks.check_floating(name, x)
    if x.ndim == 0 or x.shape[-1] != size:
        raise ValueError(f"{name} must have shape (..., {size}), got {x.shape}")
    return x


def apply(
    svd: SVD, x: Float[AnyArray, "*batch n_in"], *, method: str = "auto"
) -> Float[Array, "*batch n_out"]:
    """W x for every vector of a batch: x (..., n_in) -> (..., n_out).

    Cost: 4 (m1 n_out + m2 n_in) flops a vector, and the factors of
    `householder.apply_reflectors` once.

    Raises:
      ValueError: shapes or dtypes that do not fit, unknown method.
    """
    svd = validate(svd)
    x = _check_last_axis("x", x, svd.shape[1])
    return _sandwich(svd.u_vectors, svd.sigma, svd.v_vectors, x, method)


def apply_transpose(
    svd: SVD, y: Float[AnyArray, "*batch n_out"], *, method: str = "auto"
) -> Float[Array, "*batch n_in"]:
    """W^T y for every vector of a batch: y (..., n_out) -> (..., n_in).

    Cost and errors as for `apply`.
    """
    svd = validate(svd)
    y = _check_last_axis("y", y, svd.shape[0])
    return _sandwich(svd.v_vectors, svd.sigma, svd.u_vectors, y, method)


def inverse_apply(
    svd: SVD, y: Float[AnyArray, "*batch n"], *, method: str = "auto"
) -> Float[Array, "*batch n"]:
    """W^{-1} y = V Sigma^{-1} U^T y of a square W: y (..., n) -> (..., n).

    Cost as for `apply`.

    Raises:
      ValueError: as for `apply`; W is not square; a sigma is zero (checked where
        its values are known, outside of `jit`; otherwise the result is not finite).
    """
    svd = validate(svd)
    _check_square(svd, "inverse_apply")
    y = _check_last_axis("y", y, svd.shape[0])
    if not checks.is_traced(svd.sigma):
        zeros = np.flatnonzero(np.asarray(svd.sigma) == 0)
        if zeros.size:
            raise ValueError(
                f"inverse_apply needs non-zero sigma, got 0 at index {zeros[0]}; "
                "pseudo_inverse_apply takes zeros"
            )
    return _sandwich(
        svd.v_vectors, svd.sigma, svd.u_vectors, y, method, lambda sigma: 1 / sigma
    )


def pseudo_inverse_apply(
    svd: SVD, y: Float[AnyArray, "*batch n_out"], *, method: str = "auto"
) -> Float[Array, "*batch n_in"]:
    """W^+ y = V Sigma^+ U^T y: y (..., n_out) -> (..., n_in).

    Zero sigma stay zero; a tiny one is inverted as it is. Cost and errors as for
    `apply`.
    """
    svd = validate(svd)
    y = _check_last_axis("y", y, svd.shape[0])

    def invert(sigma):
        zero = sigma == 0
        return jnp.where(zero, 0, 1 / jnp.where(zero, 1, sigma))

    return _sandwich(svd.v_vectors, svd.sigma, svd.u_vectors, y, method, invert)


def materialize(
    svd: SVD, *, method: str = "auto", custom_backward: bool = True
) -> Float[Array, "n_out n_in"]:
    """The dense matrix W = U Sigma V^T, (n_out, n_in).

    The orthogonal factor of the smaller side, scaled, and the reflectors of the
    larger side applied to it.

    Args:
      svd: the parameters.
      method: as for `householder.orthogonal_matrix`.
      custom_backward: False for forward mode, as for
        `householder.orthogonal_matrix`.

    Cost: with n the smaller and N the larger side, m and M reflectors: about
    2 m n^2 + 4 M N n flops (4/3 n^3 + 2 N n^2 at m = n, M = N = n).

    Raises:
      ValueError: shapes or dtypes that do not fit, unknown method.
    """
    svd = validate(svd)
    dtype = _dtype(svd)
    svd = _cast(svd, householder.factor_dtype(dtype))
    small, large = svd.u_vectors, svd.v_vectors
    wide = svd.shape[0] <= svd.shape[1]
    if not wide:
        small, large = large, small
    orthogonal = householder.orthogonal_matrix(
        small, method=method, custom_backward=custom_backward
    )
    scaled = _resize(orthogonal * svd.sigma[None], large.shape[1])
    w = householder.apply_reflectors(large, scaled, method=method)
    return (w if wide else w.T).astype(dtype)


def slogdet(svd: SVD) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sign and logarithm of the magnitude of det W, for a square W.

    det W = (-1)^(non-zero reflectors) prod sigma; cost n. A zero sigma gives
    (0, -inf), as in numpy.

    Returns:
      (sign, logabsdet), scalars.

    Raises:
      ValueError: shapes or dtypes that do not fit; W is not square.
    """
    svd = validate(svd)
    _check_square(svd, "slogdet")
    of_u, of_v = (
        jnp.sum(householder.nonzero_reflectors(vectors), dtype=jnp.int32)
        for vectors in (svd.u_vectors, svd.v_vectors)
    )
    parity = (1 - 2 * ((of_u + of_v) % 2)).astype(svd.sigma.dtype)
    sign = parity * jnp.prod(jnp.sign(svd.sigma))
    return sign, jnp.sum(jnp.log(jnp.abs(svd.sigma)))


def from_matrix(w: Float[AnyArray, "n_out n_in"]) -> SVD:
    """Parameters that rebuild a matrix: materialize(from_matrix(w)) = w to rounding.

    The singular value decomposition, then Householder elimination of both factors:
    min(n_out, n_in) reflectors on either side, all of which can be trained, see
    `householder.paired_reflectors`.

    Args:
      w: (n_out, n_in), of any rank.

    Returns:
      SVD with sigma >= 0 in descending order, in the dtype of w.

    Raises:
      ValueError: w is not a floating matrix with entries or, where its values are
        known (outside of `jit`), not finite.
    """
    w = _checked_matrix(w)
    checks.check_finite_entries("w", w)
    wide = w.astype(householder.factor_dtype(w.dtype))
    u, sigma, v_transposed = jnp.linalg.svd(wide, full_matrices=False)
    u_vectors, v_vectors = householder.paired_reflectors(u, v_transposed.T)
    return _cast(SVD(u_vectors, v_vectors, sigma), w.dtype)


def diagonal_plus_low_rank(
    svd: SVD,
) -> tuple[Float[Array, " n"], Float[Array, "n k"], Float[Array, "k n"]]:
    """A square W as a diagonal and a product of two thin matrices.

    W = diag(sigma) + a c, where with U = I - Ur^T Tu Ur and V = I - Vr^T Tv Vr
    a = -[Sigma Vr^T Tv^T, Ur^T Tu] and c = [Vr; Ur Sigma V^T].

    Returns:
      sigma: (n,).
      a: (n, m2 + m1).
      c: (m2 + m1, n).

    Cost: 6 n (m1^2 + m2^2) flops or so, once; W x then costs 4 n (m1 + m2) a vector.

    Raises:
      ValueError: shapes or dtypes that do not fit; W is not square.
    """
    svd = validate(svd)
    _check_square(svd, "diagonal_plus_low_rank")
    dtype = _dtype(svd)
    svd = _cast(svd, householder.factor_dtype(dtype))
    u_rows, u_t = householder.wy_factors(svd.u_vectors)
    v_rows, v_t = householder.wy_factors(svd.v_vectors)
    u_sigma = u_rows * svd.sigma[None]
    u_sigma_v = u_sigma - matmul(matmul(matmul(u_sigma, v_rows.T), v_t.T), v_rows)
    left = matmul(v_rows.T * svd.sigma[:, None], v_t.T)
    a = -jnp.concatenate([left, matmul(u_rows.T, u_t)], axis=1)
    c = jnp.concatenate([v_rows, u_sigma_v], axis=0)
    return jnp.asarray(svd.sigma, dtype), a.astype(dtype), c.astype(dtype)
