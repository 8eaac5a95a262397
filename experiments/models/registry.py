"""The registry of models: `config.model.name`, and which fields of a config are read.

A model is a function and a line below. No JAX: the function's file is imported when the
model is built or its fields are checked.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


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
        """Those of `config.model`, without what they begin with."""
        parts = (name.partition(".") for name in self.reads)
        return {field for section, _, field in parts if section == "model"}


MODELS: dict[str, Entry] = {}

# Fields outside the model's part that not every model reads.
OF_SKEW = ("train.rates.reflectors", "train.decay_constrained")
OF_REFLECTORS = (*OF_SKEW, "train.unit_reflectors")
OF_INTERVALS = (*OF_REFLECTORS, "train.rates.singular_values")
OF_SEQUENCES = ("train.rates.inputs", "train.rates.readout")
BESIDE = (*OF_INTERVALS, *OF_SEQUENCES)

_AROUND = ("layers", "dropout", "embedding", "tied", "readout_activation")
_SEQUENCE = ("hidden", *_AROUND)
_CELL = (*_SEQUENCE, "activation", "leak", "activation_every", "input_scale")
_SPECTRAL = ("reflectors", "center", "init", "method")
_INTERVAL = (*_SPECTRAL, "radius", "init_sigma")
_GATES = ("reflectors", "radius", "center", "init")
_DENSE = ("hidden", "layers", "activation", "leak")


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
      beside: those of `BESIDE` that act on it; `OF_SEQUENCES` need no mention.
    """
    fields = frozenset(f"model.{field}" for field in reads) | frozenset(beside)
    fields |= frozenset(OF_SEQUENCES if sequential else ())
    MODELS[name] = Entry(make, sequential, fields)


def _recurrent(name: str, *reads: str, beside: tuple[str, ...] = ()) -> None:
    register(name, f"experiments.models.recurrent:{name}", reads, beside=beside)


def _feedforward(name: str, *reads: str, beside: tuple[str, ...] = ()) -> None:
    make = f"experiments.models.feedforward:{name}"
    register(name, make, reads, sequential=False, beside=beside)


_recurrent("spectral", *_CELL, *_INTERVAL, beside=OF_INTERVALS)
_recurrent("ornn", *_CELL, *_SPECTRAL, beside=OF_REFLECTORS)
_recurrent("exprnn", *_CELL, "init", beside=OF_SKEW)
_recurrent("scornn", *_CELL, "init", "negative_fraction", beside=OF_SKEW)
_recurrent("rnn", *_CELL)
_recurrent("irnn", *_CELL, "init")
_recurrent("spectral_lstm", *_SEQUENCE, *_GATES, beside=OF_INTERVALS)
_recurrent("spectral_gru", *_SEQUENCE, *_GATES, beside=OF_INTERVALS)
_recurrent("lstm", *_SEQUENCE)
_recurrent("gru", *_SEQUENCE)
_feedforward("mlp", *_DENSE)
_feedforward("resnet", *_DENSE)
_feedforward("spectral_mlp", *_DENSE, *_INTERVAL, beside=OF_INTERVALS)
_feedforward("spectral_resnet", *_DENSE, *_INTERVAL, beside=OF_INTERVALS)

_SHIPPED = MODELS.copy()


def is_known(name: str) -> bool:
    """Whether a model of that name is registered."""
    return name in MODELS


def is_own(name: str) -> bool:
    """Whether it was registered elsewhere than here, in the place of ours or beside."""
    return name in MODELS and MODELS[name] != _SHIPPED.get(name)


def names(sequential: bool) -> tuple[str, ...]:
    """The models of sequences, or those of vectors."""
    return tuple(n for n, model in MODELS.items() if model.sequential == sequential)
