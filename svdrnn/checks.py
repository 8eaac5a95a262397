"""Checks of arguments: each names the argument, what is allowed and what was given."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_integer(name: str, value: Any, least: int = 1) -> int:
    """The value as an int.

    Args:
      name: what the error calls the value.
      value: an integer of Python, numpy or JAX; no bool and no tracer.
      least: the least that is allowed.

    Raises:
      ValueError: anything else.
    """
    number = _number(value)
    if not isinstance(number, numbers.Integral) or number < least:
        raise ValueError(
            f"{name} must be an integer of at least {least}, got {_shown(value)}"
        )
    return int(number)


def check_finite(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """The value as a float.

    Args:
      name: what the error calls the value.
      value: a real number of Python, numpy or JAX; no bool and no tracer.
      least: bound that may be reached from above.
      above: bound that may not.
      most: bound that may be reached from below.
      below: bound that may not.

    Raises:
      ValueError: the value is not a finite number within the bounds.
    """
    number = _number(value)
    good = number is not None and math.isfinite(number)
    rule = "finite"
    for bound, words, holds in (
        (least, "at least", lambda bound: number >= bound),
        (above, "above", lambda bound: number > bound),
        (most, "at most", lambda bound: number <= bound),
        (below, "below", lambda bound: number < bound),
    ):
        if bound is not None:
            rule += f" and {words} {bound:g}"
            good = good and holds(bound)
    if not good:
        raise ValueError(f"{name} must be {rule}, got {_shown(value)}")
    return float(number)  # type: ignore[arg-type]  # None is not good


def check_name(name: str, value: Any, allowed: Sequence[str]) -> str:
    """The value, which must be one of the allowed names.

    Raises:
      ValueError: anything else.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(allowed)}, got {_shown(value)}"
        )
    return value


def check_real(name: str, array: Any) -> None:
    """Raises ValueError for an array of complex numbers."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, got {array.dtype}")


def check_floating(name: str, array: Any) -> None:
    """Raises ValueError unless the array holds real floating-point numbers."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name} must have a floating dtype (bfloat16, float16, float32 or "
            f"float64), got {array.dtype}"
        )


def check_finite_entries(name: str, array: Any) -> None:
    """Raises ValueError for an array with NaN or infinity, if its values are known."""
    # In numpy: what jax.numpy does to a constant under `jit` is traced.
    if not is_traced(array) and not np.all(np.isfinite(np.asarray(array))):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")


def check_lengths(name: str, lengths: Any, shape: tuple[int, ...], steps: int) -> None:
    """Raises ValueError unless lengths are integers of that shape, from 0 to steps.

    Traced ones, whose values are not known, may be any.
    """
    if lengths.shape != shape or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be integers of shape {shape}, got {lengths.dtype} of shape"
            f" {lengths.shape}"
        )
    if is_traced(lengths) or not lengths.size:
        return
    values = np.asarray(lengths)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > steps:
        raise ValueError(
            f"{name} must lie in [0, {steps}], got values from {low} to {high}"
        )


def is_traced(*arrays: Any) -> bool:
    """Whether values cannot be looked at: some array is a tracer or abstract."""
    return any(
        isinstance(leaf, (jax.core.Tracer, jax.ShapeDtypeStruct))
        for leaf in jax.tree.leaves(arrays)
    )


def _number(value: Any) -> Any:
    """A number of Python's own or numpy's scalar types; None for anything else."""
    if isinstance(value, (jax.Array, np.ndarray)) and not is_traced(value):
        value = value.item() if value.ndim == 0 else None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        return None
    return value


def _shown(value: Any) -> str:
    """The value in an error: as it is written, cut where that takes lines."""
    text = repr(value)
    first = text.splitlines()[0]
    return text if text == first else f"{first} ..."
