"""What a config is made into before the first step."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from experiments import tasks
from experiments.models import build
from experiments.runs import summary
from experiments.tasks import base
from experiments.training import devices, fields, memory, optimizers, steps


class Assembly(NamedTuple):
    """The parts of a run.

    Attributes:
      task: the task with its data.
      steps_per_epoch: how many updates an epoch has; None for a task without epochs.
      steps: how many updates the run makes.
      make_optimizer: numbers as `optimizers.numbers` gives them -> what
        `optimizers.build` returns.
      dropout_key: data of the key that the masks of dropout are drawn from.
      model: the model with its first parameters.
      graph: what `nnx.merge` makes the model of, with a state's `params` and `rest`.
      state: the state before the first update, which lies on the devices.
      spread: the devices that a batch is split over.
    """

    task: base.Task
    steps_per_epoch: int | None
    steps: int
    make_optimizer: Callable[..., tuple[optax.GradientTransformation, Any]]
    dropout_key: jax.Array
    model: Any
    graph: Any
    state: steps.TrainState
    spread: devices.Spread

    def sizes(self) -> dict[str, int]:
        """The numbers of parameters, as result.json has them."""
        return {
            "num_params": build.count_params(self.model),
            "num_independent_params": build.count_independent_params(self.model),
        }

    def describe(self, config: Any) -> str:
        """What the run of a config begins with, in a few lines."""
        lengths = self.steps, self.steps_per_epoch
        return summary.beginning(
            config, self.task, self.sizes(), lengths, self.spread.count
        )


def assemble(
    config: Any, *, task: base.Task | None = None, one_device: bool = False
) -> Assembly:
    """Makes the parts of a run, from the data to the state before the first update.

    Args:
      config: the config of the run, checked by `fields.check`.
      task: what `tasks.build` makes of it, where that is there.
      one_device: whether all arrays are to lie on one device, as where the model is
        not trained.

    Raises:
      ValueError: a field or the data do not fit.
    """
    task = task or tasks.build(config)
    steps_per_epoch = fields.resolve_epoch(config.train, task)
    count = fields.resolve_steps(config.train, steps_per_epoch)
    make_optimizer = functools.partial(
        optimizers.build, config.train, steps=count, steps_per_epoch=steps_per_epoch
    )
    optimizer, _ = make_optimizer()
    memory.check(config, task)
    build.check_batches(config.model, task)
    spread = devices.ONE
    if not one_device:
        spread = devices.choose(config.train.devices, config.train.batch_size)
    graph, state, dropout_key = first_state(config, task, optimizer, spread)
    return Assembly(
        task=task,
        steps_per_epoch=steps_per_epoch,
        steps=count,
        make_optimizer=make_optimizer,
        dropout_key=dropout_key,
        model=nnx.merge(graph, state.params, state.rest),
        graph=graph,
        state=state,
        spread=spread,
    )


def first_state(
    config: Any, task: base.Task, optimizer: Any, spread: devices.Spread
) -> tuple[Any, steps.TrainState, jax.Array]:
    """What a run of the config's seed begins with, made by one program.

    Returns:
      The graph of the model, the state before any update, and the dropout key's data.
    """

    @jax.jit
    def first(seed: jax.Array) -> tuple[Any, steps.TrainState, jax.Array]:
        init_key, dropout_key = jax.random.split(jax.random.key(seed))
        model = build.build(config.model, task, rngs=nnx.Rngs(params=init_key))
        graph, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
        carry = None
        if task.stateful:
            carry = model.initialize_carry(config.train.batch_size)
        params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
        state = steps.initial_state(params, rest, optimizer, carry)
        return graph, state, jax.random.key_data(dropout_key)

    # As `jax.random.key` takes a number that is none of an array.
    graph, state, dropout_key = first(np.int64(config.seed))
    return graph, steps.place(state, spread), dropout_key
