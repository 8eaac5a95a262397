"""Penn Treebank as one long text: predict every word, or every character."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from typing_extensions import override

from experiments import checks
from experiments.data import ptb
from experiments.tasks import base, registry

EVAL_STREAMS = 10  # streams in an evaluation batch


class PennTreebank(base.Task):
    """Next-token prediction in contiguous streams, the state carried along.

    The N tokens of a split become B streams of ceil(N / B) consecutive tokens, cut
    into windows of T. An epoch predicts every token once, from the token before
    it, and the first one from `boundary`. What is left over in the last stream and
    the last window is padded and has weight 0. Every epoch, and every evaluation,
    starts from a zero state.

    Source: truncated back-propagation as in Mikolov et al., "Recurrent neural
    network based language model", 2010.

    Args:
      corpus: `train`, `valid` and `test`, each (tokens,) integers, and
        `vocabulary`, the symbols they stand for.
      window: time steps T of a batch.
      batch_size: streams B of the training part; the others have `EVAL_STREAMS`.

    Raises:
      ValueError: an argument that is not an integer >= 1, more streams than
        tokens, an empty part, a token outside the vocabulary, or a vocabulary
        without `boundary`.
    """

    readout = "all"
    stateful = True
    unit = "tokens"
    boundary: str  # the token that ends a line, and stands before the first one

    def __init__(self, corpus: Any, *, window: int, batch_size: int):
        checks.check_integer("config.task.window", window)
        if self.boundary not in corpus.vocabulary:
            raise ValueError(f"the vocabulary must have the token {self.boundary!r}")
        self.vocabulary = self.out_features = len(corpus.vocabulary)
        self.baseline = math.log(self.vocabulary)
        self.window = self.time_steps = window
        self.batch_size = batch_size
        self._before_first = corpus.vocabulary.index(self.boundary)
        self._tokens = {
            split: _checked(getattr(corpus, split), split, self.vocabulary)
            for split in ("train", "valid", "test")
        }
        tokens = len(self._tokens["train"])
        base.check_batch_size(batch_size, tokens, "training tokens")

    @override
    def describe(self) -> str:
        sizes = ", ".join(
            f"{len(tokens)} {split}" for split, tokens in self._tokens.items()
        )
        return f"tokens: {sizes}; {self.vocabulary} different ones"

    @override
    def units(self, batch_size: int) -> int:
        return batch_size * self.window

    def _windows(self, split: str, streams: int) -> int:
        """Batches that cover a split."""
        length = math.ceil(len(self._tokens[split]) / streams)
        return math.ceil(length / self.window)

    def _batch(self, split: str, streams: int, index: int) -> base.Batch:
        """Window `index` of all streams: tokens and weights (streams, time)."""
        tokens = self._tokens[split]
        length = math.ceil(len(tokens) / streams)
        within = index * self.window + np.arange(self.window)
        places = np.arange(streams)[:, None] * length + within
        present = (within < length) & (places < len(tokens))
        places = np.where(present, places, 0)
        return {
            "inputs": np.where(places > 0, tokens[places - 1], self._before_first),
            "targets": tokens[places],
            "weights": present.astype(np.float32),
            "reset": np.bool_(index == 0),
        }

    @override
    def steps_per_epoch(self, batch_size: int) -> int:
        return self._windows("train", batch_size)

    @override
    def train_batch(self, step: int) -> base.Batch:
        index = step % self.steps_per_epoch(self.batch_size)
        return self._batch("train", self.batch_size, index)

    @override
    def eval_batches(self, split: str) -> Iterator[base.Batch]:
        base.check_split(split)
        for index in range(self._windows(split, EVAL_STREAMS)):
            yield self._batch(split, EVAL_STREAMS, index)

    @override
    def sums(self, outputs: jnp.ndarray, batch: base.Batch) -> base.Sums:
        weights = base.weights(batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            outputs, batch["targets"]
        )
        return {"loss": jnp.sum(weights * losses), "count": jnp.sum(weights)}

    @override
    def predictions(
        self, outputs: jnp.ndarray, batch: base.Batch
    ) -> dict[str, jnp.ndarray]:
        targets = jnp.asarray(batch["targets"])
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        chosen = jnp.argmax(outputs, axis=-1)
        return super().predictions(chosen, batch) | {"log_probabilities": -losses}


class PennTreebankWords(PennTreebank):
    """Words, and `<eos>` at every line's end; perplexity exp(loss).

    Arguments and errors are those of `PennTreebank`.
    """

    name = "ptb_word"
    metric = registry.metric(name)
    boundary = ptb.EOS

    @override
    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        loss = float(sums["loss"] / sums["count"])
        with np.errstate(over="ignore"):  # infinite: the loop stops at it
            return {"loss": loss, "perplexity": float(np.exp(loss))}


class PennTreebankCharacters(PennTreebank):
    """Characters, newlines among them; bits per character, loss / ln 2.

    Arguments and errors are those of `PennTreebank`.
    """

    name = "ptb_char"
    metric = registry.metric(name)
    boundary = "\n"

    @override
    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        loss = float(sums["loss"] / sums["count"])
        return {"loss": loss, "bits_per_character": loss / math.log(2)}


def _checked(tokens: Any, split: str, vocabulary: int) -> np.ndarray:
    """Tokens (tokens,) int32, each in 0 ... vocabulary - 1."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(
            f"{split} must be integers (tokens,), got {tokens.dtype} {tokens.shape}"
        )
    if len(tokens) == 0:
        raise ValueError(f"{split} has no tokens")
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise ValueError(
            f"{split} tokens must lie in 0 ... {vocabulary - 1}, got"
            f" {tokens.min()} ... {tokens.max()}"
        )
    return tokens.astype(np.int32)


def words(config: Any) -> PennTreebankWords:
    """The task of a config, over words."""
    return _build(config, PennTreebankWords, ptb.load_words)


def characters(config: Any) -> PennTreebankCharacters:
    """The task of a config, over characters."""
    return _build(config, PennTreebankCharacters, ptb.load_characters)


def _build(config: Any, kind: Callable, load: Callable) -> Any:
    checks.check_integer("config.task.window", config.task.window)  # before the data
    return kind(
        load(config.data_dir, config.allow_other_data),
        window=config.task.window,
        batch_size=config.train.batch_size,
    )
