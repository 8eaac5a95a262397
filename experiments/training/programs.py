"""The jitted functions of a run, made of its config and its parts."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from experiments.training import assembly, devices, evaluation, optimizers, steps


class Programs:
    """What a run computes on its devices.

    Nothing is compiled before it is called.

    Args:
      config: the config of the run.
      parts: what `assembly.assemble` made of it.

    Attributes:
      eval_step: the step of an evaluation, see `steps.make_eval_step`.
      eval_spread: the devices of an evaluation, whose batches may be too small for all.
      observe: see `optimizers.make_observe`.
      averaged: see `optimizers.make_averaged`.
    """

    def __init__(self, config: Any, parts: assembly.Assembly):
        self._config = config
        self._parts = parts
        graph, task = parts.graph, parts.task
        self.eval_spread = parts.spread.narrowed(evaluation.batch_size(task))
        self.eval_step = steps.make_eval_step(graph, task, spread=self.eval_spread)
        self.observe = optimizers.make_observe(config.train)
        self.averaged = optimizers.make_averaged(config.train)
        make = parts.make_optimizer
        self._train_step = steps.make_train_step(
            graph, task, lambda numbers: make(numbers)[0], parts.spread
        )

        def learning_rate(numbers: optimizers.Numbers, step: Any) -> jax.Array:
            return make(numbers)[1](step)

        def diagnostics(*state: Any) -> dict[str, jax.Array]:
            return nnx.merge(graph, *state).diagnostics()

        self._learning_rate = jax.jit(learning_rate)
        self._diagnostics = jax.jit(diagnostics)

    def make_train_step(self, restores: int) -> tuple[Callable, Callable]:
        """The step of training and its learning rate, halved so many times.

        Args:
          restores: how often the run has gone back to a checkpoint.

        Returns:
          (state, batch) -> (state, (sums, norms)), see `steps.make_train_step`; and the
          number of an update -> its learning rate, without `plateau_scale`.
        """
        train = self._config.train
        numbers = optimizers.numbers(train, restores)
        settings = steps.Settings(self._parts.dropout_key, numbers)
        settings = self._parts.spread.everywhere(settings)

        def train_step(state: steps.TrainState, batch: Any) -> Any:
            return self._train_step(state, settings, batch)

        def learning_rate(step: int) -> Any:
            if train.schedule in optimizers.CONSTANT:
                return numbers.peaks["rest"]
            return jax.device_get(self._learning_rate(numbers, step))

        return train_step, learning_rate

    def diagnose(self, state: steps.TrainState) -> dict:
        """The numbers that the model tells of itself, computed by one device."""
        arrays = devices.ONE.held((state.params, state.rest))
        return jax.device_get(self._diagnostics(*arrays))
