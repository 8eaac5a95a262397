"""The private parts of flax that are used, of the versions in pyproject.toml."""

import inspect
from typing import TypeVar

from flax.nnx.nn.dtypes import canonicalize_dtype
from flax.nnx.nn.recurrent import flip_sequences

__all__ = ["canonicalize_dtype", "flip_sequences", "signature_of_init"]

T = TypeVar("T")


def signature_of_init(cls: type[T]) -> type[T]:
    """Gives a module's class the signature of its `__init__`.

    The metaclass of flax has a `__call__(*args, **kwargs)`, which `help` and
    `inspect.signature` would show in its place.
    """
    signature = inspect.signature(cls.__init__)
    _, *parameters = signature.parameters.values()  # without self
    cls.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=inspect.Signature.empty
    )
    return cls
