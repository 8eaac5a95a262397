"""What a config is made into before the first step."""

from typing import Any, NamedTuple

import jax
from flax import nnx

from experiments import tasks
from experiments.models import build
from experiments.tasks import base
from experiments.training import devices, fields, memory, optimizers, steps


class Assembly(NamedTuple):
    """The parts of a run.

    steps_per_epoch: updates in an epoch, None for a task without.
    steps: updates in the run.
    learning_rate: see `optimizers.build`.
    graph: what `nnx.merge` makes the model of with `state.params` and `state.rest`.
    state: before the first update, on the devices.
    spread: over which devices.
    """

    task: base.Task
    steps_per_epoch: int | None
    steps: int
    optimizer: Any
    learning_rate: Any
    dropout_key: jax.Array
    model: Any
    graph: Any
    state: steps.TrainState
    spread: devices.Spread


def assemble(config: Any, *, one_device: bool = False) -> Assembly:
    """Task with its data, optimizer, and model with its first parameters.

    Args:
      config: of the run.
      one_device: whether it is not to be trained.

    Raises:
      ValueError: a field or the data do not fit.
    """
    task = tasks.build(config)
    steps_per_epoch = fields.resolve_epoch(config.train, task)
    count = fields.resolve_steps(config.train, steps_per_epoch)
    optimizer, learning_rate = optimizers.build(
        config.train, steps=count, steps_per_epoch=steps_per_epoch
    )
    memory.check(config, task)
    spread = devices.ONE
    if not one_device:
        spread = devices.choose(config.train.devices, config.train.batch_size)
    model, state = first_state(config, task, optimizer, spread)
    return Assembly(
        task,
        steps_per_epoch,
        count,
        optimizer,
        learning_rate,
        jax.random.split(jax.random.key(config.seed))[1],
        model,
        nnx.graphdef(model),
        state,
        spread,
    )


def first_state(
    config: Any, task: base.Task, optimizer: Any, spread: devices.Spread
) -> tuple[Any, steps.TrainState]:
    """The model with its first parameters, and the state before the first update."""
    init_key = jax.random.split(jax.random.key(config.seed))[0]
    model = build.build(config.model, task, rngs=nnx.Rngs(params=init_key))
    _, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    state = steps.initial_state(
        nnx.to_pure_dict(params),
        nnx.to_pure_dict(rest),
        optimizer,
        model.initialize_carry(config.train.batch_size) if task.stateful else None,
    )
    return model, steps.place(state, spread)
