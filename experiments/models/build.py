"""From a config and a task to a model, and the checks of the model's fields."""

import contextlib
import functools
import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import config_dict

import svdrnn
from configs import common
from experiments import checks
from experiments.models import recurrent, registry
from experiments.tasks import base
from svdrnn import kernels, matrices

MOST_LAYERS = 200  # of a recurrent network; ten times as many of a feed-forward one

# What the library calls a field, where the names differ.
_FIELDS = {"hidden_features": "hidden"}


def check(config: Any) -> None:
    """Raises ValueError where a field of `config` (the `model` part) does not fit.

    Fields that the model does not read are left alone. What the library checks is left
    to it: a layer is built without any numbers in it.
    """
    svdrnn.checks.check_name("config.model.name", config.name, tuple(registry.MODELS))
    model = registry.MODELS[config.name]
    reads = model.fields()
    checks.check_fields(
        {f"model.{field}": value for field, value in config.items() if field in reads}
    )
    # Recurrent layers are compiled one by one: more than so many take minutes.
    most = MOST_LAYERS if model.sequential else 10 * MOST_LAYERS
    if "layers" in reads:
        checks.check_integer("config.model.layers", config.layers, most=most)
    if "readout_activation" in reads and "activation" in reads:
        if config.readout_activation == config.activation == "relu":
            raise ValueError(
                "config.model.readout_activation must be identity or tanh with"
                " config.model.activation relu, whose outputs relu leaves as they are,"
                " got 'relu'"
            )
    tied = "tied" in reads and config.tied
    for name in ("tied", "residual"):
        equal = name in reads and config[name]
        if equal and config.embedding not in (None, config.hidden):
            raise ValueError(
                "config.model.embedding must be None or config.model.hidden,"
                f" {config.hidden}, with config.model.{name}, got {config.embedding}"
            )
    two = "bidirectional" in reads and config.bidirectional
    if tied and two and not ("residual" in reads and config.residual):
        raise ValueError(
            "config.model.bidirectional must be False with config.model.tied, whose"
            " readout has the features of one direction, got True"
        )
    read = as_read(config)
    text = json.dumps(read.to_dict(), sort_keys=True, default=str)
    _check_abstractly(model, text)


@functools.lru_cache(maxsize=256)  # a sweep or a figure checks few models many times
def _check_abstractly(model: registry.Entry, text: str) -> None:
    config = config_dict.ConfigDict(json.loads(text))
    sizes = (1,) if model.sequential else (1, 1)
    make = _make(config)
    # On a device that is named: what asks for the default one would start JAX, which
    # has to be told of devices and processes first.
    with _naming_fields(config), jax.default_device("cpu"):
        complete = _with_input_scale(config, time_steps=1)
        nnx.eval_shape(lambda: make(complete, *sizes, rngs=nnx.Rngs(0)))


def build(config: Any, task: base.Task, *, rngs: nnx.Rngs) -> Any:
    """The model that `config` (the `model` part) describes for `task`.

    Of the fields in the table, those that a model of sequences does not read have
    their defaults.

    Raises:
      ValueError: an unknown name, a recurrent model of inputs without a time axis or
        a feed-forward one of sequences, an embedding where the inputs are not
        tokens, an activation that no layer has steps enough for, pooling where every
        output counts or outputs of some steps alone, both directions of a stream, or a
        field that the model refuses.
    """
    names = registry.names(task.sequential)
    if config.name not in names:
        kind = "sequences" if task.sequential else "vectors without a time axis"
        raise ValueError(
            f"config.model.name must be one of {', '.join(names)} for {task.name},"
            f" whose inputs are {kind}, got {config.name!r}"
        )
    config = as_read(config)
    if task.sequential:
        _check_sequences(config, task)
    embedding = _embedding(config, task, rngs)
    with _naming_fields(config):
        if not task.sequential:
            sizes = task.in_features, task.out_features
            return _make(config)(config, *sizes, rngs=rngs)
        # What the layers above the first read may have fewer steps.
        above = config_dict.ConfigDict({**config, "output_every": 1})
        above = _with_input_scale(above, max(task.time_steps // config.output_every, 1))
        config = _with_input_scale(config, task.time_steps)
        if embedding is None:
            features = task.in_features
        else:
            features = config.embedding or config.hidden
        outputs = config.hidden * (2 if config.bidirectional else 1)
        layers = []
        for i in range(config.layers):
            layer = _layer(above if i else config, features, rngs)
            if config.residual:
                layer = recurrent.Block(layer, features, outputs, rngs)
            else:
                features = outputs
            layers.append(layer)
    readout: nnx.Module
    if isinstance(embedding, nnx.Embed) and config.tied:
        readout = recurrent.TiedReadout(embedding)
    else:
        readout = nnx.Linear(features, task.out_features, rngs=rngs)
    return recurrent.SequenceModel(
        layers,
        readout,
        embedding=embedding,
        dropout=config.dropout,
        dropout_tied=config.dropout_tied,
        last_only=task.readout == "last",
        pool=config.pool,
        readout_activation=config.readout_activation,
    )


def as_read(config: Any) -> Any:
    """The `model` part with the table's default in each field that is left unread.

    Such a field is no part of what a run is, and must not act around a layer either.
    Around a network of vectors there is nothing.
    """
    sequential, reads = registry.MODELS[config.name][1:]
    if not sequential:
        return config
    complete = config_dict.ConfigDict(config.to_dict())
    with complete.ignore_type():  # a pair of reflectors gives way to a number
        for field, entry in common.FIELDS.items():
            if field.startswith("model.") and field not in ("model.name", *reads):
                complete[field.removeprefix("model.")] = entry.default
    return complete


def _check_sequences(config: Any, task: base.Task) -> None:
    """Raises ValueError where a field does not fit the sequences of the task."""
    every = config.activation_every
    steps, whose = task.time_steps, f"time steps of {task.name}"
    if config.layers > 1 and config.output_every > 1:
        steps //= config.output_every
        whose += " that config.model.output_every gives to the layers above the first"
    if task.time_steps > 1 and 0 < steps < every:
        raise ValueError(
            f"config.model.activation_every must be at most {steps}, the {whose}, else"
            f" the activation never acts, got {every}"
        )
    if config.pool != "last" and task.readout != "last":
        raise ValueError(
            f"config.model.pool must be 'last' for {task.name}, which has an output at"
            f" every step, got {config.pool!r}"
        )
    every = config.output_every
    if every > 1 and task.readout != "last":
        raise ValueError(
            f"config.model.output_every must be 1 for {task.name}, which has an output"
            f" at every step, got {every}"
        )
    if every > 1 and config.layers == 1 and config.pool == "last":
        raise ValueError(
            "config.model.output_every must be 1 with config.model.layers 1 and"
            f" config.model.pool 'last', which read one state, got {every}"
        )
    if config.bidirectional and task.stateful:
        raise ValueError(
            f"config.model.bidirectional must be False for {task.name}, whose state is"
            " carried from batch to batch, got True"
        )


def check_batches(config: Any, task: base.Task) -> None:
    """Raises ValueError where `output_every` does not fit the batches of the task.

    Apart from `build`, which is traced: where it is above 1 a batch is drawn.
    """
    every = as_read(config).output_every if task.sequential else 1
    if every == 1:
        return
    batch = task.train_batch(0)
    steps = batch["inputs"].shape[1]
    if "lengths" in batch:
        allowed = f"1 for {task.name}, whose sequences have lengths of their own"
    elif steps % every:
        allowed = f"a divisor of {steps}, the time steps of {task.name}"
    else:
        return
    raise ValueError(f"config.model.output_every must be {allowed}, got {every}")


def _with_input_scale(config: Any, time_steps: int) -> Any:
    """The config with the scale for sequences of this length where it names none."""
    if config.get("input_scale", 1.0) is not None:  # a model of one's own may lack it
        return config
    complete = config_dict.ConfigDict(config.to_dict())
    complete.input_scale = recurrent.input_scale(time_steps)
    return complete


def _make(config: Any) -> Callable[..., Any]:
    make = registry.MODELS[config.name].make
    if isinstance(make, str):
        module, _, function = make.partition(":")
        make = getattr(importlib.import_module(module), function)
    return make


def _layer(config: Any, features: int, rngs: nnx.Rngs) -> nnx.Module:
    """A recurrent layer, or one that runs in both directions."""
    make = _make(config)
    layer = make(config, features, rngs=rngs)
    if not config.bidirectional:
        return layer
    return nnx.Bidirectional(layer, make(config, features, rngs=rngs), rngs=False)


def _embedding(
    config: Any, task: base.Task, rngs: nnx.Rngs
) -> nnx.Embed | nnx.Linear | None:
    """The embedding of a task's tokens, or of the features that blocks start from.

    None for features that the first layer reads as they are.
    """
    if task.vocabulary is not None:
        features = config.embedding or config.hidden
        return nnx.Embed(
            task.vocabulary, features, embedding_init=_embedding_values, rngs=rngs
        )
    for name, off in (("embedding", None), ("tied", False)):
        if config[name] != off:
            raise ValueError(
                f"config.model.{name} must be {off}: the inputs of {task.name} are not"
                f" tokens, got {config[name]}"
            )
    if task.sequential and config.residual:
        return nnx.Linear(task.in_features, config.hidden, rngs=rngs)
    return None


def _embedding_values(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
    """N(0, 1 / features) as flax draws it, but the same as a part of any program."""
    values = jax.lax.optimization_barrier(jax.random.normal(key, shape, dtype))
    return values * jnp.sqrt(jnp.array(1 / shape[1], dtype))


@contextlib.contextmanager
def _naming_fields(config: Any) -> Iterator[None]:
    """Calls an argument that the model or the library refuses by the field's name."""
    try:
        yield
    except ValueError as error:
        argument, _, rest = str(error).partition(" ")
        field = _FIELDS.get(argument, argument)
        if field not in config:
            raise
        raise ValueError(f"config.model.{field} {rest}") from None


def count_params(model: nnx.Module) -> int:
    """Stored parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def count_independent_params(model: nnx.Module) -> int:
    """Parameters that results depend on: stored ones less those below trapezoids."""
    return count_params(model) - sum(
        module.num_redundant
        for _, module in nnx.iter_modules(model)
        if isinstance(module, matrices.Matrix | kernels.Kernel)
    )
