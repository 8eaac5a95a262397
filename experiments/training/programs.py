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
        self._diagnostics = jax.jit(
            lambda *state: nnx.merge(graph, *state).diagnostics()
        )

    def make_train_step(self, restores: int) -> tuple[Callable, Callable]:
        """The step of training and its learning rate, halved so many times.

        Args:
          restores: how often the run has gone back to a checkpoint.

        Returns:
          See `steps.make_train_step`; and the schedule of `optimizers.build`.
        """
        parts = self._parts
        optimizer, learning_rate = parts.optimizer, parts.learning_rate
        if restores:
            optimizer, learning_rate = optimizers.build(
                optimizers.slowed(self._config.train, restores),
                steps=parts.steps,
                steps_per_epoch=parts.steps_per_epoch,
            )
        train_step = steps.make_train_step(
            parts.graph, parts.task, optimizer, parts.dropout_key, parts.spread
        )
        return train_step, learning_rate

    def diagnose(self, state: steps.TrainState) -> dict:
        """The numbers that the model tells of itself, computed by one device."""
        arrays = devices.ONE.held((state.params, state.rest))
        return jax.device_get(self._diagnostics(*arrays))
