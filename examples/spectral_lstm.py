"""A text classifier on flax's LSTM with spectral gates, for padded batches.

    python examples/spectral_lstm.py

Reviews of different lengths, as words, are padded to one length; the LSTM's last state
before the padding says whether they praise. Of the LSTM's fused recurrent kernel every
gate is a matrix of its own, and `svdrnn.bake` in the loss builds them once a call and
not at every step. Prints, in a quarter of a minute on two CPU cores:

    rnn/cell/dense_h/kernel (64, 256), gates in [0.9, 1.1]
    step    0  loss 0.691  accuracy 0.539
    step   50  loss 0.163  accuracy 1.000
    step  100  loss 0.001  accuracy 1.000
    step  150  loss 0.001  accuracy 1.000
    largest violation 0.0e+00
    the plot was not good        : bad
    i think it was not bad at all: good
"""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import svdrnn

OPENINGS = ["", "i think", "to be honest", "my friends say that", "well , in the end"]
SUBJECTS = ["it", "the plot", "the film", "the acting", "the music of the first half"]
VERDICTS = ["good", "great", "bad", "boring"]
ENDINGS = ["", "at all", "from the first scene to the last", ", that is all i say"]
WORDS = sorted(
    {w for part in (OPENINGS, SUBJECTS, ENDINGS) for s in part for w in s.split()}
)
VOCABULARY = {word: i for i, word in enumerate([*WORDS, *VERDICTS, "was", "not"])}
LENGTH = 24


class Classifier(nnx.Module):
    """Words (batch, time) and lengths (batch,) -> logits (batch, 2)."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(len(VOCABULARY), 32, rngs=rngs)
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(32, 64, rngs=rngs), rngs=False)
        self.head = nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, words, lengths):
        """The logits of the state after the last word."""
        zeros = jnp.zeros((len(words), 64))
        (_, last), _ = self.rnn(
            self.embed(words),
            seq_lengths=lengths,
            initial_carry=(zeros, zeros),
            return_carry=True,
        )
        return self.head(last)


def encode(sentences):
    """Words as numbers, padded with zeros, and how many there are."""
    words = np.zeros((len(sentences), LENGTH), np.int32)
    lengths = np.array([len(s.split()) for s in sentences])
    for row, sentence in zip(words, sentences, strict=True):
        numbers = [VOCABULARY[word] for word in sentence.split()]
        row[: len(numbers)] = numbers
    return jnp.asarray(words), jnp.asarray(lengths)


def reviews(random, count):
    """Sentences, and 1 for those that praise: `not` turns the verdict."""
    sentences, labels = [], []
    for _ in range(count):
        verdict, turned = random.integers(4), random.integers(2)
        parts = [
            random.choice(OPENINGS),
            random.choice(SUBJECTS),
            "was not" if turned else "was",
            VERDICTS[verdict],
            random.choice(ENDINGS),
        ]
        sentences.append(" ".join(" ".join(parts).split()))
        labels.append((verdict < 2) != turned)
    return sentences, jnp.asarray(labels, jnp.int32)


@nnx.jit
def step(model, optimizer, words, lengths, labels):
    """One update; the loss and the accuracy before it."""

    def loss(model):
        logits = svdrnn.bake(model)(words, lengths)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return each.mean(), jnp.mean(logits.argmax(-1) == labels)

    (value, accuracy), gradient = nnx.value_and_grad(loss, has_aux=True)(model)
    optimizer.update(model, gradient)
    return value, accuracy


def main(steps: int = 151):
    """Trains, and returns the model and its last accuracy."""
    model = Classifier(nnx.Rngs(0))
    svdrnn.constrain(model, svdrnn.Spectral(radius=0.1), where="rnn/cell/dense_h")
    for report in svdrnn.constraints(model):
        low, high = report.interval
        print(f"{report.path} {report.shape}, gates in [{low:g}, {high:g}]")

    optimizer = nnx.Optimizer(model, optax.adam(5e-3), wrt=nnx.Param)
    random = np.random.default_rng(0)
    for i in range(steps):
        sentences, labels = reviews(random, 128)
        value, accuracy = step(model, optimizer, *encode(sentences), labels)
        if i % 50 == 0:
            print(f"step {i:4d}  loss {value:.3f}  accuracy {accuracy:.3f}")

    worst = max(report.violation for report in svdrnn.constraints(model))
    print(f"largest violation {worst:.1e}")
    plain = svdrnn.bake(model)
    for sentence in ("the plot was not good", "i think it was not bad at all"):
        answer = ("bad", "good")[int(plain(*encode([sentence])).argmax())]
        print(f"{sentence:29}: {answer}")
    return model, float(accuracy)


if __name__ == "__main__":
    main()
