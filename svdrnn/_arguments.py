"""Modules whose constructor's arguments are fields: each is written down once.

The field gives an argument's name, type, default and meaning. From the fields of a
class and of those it inherits from come the constructor (by `dataclasses`, so that
type checkers and editors know it too), its signature and the Args of its docstring.
"""

import dataclasses
import inspect
import re
import textwrap
import types
from typing import Any, TypeVar, dataclass_transform

_WIDTH = 84

T = TypeVar("T")


def argument(
    doc: str, *, default: Any = dataclasses.MISSING, kw_only: bool = True
) -> Any:
    """A field that is an argument of the constructor, and what it means."""
    return dataclasses.field(
        default=default, kw_only=kw_only, metadata={"doc": inspect.cleandoc(doc)}
    )


@dataclass_transform(
    eq_default=False,
    kw_only_default=True,
    field_specifiers=(argument, dataclasses.field),
)
def module(cls: type[T]) -> type[T]:
    """Gives a class the constructor, signature and docstring that its fields say.

    A field `InitVar[...]` is an argument that the instance does not keep, and reaches
    `__post_init__(self, *values)`, to be read by `arguments`; any other is stored.
    Its module must have `from __future__ import annotations`, which keeps the types in
    the signature as they are written.
    """
    dataclasses.dataclass(eq=False, repr=False, match_args=False)(cls)
    for name in _not_kept(cls):
        # What an instance does not keep it must not seem to have by its default.
        if name in vars(cls):
            delattr(cls, name)
    signature = inspect.signature(cls.__init__)
    own = [
        each.replace(annotation=re.sub(r"^InitVar\[(.*)\]$", r"\1", each.annotation))
        for each in list(signature.parameters.values())[1:]
    ]
    cls.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=own, return_annotation=inspect.Signature.empty
    )
    cls.__doc__ = _documented(cls)
    return cls


def arguments(module: Any, values: tuple) -> types.SimpleNamespace:
    """What `__post_init__` was given, by name."""
    names = _not_kept(type(module))
    return types.SimpleNamespace(**dict(zip(names, values, strict=True)))


def make(kind: type[T], given: types.SimpleNamespace, **others: Any) -> T:
    """An instance of a module from those of the given arguments that it takes."""
    names = [
        name
        for name, field in kind.__dataclass_fields__.items()  # type: ignore[attr-defined]
        if field.init and name not in others and hasattr(given, name)
    ]
    return kind(**{name: getattr(given, name) for name in names}, **others)


def _not_kept(cls: type) -> list[str]:
    """The fields `InitVar[...]`, in the order in which `__post_init__` gets them."""
    kept = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    fields = cls.__dataclass_fields__  # type: ignore[attr-defined]
    return [
        name
        for name, field in fields.items()
        if name not in kept and "doc" in field.metadata
    ]


def _documented(cls: type) -> str:
    """The class's docstring with its Args, in front of what it raises."""
    text = inspect.cleandoc(cls.__doc__ or "")
    fields = cls.__dataclass_fields__  # type: ignore[attr-defined]
    lines = ["Args:"]
    for name in cls.__signature__.parameters:  # type: ignore[attr-defined]
        words = f"{name}: {fields[name].metadata['doc']}"
        lines += textwrap.wrap(
            words, _WIDTH, initial_indent="  ", subsequent_indent="    "
        )
    block = "\n".join(lines)
    head, mark, tail = text.partition("\nRaises:\n")
    return f"{head.rstrip()}\n\n{block}\n" + (
        f"\n{mark.lstrip()}{tail}" if mark else ""
    )
