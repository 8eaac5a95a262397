"""A recurrent layer in a stream: one measurement in, one decision out, and exported.

    python examples/streaming.py

`prepare` builds W once; after that a step costs a few products, and nothing of the past
is kept but the state. The step gives what the layer gives for the whole sequence.
`jax.export`, with the package flatbuffers, makes a file of it that runs without this
library, in another process, on the same or a newer JAX. Prints, in a few seconds on two
CPU cores (the time of a step is that of this machine):

    stream to sequence: within 1e-5: True
    a step: 0.03 ms
    exported: 39 KiB for cpu
    exported to stream: within 1e-6: True
"""

import time

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx

import svdrnn

SENSORS, HIDDEN, CLASSES, LENGTH = 3, 128, 5, 200


class Detector(nnx.Module):
    """Measurements (batch, time, sensors) -> scores (batch, time, classes)."""

    def __init__(self, rngs: nnx.Rngs):
        self.rnn = svdrnn.SpectralRNN(
            SENSORS, HIDDEN, reflectors=16, radius=0.05, rngs=rngs
        )
        self.head = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

    def __call__(self, x):
        """Scores at every step."""
        return self.head(self.rnn(x))

    def stream(self):
        """(step, first state); a step is (state, measurements) -> (state, scores)."""
        advance, state = self.rnn.prepare(batch_shape=())

        def step(state, measurements):
            state, output = advance(state, measurements)
            return state, self.head(output)

        return jax.jit(step), state


def run(step, state, measurements):
    """Scores (time, classes), one measurement after another."""
    scores = []
    for each in measurements:
        state, score = step(state, each)
        scores.append(score)
    return jnp.stack(scores)


def main():
    """Differences, stream to sequence and exported to stream, of the largest score."""
    model = Detector(nnx.Rngs(0))  # in earnest: a trained one
    random = np.random.default_rng(0)
    measurements = random.standard_normal((LENGTH, SENSORS), np.float32)
    expected = model(measurements[None])[0]

    step, first = model.stream()
    scores = run(step, first, measurements)
    largest = jnp.max(jnp.abs(expected))
    difference = float(jnp.max(jnp.abs(scores - expected)) / largest)
    print(f"stream to sequence: within 1e-5: {difference < 1e-5}")

    began = time.perf_counter()
    run(step, first, measurements).block_until_ready()
    milliseconds = 1000 * (time.perf_counter() - began) / LENGTH
    print(f"a step: {milliseconds:.2f} ms")

    exported = jax.export.export(step)(first, measurements[0])
    blob = exported.serialize()
    print(f"exported: {len(blob) // 1024} KiB for {', '.join(exported.platforms)}")
    restored = jax.jit(jax.export.deserialize(blob).call)
    again = run(restored, first, measurements)
    changed = float(jnp.max(jnp.abs(again - scores)) / largest)
    print(f"exported to stream: within 1e-6: {changed < 1e-6}")
    return difference, changed


if __name__ == "__main__":
    main()
