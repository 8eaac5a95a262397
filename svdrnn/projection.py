"""Reflectors kept at unit length, as an optax transformation."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from svdrnn import householder

# Names of the parameters that hold reflectors: of U and of V, and of `Orthogonal`.
REFLECTORS = ("u_vectors", "v_vectors", "vectors")

_NAME = re.compile(r"[^\W\d]\w*")


def is_reflectors(path: tuple) -> bool:
    """Whether a path in a tree of parameters leads to reflectors, by its last name.

    Any path of `jax.tree_util`: of nested or flat dicts, whose keys may be tuples or
    joined names ("cell/u_vectors"), of `nnx.State`, dataclasses and named tuples.
    """
    names = [name for key in path for name in _NAME.findall(_key(key))]
    if names[-1:] == ["value"]:  # where a variable keeps its array
        names.pop()
    return bool(names) and names[-1] in REFLECTORS


def _key(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "name", "")))


def unit_reflectors(
    where: Callable[[tuple], bool] = is_reflectors,
) -> optax.GradientTransformation:
    """Changes updates so that every reflector has length 1 after them.

    With p the reflectors (..., m, n), m <= n, and d their updates, d becomes
    normalize(p + d) - p, where normalize masks the entries below the upper trapezoid
    and scales every row to length 1. Zero rows stay zero. Other updates pass through,
    as do arrays that reflectors cannot be by their shape. W is the same as without: its
    reflectors do not depend on the lengths of the rows, which set how far a step turns
    them. A row longer than 1 / sqrt(eps) comes down by this factor at a time: the sum
    p + d of one update, rounded, would miss a length of 1. Each time rounds it, by
    sqrt(eps) of its length.

    To be the last of a chain, because what follows it would change the lengths again.
    Its update needs the parameters, and raises ValueError without them.

    Args:
      where: whether a path of `jax.tree_util` in the tree of parameters leads to
        reflectors; for a constraint of your own with names of its own.

    Source: the code of Zhang, Lei and Dhillon (2018).
    """

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be given to unit_reflectors, got None")

        def project(path, update, param):
            if not (where(path) and _may_be_reflectors(param)):
                return update
            unit = householder.unit_rows(param + update.astype(param.dtype))
            longest = jnp.max(jnp.abs(param), axis=-1, keepdims=True).astype(unit.dtype)
            root = float(jnp.finfo(param.dtype).eps) ** 0.5
            target = unit * jnp.maximum(1, root * longest)
            return (target.astype(param.dtype) - param).astype(update.dtype)

        return jax.tree_util.tree_map_with_path(project, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _may_be_reflectors(param: Any) -> bool:
    """Whether the shape is (..., m, n) with m <= n."""
    shape = np.shape(param)
    return len(shape) > 1 and shape[-2] <= shape[-1]
