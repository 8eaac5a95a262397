"""A run in progress: all that the training loop changes, and how it is changed."""

import math
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from experiments.runs import logs, origin, progress
from experiments.tasks import base
from experiments.training import (
    assembly,
    checkpoints,
    evaluation,
    optimizers,
    processes,
    programs,
)


class Session:
    """A run in progress, from its start or its newest checkpoint to its end or a stop.

    Args:
      config: the config of the run.
      parts: what `assembly.assemble` made of the config.
      functions: the jitted functions of the run.
      saved: the checkpoints of the run, of which the newest is restored.
      began: when the session began, by `time.monotonic`.

    Attributes:
      state: the train state after the last update. Its buffers are donated to the next.
      best_params: the parameters that were best on validation data so far.
      record: what is saved beside them, see `checkpoints.FIRST_RECORD`.
      steps: how many updates the whole run makes, unless it stops early.
      step: how many have been made.
      start: how many had been made when the session began.
      log: metrics.jsonl, once `open_log` has opened it.
      progress: the line on the screen.
      stopwatch: measures how many updates are made a second.
    """

    def __init__(
        self,
        config: Any,
        parts: assembly.Assembly,
        functions: programs.Programs,
        saved: checkpoints.Checkpoints,
        began: float,
    ):
        self.config = config
        self.parts = parts
        self.task = parts.task
        self.programs = functions
        self.checkpoints = saved
        self.state = parts.state
        self.best_params = copied(parts.state.params)
        self.record = checkpoints.FIRST_RECORD.copy()
        restored = saved.restore(self.state, self.best_params)
        if restored is not None:
            self.state, self.best_params, self.record = restored
        self._make_train_step()
        self.steps = parts.steps
        self.step = self.start = int(self.state.step)
        self._seconds_before = self.record["seconds"]
        self._began = began
        self._conditions = origin.present() | {"devices": parts.spread.count}
        self._examples_per_step = self.task.units(config.train.batch_size)
        self._numbers: Any = None  # the sums and norms of the last update
        self.log = logs.Log()
        self.progress = progress.Progress(
            parts.steps, self._examples_per_step, self.task.unit
        )
        self.stopwatch = progress.Stopwatch(self.step)

    def _make_train_step(self) -> None:
        """Makes the step of training, with the learning rates of the record."""
        self._train_step, self._learning_rate = self.programs.make_train_step(
            self.record["restores"]
        )

    def open_log(self, workdir: pathlib.Path, resumes: bool) -> None:
        """Opens metrics.jsonl, and says there and on the screen what begins.

        Args:
          workdir: the folder of the run.
          resumes: whether the folder held this run before.
        """
        parts = self.parts
        earlier = origin.of_last_session(workdir)  # before its lines may be cut off
        if processes.first():
            resumed_from = self.start if resumes else None
            self.log = logs.MetricLog(workdir, resumed_from, self.record["restores"])
        print(parts.describe(self.config))
        if self.start == 0:
            self._log_start()
        if resumes:
            print(f"resumed from step {self.start} of {parts.steps}")
            if changed := origin.notice(earlier, self._conditions):
                print(changed)
            self.log.event(self.start, "resumed_from", **self._conditions)
        if not self.is_over():
            print("compiling the first step ...", flush=True)

    def _log_start(self) -> None:
        """Writes the event "started", with what figures and records need to know."""
        self.log.event(
            0,
            "started",
            task=self.task.name,
            model=self.config.model.name,
            primary=self.task.primary,
            baseline=self.task.baseline,
            **self._conditions,
        )

    def seconds(self) -> float:
        """The seconds that the run has taken, in this session and in those before it.

        Of those before only the time up to their last checkpoint counts.
        """
        return self._seconds_before + time.monotonic() - self._began

    def stops_early(self) -> bool:
        """Whether the run ends before its last step, by `config.train.patience`."""
        patience = self.config.train.patience
        stalled = patience is not None and self.record["stalled"] >= patience
        return stalled and self.step < self.steps

    def is_over(self) -> bool:
        """Whether all updates are made that the run makes."""
        return self.step == self.steps or self.stops_early()

    def update(self) -> None:
        """Makes the next update; only the first one of a session is waited for."""
        batch = self.task.train_batch(self.step)
        base.check_lengths(self.task, batch)
        split = self.parts.spread.split(batch)
        self.state, self._numbers = self._train_step(self.state, split)
        self.step += 1
        if self.step == self.start + 1:
            jax.block_until_ready(self.state)  # compiled: the rate counts from here
            self.stopwatch = progress.Stopwatch(self.step)

    def log_update(self) -> tuple[float, float | None]:
        """Writes the metrics of the last update's batch to the log.

        Returns:
          The loss, and the updates a second since the last time where there were any.
        """
        sums, norms = jax.device_get(self._numbers)
        rate = self.stopwatch.read(self.step)
        with self.stopwatch.paused():
            diagnostics = self.programs.diagnose(self.state)
            values = self.task.metrics(sums) | norms | diagnostics
            scale = optimizers.plateau_scale(self.state.opt_state)
            values["learning_rate"] = self._learning_rate(self.step - 1) * scale
            values["seconds"] = self.seconds()
            values[f"{self.task.unit}_per_second"] = (
                rate and rate * self._examples_per_step
            )
            self.log.write(self.step, "train", values)
        return values["loss"], rate

    def validate(self) -> dict[str, float] | None:
        """Evaluates the validation data, whose metrics are written to the log.

        They choose the best parameters, and the learning rate on a plateau; and those
        in a row that are no improvement are counted.

        Returns:
          The metrics; None where one of them is not finite.
        """
        functions = self.programs
        evaluated = functions.averaged(self.state)
        metrics = evaluation.evaluate(
            functions.eval_step,
            self.task,
            evaluated,
            "valid",
            functions.eval_spread,
            self.config.train.valid_batches,
        )
        validation = {"step": self.step, "valid": metrics}
        self.record["last"] = validation
        self.log.write(self.step, "valid", metrics | {"seconds": self.seconds()})
        if not all(map(math.isfinite, metrics.values())):
            return None
        self.progress.validation(self.task.primary, metrics[self.task.primary])
        best = self.record["best"]
        improved = evaluation.improves(self.task, metrics, best)
        self.record["stalled"] = 0 if improved else self.record["stalled"] + 1
        if evaluation.better(self.task, metrics, best):
            self.record["best"] = validation
            self.best_params = copied(evaluated.params)
        opt_state = functions.observe(self.state.opt_state, metrics["loss"])
        self.state = self.state._replace(opt_state=opt_state)
        return metrics

    def save(self) -> None:
        """Saves a checkpoint."""
        self.record["seconds"] = self.seconds()
        self.checkpoints.save(self.step, self.state, self.best_params, self.record)

    def go_back(self, bad_step: int, what: str) -> None:
        """Goes back to the newest checkpoint, or to the start, with halved rates.

        Args:
          bad_step: the step at which something was not finite.
          what: that was.
        """
        restores = self.record["restores"] + 1
        restored = self.checkpoints.restore(self.state, self.best_params)
        if restored is None:
            optimizer, _ = self.parts.make_optimizer()
            _, self.state, _ = assembly.first_state(
                self.config, self.task, optimizer, self.parts.spread
            )
            self.best_params = copied(self.state.params)
            self.record = checkpoints.FIRST_RECORD.copy()
        else:
            self.state, self.best_params, self.record = restored
        self.record["restores"] = restores
        self._make_train_step()
        self.step = int(self.state.step)
        self.stopwatch = progress.Stopwatch(self.step)
        self.log.go_back(self.step)
        if self.step == 0:
            self._log_start()
        self.log.event(
            self.step,
            "restored",
            what=what,
            non_finite_at=bad_step,
            restores=restores,
        )
        logging.warning(
            "%s is not finite at step %d: back to step %d, rates halved %d times",
            what,
            bad_step,
            self.step,
            restores,
        )

    def close(self) -> None:
        """Ends the line of progress and closes the log."""
        self.progress.close()
        self.log.close()


@jax.jit
def copied(tree: Any) -> Any:
    """Arrays of their own with the values of others, which a step may take."""
    return jax.tree.map(jnp.copy, tree)
