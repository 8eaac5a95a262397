"""Methods of modules as one program each, where they are called by themselves."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from svdrnn.checks import is_traced


def in_one(method: Callable[..., Any], module: nnx.Module, *trees: Any, **static: Any):
    """method(module, *trees, **static), compiled as one program.

    Operation by operation it would be dozens of them, each compiled at the first call.
    Inside of another trace it is a part of that one. What it raises, it raises while it
    is traced: checks of values, which are unknown there, are the caller's.

    Args:
      method: changes no attribute of the module.
      module: whose arrays are arguments of the program.
      *trees: of arrays.
      **static: what the program depends on, all hashable.
    """
    if is_traced(trees):
        return method(module, *trees, **static)
    graph, state = nnx.split(module)
    if is_traced(state) or not _is_hashable((graph, static.values())):
        return method(module, *trees, **static)
    return _call(method, graph, tuple(static.items()), state, *trees)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _call(method, graph, static, state, *trees):
    return method(nnx.merge(graph, state), *trees, **dict(static))


def _is_hashable(values: Any) -> bool:
    """Whether values can be told apart: a module's own attributes may be anything."""
    try:
        hash((values[0], *values[1]))
    except TypeError:
        return False
    return True
