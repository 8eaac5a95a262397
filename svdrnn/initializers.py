"""Initial values as plain functions of a key: reflectors, singular values, angles."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key

from svdrnn import checks, householder, skew
from svdrnn._types import AnyArray

# Initial transitions that rotate planes of two coordinates by random angles.
BLOCK_ROTATIONS = ("henaff", "cayley")


def reflector_rows(
    key: Key[Array, ""], shape: tuple[int, int], dtype: DTypeLike = jnp.float32
) -> Float[Array, "m n"]:
    """Rows N(0, 1/n) inside the trapezoid, shape (m, n), zeros below it.

    A reflector does not depend on the length of its row, but under Adam that length
    sets the effective learning rate; here it is about one.
    """
    # Barriers here and below: the same numbers as a part of any program. XLA would put
    # this factor and one of the normal law's together, and round otherwise.
    rows = jax.lax.optimization_barrier(jax.random.normal(key, shape, dtype))
    return jnp.triu(rows / math.sqrt(shape[1]))


def input_weights(
    key: Key[Array, ""],
    shape: tuple[int, int],
    scale: ArrayLike,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "n n_in"]:
    """The first M (n, n_in) of a recurrence: LeCun normal times `scale`."""
    draw = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0)
    return scale * jax.lax.optimization_barrier(draw(key, shape, dtype))


def rotation_angles(
    key: Key[Array, ""], n: int, init: str, dtype: DTypeLike = jnp.float32
) -> Float[Array, " half"]:
    """The angles (n // 2,) of a block rotation (n, n), see `svdrnn.skew`.

    henaff: uniform in [-pi, pi]. cayley: uniform in [0, pi / 2], so that the Cayley
    map's A has entries of at most 1. Here the name stands for the angles of W whatever
    W is made from. (The code of expRNN hands the Cayley map's A to the exponential as
    it is, and so turns by -tan(t / 2) where its initialization is called cayley.)

    Raises:
      ValueError: another name.

    Source: Henaff, Szlam and LeCun, "Recurrent Orthogonal Networks and Long-Memory
    Tasks", 2016; Helfrich, Willmott and Ye (2018).
    """
    checks.check_name("init", init, BLOCK_ROTATIONS)
    low, high = {"henaff": (-math.pi, math.pi), "cayley": (0.0, math.pi / 2)}[init]
    return jax.random.uniform(key, (n // 2,), dtype, low, high)


def rotated_rows(
    v_vectors: Float[AnyArray, "n n"], angles: Float[AnyArray, " half"]
) -> Float[Array, "n n"]:
    """Rows u (n, n) such that U V^T = R, the block rotation by `angles`, so U = R V.

    With random rows of V, as `reflector_rows` draws them, no row of U is zero. V = I
    would be simpler, but its rows are zero, as are those of U where R leaves an axis
    alone, and zero rows never train. Row i of U gets the length of row i of V.

    Raises:
      ValueError: shapes or dtypes that do not fit.
    """
    householder.check_vectors("v_vectors", v_vectors)
    checks.check_floating("angles", angles)
    if v_vectors.shape[0] != v_vectors.shape[1]:
        raise ValueError(f"v_vectors must have shape (n, n), got {v_vectors.shape}")
    v = v_vectors.astype(householder.factor_dtype(v_vectors.dtype))
    rotation = skew.block_rotation(angles.astype(v.dtype), v.shape[1])
    q = householder.matmul(rotation, householder.orthogonal_matrix(v))
    u = householder.reflectors_from_orthogonal(q)
    lengths = jnp.linalg.norm(jnp.triu(v), axis=1, keepdims=True)
    return (lengths * u).astype(v_vectors.dtype)


def raw_singular_values(
    key: Key[Array, ""], size: int, center: float, dtype: DTypeLike = jnp.float32
) -> Float[Array, " size"]:
    """Zeros (every sigma_i = center), or N(0, 1) where the center is zero.

    With center zero, zeros would start a residual branch of two layers at a point
    where its gradient vanishes.
    """
    if center == 0:
        return jax.random.normal(key, (size,), dtype)
    return jnp.zeros((size,), dtype)


def raw_from_singular_values(
    sigma: Float[AnyArray, "..."], *, radius: float, center: float
) -> Float[Array, "..."]:
    """The raw values that `bounded_singular_values` maps to `sigma`.

    raw = 2 atanh((sigma - center) / radius). With radius zero there is nothing to
    choose, and `sigma` must equal the center to rounding.

    Raises:
      ValueError: naming the first sigma_i not strictly inside the interval, where
        values are known (outside of `jit`); a tracer outside of it gives NaN. For a
        sigma that is not floating; for a radius or center that is not finite, or a
        negative radius.
    """
    radius = checks.check_finite("radius", radius, least=0)
    center = checks.check_finite("center", center)
    check_inside(sigma, radius=radius, center=center)
    sigma = jnp.asarray(sigma)
    if radius == 0:
        return jnp.zeros_like(sigma)
    return _raw(sigma, radius, center)


@jax.jit
def _raw(sigma, radius, center):
    sigma, radius, center = jax.lax.optimization_barrier((sigma, radius, center))
    return 2 * jnp.arctanh((sigma - center) / radius)


def check_inside(
    sigma: Float[AnyArray, "..."], *, radius: float, center: float
) -> None:
    """Raises ValueError where `raw_from_singular_values` does."""
    if checks.is_traced(sigma):
        checks.check_floating("sigma", sigma)
        return
    # In numpy, so that nothing is compiled, but as JAX rounds.
    values = np.asarray(sigma)
    checks.check_floating("sigma", values)
    values = values.astype(jax.dtypes.canonicalize_dtype(values.dtype))
    distance = np.abs(values - values.dtype.type(center))
    # What rounding leaves of the singular values of an orthogonal matrix.
    slack = (8 + values.size) * jnp.finfo(values.dtype).eps * max(abs(center), 1.0)
    bound = values.dtype.type(radius)
    inside = distance < bound if radius > 0 else distance <= slack
    if not np.all(inside):
        i = int(np.argmin(inside))
        value = float(values.ravel()[i])
        raise ValueError(
            f"singular value {i} of the given matrix is {value:.8g}; it must lie"
            f" strictly between {center - radius:.8g} and {center + radius:.8g} (center"
            f" {center:g}, radius {radius:g})"
        )
