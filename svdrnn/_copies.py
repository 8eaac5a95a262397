"""Copies of modules with some attributes of their own, and all others shared."""

import functools
from collections.abc import Mapping
from typing import Any

from flax import nnx


class _Copy:
    """What a copy is given or loses, the module that it was made of does too.

    A model makes things while it is called: sown values, caches, counters.
    """

    # Beside `vars`, all of which is a part of the model to flax. What flax makes of a
    # copy, to trace it, has none: it is on its own until flax brings back what changed.
    __slots__ = ("_origin",)

    def __init_subclass__(cls, *, pytree: bool):
        # Past those of the module's own classes, which may register what they see.
        nnx.Pytree.__init_subclass__.__func__(cls, pytree=pytree)  # type: ignore

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        module, own = _origin(self)
        if module is not None and name not in own:
            setattr(module, name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        module, own = _origin(self)
        if module is not None and name not in own:
            delattr(module, name)

    def _graph_node_init(self, attributes: Any) -> None:
        """How flax brings back what changed: all attributes anew."""
        super()._graph_node_init(attributes)  # type: ignore[misc]
        module, own = _origin(self)
        if module is not None:
            theirs = {k: v for k, v in vars(module).items() if k in own}
            shared = {k: v for k, v in vars(self).items() if k not in own}
            vars(module).clear()
            vars(module).update(theirs | shared)


_slot: Any = _Copy._origin  # type: ignore[attr-defined]


def _origin(copy: Any) -> tuple[Any, frozenset[str]]:
    """The module that a copy shares with, and the names it does not share, or none."""
    try:
        return _slot.__get__(copy)
    except AttributeError:
        return None, frozenset()


@functools.cache  # flax keeps every class, and compiles for each anew
def _copy_class(kind: Any) -> type:
    names = ("__doc__", "__module__", "__qualname__")
    body = {"__slots__": (), **{name: getattr(kind, name) for name in names}}
    meta, options = type(kind), {"pytree": kind._pytree__is_pytree}
    return meta(kind.__name__, (_Copy, kind), body, **options)


def empty_copy(module: nnx.Pytree) -> Any:
    """A copy to be filled by `fill`, of a subclass of the module's class."""
    kind = type(module)
    return object.__new__(kind if issubclass(kind, _Copy) else _copy_class(kind))


def fill(copy: Any, module: nnx.Pytree, own: Mapping[str, Any]) -> None:
    """Gives a copy its own attributes; all others it shares with the module."""
    vars(copy).update({**vars(module), **own})
    _slot.__set__(copy, (module, frozenset(own)))
