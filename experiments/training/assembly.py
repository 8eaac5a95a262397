"""What a config is made into before the first step."""

from typing import Any, NamedTuple

import jax
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
      optimizer: see `optimizers.build`.
      learning_rate: see `optimizers.build`.
      dropout_key: the key that the masks of dropout are drawn from.
      model: the model with its first parameters.
      graph: what `nnx.merge` makes the model of, with a state's `params` and `rest`.
      state: the state before the first update, which lies on the devices.
      spread: the devices that a batch is split over.
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


def assemble(config: Any, *, one_device: bool = False) -> Assembly:
    """Makes the parts of a run, from the data to the state before the first update.

    Args:
      config: the config of the run, checked by `fields.check`.
      one_device: whether all arrays are to lie on one device, as where the model is
        not trained.

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
    _, dropout_key = _keys(config)
    return Assembly(
        task=task,
        steps_per_epoch=steps_per_epoch,
        steps=count,
        optimizer=optimizer,
        learning_rate=learning_rate,
        dropout_key=dropout_key,
        model=model,
        graph=nnx.graphdef(model),
        state=state,
        spread=spread,
    )


def _keys(config: Any) -> tuple[jax.Array, jax.Array]:
    """The keys of the first parameters and of dropout."""
    init_key, dropout_key = jax.random.split(jax.random.key(config.seed))
    return init_key, dropout_key


def first_state(
    config: Any, task: base.Task, optimizer: Any, spread: devices.Spread
) -> tuple[Any, steps.TrainState]:
    """Makes the model with its first parameters and the state before any update."""
    init_key, _ = _keys(config)
    model = build.build(config.model, task, rngs=nnx.Rngs(params=init_key))
    _, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    state = steps.initial_state(
        nnx.to_pure_dict(params),
        nnx.to_pure_dict(rest),
        optimizer,
        model.initialize_carry(config.train.batch_size) if task.stateful else None,
    )
    return model, steps.place(state, spread)
