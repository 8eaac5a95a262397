"""What to watch while training: singular values, spectral margin, gradient norms."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from svdrnn import householder, recurrence, spectral


def singular_values(transition) -> jax.Array:
    """Singular values of a matrix in descending order.

    Args:
      transition: a `spectral.SVD` (of cost n), a form of `svdrnn.recurrence` or a
        dense matrix (of cost n^3).

    Returns:
      (min(n_out, n_in),); of an SVD the magnitudes of its sigma.
    """
    if isinstance(transition, recurrence.Factored):
        transition = transition.svd
    if isinstance(transition, spectral.SVD):
        return -jnp.sort(-jnp.abs(transition.sigma))
    if isinstance(transition, recurrence.DiagonalPlusLowRank):
        product = jnp.matmul(
            transition.a, transition.c, precision=jax.lax.Precision.HIGHEST
        )
        transition = jnp.diag(transition.diagonal) + product
    elif isinstance(transition, recurrence.Dense):
        transition = transition.w
    matrix = jnp.asarray(transition)
    wide = matrix.astype(householder.factor_dtype(matrix.dtype))  # no SVD in bfloat16
    return jnp.linalg.svd(wide, compute_uv=False).astype(matrix.dtype)


def spectral_margin(values: jax.Array, center: float = 1.0) -> jax.Array:
    """max_i |sigma_i - center|: how far singular values have moved from the center."""
    return jnp.max(jnp.abs(values - center))


def state_gradient_norms(
    loss: Callable[[jax.Array], jax.Array],
    shape: tuple[int, ...],
    *,
    time_axis: int,
    dtype=jnp.float32,
) -> jax.Array:
    """||dL/dh_t|| for every t, over all items of the batch together.

    Args:
      loss: takes `perturbations`, hands them to the layer (which adds them to its
        states) and returns the scalar L.
      shape: shape of all states, as the layer returns them.
      time_axis: which of its axes is time.
      dtype: dtype of the states.

    Returns:
      (time,), the Frobenius norm of dL/dh_t over batch and features.
    """
    gradient = jax.grad(loss)(jnp.zeros(shape, dtype))
    by_time = jnp.moveaxis(gradient, time_axis, 0).reshape(shape[time_axis], -1)
    return jnp.sqrt(jnp.sum(by_time * by_time, axis=1))
