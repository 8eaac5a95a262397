"""Initial values as plain functions of a key: reflectors and dense transitions."""

import math

import jax
import jax.numpy as jnp


def reflector_rows(key: jax.Array, shape: tuple[int, int], dtype=jnp.float32):
    """Rows N(0, 1/n) inside the trapezoid, shape (m, n), zeros below it.

    A reflector does not depend on the length of its row, but under Adam that length
    sets the effective learning rate; here it is about one.
    """
    rows = jax.random.normal(key, shape, dtype) / math.sqrt(shape[1])
    return jnp.triu(rows)


def raw_singular_values(key: jax.Array, size: int, center: float, dtype=jnp.float32):
    """Zeros (every sigma_i = center), or N(0, 1) where the center is zero.

    With center zero, zeros would start a residual branch of two layers at a point
    where its gradient vanishes.
    """
    if center == 0:
        return jax.random.normal(key, (size,), dtype)
    return jnp.zeros((size,), dtype)


def raw_from_singular_values(sigma, *, radius: float, center: float):
    """The raw values that ``bounded_singular_values`` maps to ``sigma``.

    raw = 2 atanh((sigma - center) / radius). With radius zero there is nothing to
    choose, and ``sigma`` must equal the center to rounding.

    Raises:
      ValueError: naming the first sigma_i not strictly inside the interval.
    """
    sigma = jnp.asarray(sigma)
    distance = jnp.abs(sigma - center)
    # What rounding leaves of the singular values of an orthogonal matrix.
    slack = (8 + sigma.size) * jnp.finfo(sigma.dtype).eps * max(abs(center), 1.0)
    inside = distance < radius if radius > 0 else distance <= slack
    if not bool(jnp.all(inside)):
        i = int(jnp.argmin(inside))
        raise ValueError(
            f"singular value {i} of the given matrix is {float(sigma[i]):.8g}; it must "
            f"lie strictly between {center - radius:.8g} and {center + radius:.8g} "
            f"(center {center:g}, radius {radius:g})"
        )
    if radius == 0:
        return jnp.zeros_like(sigma)
    return 2 * jnp.arctanh((sigma - center) / radius)
