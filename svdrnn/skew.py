"""Orthogonal matrices from skew-symmetric ones: pure functions.

A skew-symmetric matrix A = -A^T (n, n) is stored as its n (n - 1) / 2 entries above the
diagonal, row after row. Two maps take it to a rotation, which has determinant 1:

    exponential: W = exp(A)               reaches every rotation
    Cayley:      W = (I + A)^{-1} (I - A) reaches those without an eigenvalue -1

Angles of rotation in planes of two coordinates give block-diagonal W and A. The block
of angle t is [[cos t, sin t], [-sin t, cos t]]; for odd n the last block is the number
1 in W and 0 in A.
"""

import math

import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
from jaxtyping import Array, Float

from svdrnn._types import AnyArray
from svdrnn.checks import check_floating, check_name, is_traced
from svdrnn.householder import factor_dtype

MAPS = ("exponential", "cayley")

# The 1-norm up to which the exponential is computed: JAX squares 16 times at most.
_MOST_NORM = 2e5


def _check_square(a):
    a = jnp.asarray(a)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or a.shape[0] == 0:
        raise ValueError(f"a must have shape (n, n), got {a.shape}")
    check_floating("a", a)
    return a


def _check_norm(a, most):
    """Raises ValueError where the 1-norm of a known `a` is above `most`."""
    if is_traced(a):
        return
    norm = np.max(np.sum(np.abs(np.asarray(a, np.float64)), axis=0))
    if norm > most:
        raise ValueError(f"a must have a 1-norm of at most {most:.3g}, got {norm:.3g}")


def skew_matrix(entries: Float[AnyArray, " size"]) -> Float[Array, "n n"]:
    """The skew-symmetric A (n, n) with these entries above its diagonal.

    Args:
      entries: (n (n - 1) / 2,), row after row; none at all is n = 1.

    Raises:
      ValueError: `entries` is not a floating array of such a length.
    """
    entries = jnp.asarray(entries)
    n = (1 + math.isqrt(1 + 8 * entries.size)) // 2
    if entries.ndim != 1 or n * (n - 1) // 2 != entries.size:
        raise ValueError(
            f"entries must have shape (n (n - 1) / 2,), got {entries.shape}"
        )
    check_floating("entries", entries)
    if n == 1:
        return jnp.zeros((1, 1), entries.dtype)
    # One gather, so that the gradient of an entry is g_ij - g_ji and nothing else.
    i, j = jnp.arange(n)[:, None], jnp.arange(n)[None, :]
    row, column = jnp.minimum(i, j), jnp.maximum(i, j)
    index = row * (2 * n - row - 1) // 2 + column - row - 1
    return jnp.sign(j - i).astype(entries.dtype) * entries[jnp.maximum(index, 0)]


def skew_entries(a: Float[AnyArray, "n n"]) -> Float[Array, " size"]:
    """Entries of a (n, n) above its diagonal, (n (n - 1) / 2,), row after row.

    The inverse of `skew_matrix`. Raises ValueError unless a is floating and square.
    """
    a = _check_square(a)
    return jnp.asarray(a)[np.triu_indices(a.shape[0], 1)]


def exponential(a: Float[AnyArray, "n n"]) -> Float[Array, "n n"]:
    """The rotation W = exp(A), (n, n), for skew-symmetric A.

    Args:
      a: (n, n); that it is skew-symmetric is not checked.

    Returns:
      (n, n) in the dtype of `a`; bfloat16 and float16 are computed in float32. W^T W is
      the identity up to the dtype's epsilon times the norm of A.

    Cost: by scaling and squaring, at most six products of (n, n) matrices, one solution
    with n right-hand sides, and one more product for each doubling of the norm of A.

    Raises:
      ValueError: `a` is not a floating (n, n) array or, where its values are known
        (outside of `jit`), has a 1-norm above 2e5; that of a traced one gives NaN.

    Source: Lezcano-Casado and Martinez-Rubio, "Cheap Orthogonal Constraints in Neural
    Networks", 2019 (expRNN).
    """
    a = _check_square(a)
    _check_norm(a, _MOST_NORM)
    w = jax.scipy.linalg.expm(a.astype(factor_dtype(a.dtype)))
    return w.astype(a.dtype)


def cayley(a: Float[AnyArray, "n n"]) -> Float[Array, "n n"]:
    """The rotation W = (I + A)^{-1} (I - A), (n, n), for skew-symmetric A.

    I + A is never singular. A rotation with an eigenvalue -1 is reached in the limit
    of infinite A only; scoRNN multiplies W by a diagonal of signs for that reason.

    Args:
      a: (n, n); that it is skew-symmetric is not checked.

    Returns:
      (n, n) in the dtype of `a`; bfloat16 and float16 are computed in float32. W^T W is
      the identity up to the dtype's epsilon times the norm of A.

    Cost: 8/3 n^3 flops, an LU decomposition and n solutions.

    Raises:
      ValueError: `a` is not a floating (n, n) array or, where its values are known
        (outside of `jit`), its 1-norm is above half the inverse of the epsilon: nothing
        is left of I beside it, and a traced one may give NaN.

    Source: Helfrich, Willmott and Ye, "Orthogonal Recurrent Neural Networks with Scaled
    Cayley Transform", 2018 (scoRNN).
    """
    a = _check_square(a)
    wide = a.astype(factor_dtype(a.dtype))
    _check_norm(a, 0.5 / float(jnp.finfo(wide.dtype).eps))
    eye = jnp.eye(a.shape[0], dtype=wide.dtype)
    return jnp.linalg.solve(eye + wide, eye - wide).astype(a.dtype)


def rotation(a: Float[AnyArray, "n n"], map: str) -> Float[Array, "n n"]:
    """W (n, n) of skew-symmetric A by the map of that name, one of MAPS."""
    check_name("map", map, MAPS)
    return exponential(a) if map == "exponential" else cayley(a)


def _check_angles(angles, n):
    angles = jnp.asarray(angles)
    if angles.shape != (n // 2,):
        raise ValueError(f"angles must have shape ({n // 2},), got {angles.shape}")
    check_floating("angles", angles)
    return angles


def _beside_diagonal(values, n):
    """Skew-symmetric (n, n) with `values` at (0, 1), (2, 3), ..."""
    first = np.arange(0, n - 1, 2)
    upper = jnp.zeros((n, n), values.dtype).at[first, first + 1].set(values)
    return upper - upper.T


def block_rotation(angles: Float[AnyArray, " half"], n: int) -> Float[Array, "n n"]:
    """The block-diagonal rotation by `angles` (n // 2,), (n, n)."""
    angles = _check_angles(angles, n)
    cosines = jnp.repeat(jnp.cos(angles), 2)
    if n % 2:
        cosines = jnp.append(cosines, jnp.ones((), angles.dtype))
    return jnp.diag(cosines) + _beside_diagonal(jnp.sin(angles), n)


def block_skew(
    angles: Float[AnyArray, " half"], n: int, map: str
) -> Float[Array, "n n"]:
    """The A (n, n) that `map` takes to `block_rotation(angles, n)`.

    Above the diagonal a block holds t for the exponential and -tan(t / 2), which is
    -sqrt((1 - cos t) / (1 + cos t)) for t >= 0, for the Cayley map.
    """
    check_name("map", map, MAPS)
    angles = _check_angles(angles, n)
    values = angles if map == "exponential" else -jnp.tan(angles / 2)
    return _beside_diagonal(values, n)
