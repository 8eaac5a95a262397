"""What to watch while training: singular values, spectral margin, gradient norms."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from svdrnn import checks, householder, spectral, transitions
from svdrnn._types import AnyArray


def singular_values(
    w: transitions.Transition | spectral.SVD | Float[AnyArray, "n_out n_in"],
) -> Float[Array, "*stack smaller"]:
    """Singular values of a matrix in descending order.

    Args:
      w: a `spectral.SVD` (of cost n log n), a form of `svdrnn.transitions` or a dense
        matrix (of cost n^3).

    Returns:
      (min(n_out, n_in),); of an SVD the magnitudes of its sigma.
    """
    if isinstance(w, transitions.Transition):
        return w.singular_values()
    return spectral.singular_values(w)


def spectral_margin(
    values: Float[AnyArray, "*stack n"], center: float = 1.0
) -> Float[Array, ""]:
    """max_i |sigma_i - center|: how far singular values have moved from the center.

    Raises:
      ValueError: values that are not floating, or none.
    """
    values = jnp.asarray(values)
    checks.check_floating("values", values)
    if values.ndim == 0 or values.size == 0:
        raise ValueError(
            f"values must have shape (..., n) with entries, got {values.shape}"
        )
    return jnp.max(jnp.abs(values - center))


def state_gradient_norms(
    loss: Callable[[Float[Array, "..."]], Float[Array, ""]],
    shape: tuple[int, ...],
    *,
    time_axis: int,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, " time"]:
    """||dL/dh_t|| for every t, over all items of the batch together.

    Args:
      loss: takes `perturbations`, hands them to the layer (which adds them to its
        states) and returns the scalar L.
      shape: shape of all states, as the layer returns them.
      time_axis: which of its axes is time.
      dtype: dtype of the states.

    Returns:
      (time,), the Frobenius norm of dL/dh_t over batch and features; of narrow states
      in float32.
    """
    gradient = jax.grad(loss)(jnp.zeros(shape, dtype))
    by_time = jnp.moveaxis(gradient, time_axis, 0)
    wide = by_time.astype(householder.factor_dtype(by_time.dtype))
    others = tuple(range(1, wide.ndim))
    # Squares of what vanishes or explodes would leave the range before it does.
    largest = jnp.max(jnp.abs(wide), axis=others, keepdims=True, initial=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale.reshape(-1) * jnp.sqrt(jnp.sum(jnp.square(wide / scale), axis=others))
