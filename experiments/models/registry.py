"""The registry of models: `config.model.name`, and which fields of a config are read.

A model is a function and a line of `_KINDS`. No JAX: the function's file is imported
when the model is built or its fields are checked.

The line says of which kinds a model is, and `configs/common.py` says which fields are
read by which kinds or models. The kinds are:

sequences, vectors: the inputs have a time axis, or have none.
cells: h_t = phi(W h_{t-1} + M x_t + b), without gates.
reflectors: W is made of reflectors.
intervals: W has singular values that are learned within an interval.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from configs import common


class Entry(NamedTuple):
    """A registered model.

    make: of sequences, (config, features, rngs) -> a recurrent layer with the call
      arguments of `nnx.RNN`; of vectors, (config, in_features, out_features, rngs) ->
      a network; or "module:function" of it. `config` is the `model` part.
    sequential: whether it is for sequences.
    reads: the fields of the config that it reads and others may not, as "model.leak".
    """

    make: Callable[..., Any] | str
    sequential: bool
    reads: frozenset[str]

    def fields(self) -> set[str]:
        """The names in `config.model` of the fields that the model reads."""
        return {
            name.removeprefix("model.")
            for name in self.reads
            if name.startswith("model.")
        }


MODELS: dict[str, Entry] = {}

# Fields outside the model's part that not every model reads.
BESIDE = tuple(
    name
    for name, field in common.FIELDS.items()
    if field.models and not name.startswith("model.")
)


def register(
    name: str,
    make: Callable[..., Any] | str,
    reads: tuple[str, ...],
    *,
    sequential: bool = True,
    beside: tuple[str, ...] = (),
) -> None:
    """Adds a model, or replaces it, under a name for `config.model.name`.

    Args:
      name: of the model.
      make: see `Entry`.
      reads: the fields of `config.model` that it reads, besides the name.
      sequential: whether it is for sequences.
      beside: those of `BESIDE` that act on it. Those that act on every model of
        sequences, or of vectors, need no mention.
    """
    fields = {f"model.{field}" for field in reads} | {*beside}
    fields |= _read_by("sequences" if sequential else "vectors") & {*BESIDE}
    MODELS[name] = Entry(make, sequential, frozenset(fields))


def _read_by(*readers: str) -> set[str]:
    """The fields that models of some names or kinds read, and others may not."""
    return {
        name
        for name, field in common.FIELDS.items()
        if not set(field.models).isdisjoint(readers)
    }


# The models that come with the project. Each is the function of its name.
_KINDS = {
    "spectral": ("sequences", "cells", "reflectors", "intervals"),
    "ornn": ("sequences", "cells", "reflectors"),
    "exprnn": ("sequences", "cells"),
    "scornn": ("sequences", "cells"),
    "rnn": ("sequences", "cells"),
    "irnn": ("sequences", "cells"),
    "spectral_lstm": ("sequences", "reflectors", "intervals"),
    "spectral_gru": ("sequences", "reflectors", "intervals"),
    "lstm": ("sequences",),
    "gru": ("sequences",),
    "mlp": ("vectors",),
    "resnet": ("vectors",),
    "spectral_mlp": ("vectors", "reflectors", "intervals"),
    "spectral_resnet": ("vectors", "reflectors", "intervals"),
}
_FILES = {"sequences": "recurrent", "vectors": "feedforward"}

for _name, (_inputs, *_others) in _KINDS.items():
    MODELS[_name] = Entry(
        f"experiments.models.{_FILES[_inputs]}:{_name}",
        _inputs == "sequences",
        frozenset(_read_by(_name, _inputs, *_others)),
    )

_SHIPPED = MODELS.copy()


def is_known(name: str) -> bool:
    """Whether a model of that name is registered."""
    return name in MODELS


def is_own(name: str) -> bool:
    """Whether it was registered elsewhere than here, in the place of ours or beside."""
    return name in MODELS and MODELS[name] != _SHIPPED.get(name)


def names(sequential: bool) -> tuple[str, ...]:
    """The models of sequences, or those of vectors."""
    return tuple(
        name for name, model in MODELS.items() if model.sequential == sequential
    )
