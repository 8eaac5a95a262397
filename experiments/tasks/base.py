"""What the training loop asks of a task."""

import abc
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import checks
from experiments.tasks import scoring

Batch = dict[str, np.ndarray]
Sums = dict[str, jnp.ndarray]

EVAL_SEQUENCES = 10_000  # size of a synthetic validation or test split
EVAL_BATCH = 500

# First entry of every seed sequence after the seed: streams that never meet.
STREAMS = {"train": 0, "valid": 1, "test": 2}


class Task(abc.ABC):
    """Data, loss and metrics of one experiment.

    Attributes:
      name: the registry's name of the task.
      metric: the one by which runs are judged, that of the registration; a task that
        has none has attributes `primary` and `higher_is_better` of its own.
      sequential: whether the inputs have a time axis.
      time_steps: those of a training sequence, where they are known: whether the run
        fits into memory is told from them.
      in_features: features of one time step of the inputs, or of the whole input of
        a task without a time axis; not read where the inputs are tokens.
      vocabulary: number of tokens where the inputs are tokens, which the model
        embeds; else None.
      out_features: features of one output of the model.
      readout: "last" or "all": whether the model reads out one state of a sequence,
        which `config.model.pool` chooses, or every one; not read without a time axis.
      stateful: whether the hidden state is carried from batch to batch; all
        training batches then have one size.
      baseline: loss of the model that knows nothing, or None.
      inputs_bound: the least B with ||x_t||_2 <= B for every input of one time step
        that there can be, known without the data; None where there is none.
      unit: what a rate of progress counts, "examples" or "tokens".
      by_steps: whether `prepare` makes every step of that step alone.
    """

    name: str
    metric: scoring.Metric
    sequential: bool = True
    time_steps: int = 1
    in_features: int
    vocabulary: int | None = None
    out_features: int
    readout: str
    stateful: bool = False
    baseline: float | None = None
    inputs_bound: float | None = None
    unit: str = "examples"
    by_steps: bool = True

    @functools.cached_property
    def primary(self) -> str:
        """Name of the metric that chooses the best step on validation data.

        Of equal ones the lower loss does, and of equal losses the later step.
        """
        return self.metric.name

    @functools.cached_property
    def higher_is_better(self) -> bool:
        """Direction of `primary`."""
        return self.metric.higher_is_better

    def describe(self) -> str:
        """The data in a few words, for the first lines of a run."""
        return "data of the task's own"

    def units(self, batch_size: int) -> int:
        """How many of `unit` are in a training batch."""
        return batch_size

    @abc.abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Updates in one pass over the training data; None for a stream."""

    @abc.abstractmethod
    def train_batch(self, step: int) -> Batch:
        """The batch of update `step` (from 0), a function of (seed, step) alone.

        Holds "inputs", (batch, time, in_features) float32 or tokens (batch, time)
        int32, without a time axis (batch, in_features), and what `sums` needs. That
        of a stateful task has "reset", a bool: whether the state starts from zeros
        again. Sequences that end before the last step have "lengths", (batch,) int32:
        how many steps, from 1 to time, are an item's own. What stands behind them, be
        it NaN, is not read; outputs there, with `readout` "all", are not to be
        counted by `sums`. A stateful task has none.
        """

    @abc.abstractmethod
    def eval_batches(self, split: str) -> Iterator[Batch]:
        """Batches of equal shape that cover "valid" or "test" once, in order.

        Each carries "weights" float32, 1, or 0 for padding: (batch,), or (batch,
        time) where the tokens of a text, or all steps, are counted. "reset" and
        "lengths" as in training.
        """

    def file_batches(self, path: pathlib.Path) -> Iterator[Batch]:
        """Batches of new items from a file, for `experiments.predict --input`.

        They are as those of `eval_batches`, by what was fitted to the training data.
        Where the file has no targets they have no "targets", are not given to `sums`,
        and `predictions` leaves targets out.

        Raises:
          ValueError: the file does not fit; or always, of a task that says nothing
            else.
        """
        raise ValueError(
            f"--input must be left out for {self.name}, which predicts its own splits"
            f" alone, got {path}"
        )

    def prepare(self, raw: jnp.ndarray) -> jnp.ndarray:
        """The inputs of a batch, made of raw ones of the same shape and type.

        An exported model begins with it, so that it takes what the data hold where a
        task scales them by numbers of its own before they are in batches. Of a task
        that says nothing else: as they are.
        """
        return raw

    def finish(self, outputs: jnp.ndarray) -> jnp.ndarray:
        """What an exported model gives of its outputs, of a shape of the task's own.

        It takes back what a task does to its targets, as numbers that are scaled. Of a
        task that says nothing else: the outputs as they are.
        """
        return outputs

    @abc.abstractmethod
    def sums(self, outputs: jnp.ndarray, batch: Batch) -> Sums:
        """Weighted sums over a batch: "loss", "count" and what `metrics` needs."""

    def predictions(self, outputs: jnp.ndarray, batch: Batch) -> dict[str, jnp.ndarray]:
        """What `experiments.predict` keeps: "predictions" beside "targets".

        Arrays (batch, ...), or (batch, time, ...) where the weights have these axes.
        Of a task that says nothing else: outputs beside the batch's targets.
        """
        if "targets" not in batch:
            raise ValueError(
                f"the task {self.name} must have a method predictions, or batches with"
                f" 'targets', got {', '.join(batch)}"
            )
        return {"predictions": outputs, "targets": jnp.asarray(batch["targets"])}

    @abc.abstractmethod
    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        """Sums over a split, divided once: "loss" and the task's own metric."""

    def fitted(self) -> dict[str, Any]:
        """What the task has taken from its training data, as JSON values.

        A run keeps it as task.json and is refused where it differs: on other data the
        same parameters would mean something else. Numbers may differ by rounding.
        "data" is a digest of data that have no published one.
        """
        return {}


class Order:
    """The items of each training batch, in an order drawn from (seed, epoch).

    What does not fill the last batch of an epoch is dropped; fewer items than a batch
    are one batch of all of them.

    Args:
      count: how many items there are.
      seed: of the orders.
      batch_size: items in a batch.
    """

    def __init__(self, count: int, *, seed: int, batch_size: int):
        self._count = count
        self._seed = seed
        self._batch_size = batch_size
        self._order = functools.lru_cache(maxsize=1)(self._draw)

    def _draw(self, epoch: int) -> np.ndarray:
        return generator(self._seed, "train", epoch).permutation(self._count)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches of an epoch."""
        return max(1, self._count // batch_size)

    def rows(self, step: int) -> np.ndarray:
        """The items of update `step`."""
        epoch, position = divmod(step, self.steps_per_epoch(self._batch_size))
        start = position * self._batch_size
        return self._order(epoch)[start : start + self._batch_size]


def weights(batch: Batch) -> jnp.ndarray:
    """The batch's weights, or ones (batch,) where it carries none."""
    if "weights" in batch:
        return jnp.asarray(batch["weights"])
    return jnp.ones(batch["inputs"].shape[0], jnp.float32)


def pad(batch: Batch, size: int) -> Batch:
    """Repeats the last example up to `size` examples and adds the weights."""
    count = len(batch["inputs"])
    rows = np.minimum(np.arange(size), count - 1)
    padded = {name: values[rows] for name, values in batch.items()}
    padded["weights"] = (np.arange(size) < count).astype(np.float32)
    return padded


def generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The random stream of batch `index` of a split."""
    return np.random.default_rng(np.random.SeedSequence([seed, STREAMS[split], index]))


def check_lengths(task: Task, batch: Batch) -> None:
    """Raises ValueError for a batch whose "lengths" no model can take."""
    if "lengths" not in batch:
        return
    if task.stateful or not task.sequential:
        why = "a state is carried" if task.stateful else "inputs have no time axis"
        raise ValueError(
            f"batches of {task.name} must be without 'lengths', as {why}, got"
            f" {', '.join(batch)}"
        )
    lengths, (size, steps) = batch["lengths"], batch["inputs"].shape[:2]
    if lengths.shape != (size,) or not np.issubdtype(lengths.dtype, np.integer):
        raise ValueError(
            f"lengths of {task.name} must be integers ({size},), got {lengths.dtype}"
            f" {lengths.shape}"
        )
    if lengths.min() < 1 or lengths.max() > steps:
        raise ValueError(
            f"lengths of {task.name} must lie in 1 ... {steps}, got {lengths.min()} ..."
            f" {lengths.max()}"
        )


def check_split(split: str) -> None:
    """Raises ValueError unless `split` is one that is evaluated."""
    if split not in ("valid", "test"):
        raise ValueError(f"split must be 'valid' or 'test', got {split!r}")


def check_batch_size(batch_size: Any, most: int, of_what: str) -> None:
    """Raises ValueError unless a batch can be taken from so many of something."""
    checks.check_field("train.batch_size", batch_size)
    if batch_size > most:
        raise ValueError(
            f"config.train.batch_size must be at most the {most} {of_what}, got"
            f" {batch_size}"
        )
