"""Reflectors kept at unit length, as an optax transformation."""

import jax
import optax

from svdrnn import householder

# Names of the parameters that hold reflectors.
REFLECTORS = ("u_vectors", "v_vectors")


def is_reflectors(path: tuple) -> bool:
    """Whether a path in a tree of parameters leads to reflectors, by its names."""
    names = (getattr(key, "key", getattr(key, "name", None)) for key in path)
    return any(name in REFLECTORS for name in names)


def unit_reflectors() -> optax.GradientTransformation:
    """Changes updates so that every reflector has length 1 after them.

    With p the parameters named `u_vectors` or `v_vectors`, (..., m, n), and d
    their updates, d becomes normalize(p + d) - p, where normalize masks the entries
    below the upper trapezoid and scales every row to length 1. Zero rows stay zero.
    Other updates pass through. W is the same as without: its reflectors do not depend
    on the lengths of the rows, which set how far a step turns them.

    To be the last of a chain, because what follows it would change the lengths again.
    Its update needs the parameters, and raises ValueError without them.

    Source: the code of Zhang, Lei and Dhillon (2018).
    """

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be given to unit_reflectors, got None")

        def project(path, update, param):
            if not is_reflectors(path):
                return update
            unit = householder.unit_rows(param + update.astype(param.dtype))
            return (unit.astype(param.dtype) - param).astype(update.dtype)

        return jax.tree_util.tree_map_with_path(project, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
