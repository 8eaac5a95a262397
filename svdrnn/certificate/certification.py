"""The certificate of a trained model, and what `generalization` needs of the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Integer

from svdrnn import checks
from svdrnn._types import AnyArray, Count, Number
from svdrnn.activations import Activation
from svdrnn.certificate import generalization
from svdrnn.rnn import SpectralRNN

# The activations that are 1-Lipschitz and zero at zero whatever was learned.
ACTIVATIONS = ("leaky_relu", "relu", "tanh", "identity")

_IDENTITY = Activation("identity")

_BATCH = 1000


def classifiers(
    rnn: SpectralRNN, readout: nnx.Linear, *, steps: Count, inputs_bound: Number
) -> generalization.Classifiers:
    """The class of classifiers that a model is one of: f(x) = readout(psi(h_T)).

    psi has no part in it: any of `ACTIVATIONS` leaves lengths and differences of states
    no larger.

    Args:
      rnn: the recurrence, from h_0 = 0.
      readout: of its last state.
      steps: T, of every sequence.
      inputs_bound: B >= ||x_t||_2 for every input that there can be. An assumption
        about where examples come from: never to be read off them.

    Raises:
      ValueError: the model is not of the kind that there is a bound for.
    """
    if not isinstance(rnn, SpectralRNN):
        raise ValueError(f"rnn must be a SpectralRNN, got {type(rnn).__name__}")
    if not isinstance(readout, nnx.Linear):
        raise ValueError(f"readout must be an nnx.Linear, got {type(readout).__name__}")
    checks.check_name("activation of rnn", rnn.cell.activation.name, ACTIVATIONS)
    weight, n = rnn.cell.weight, rnn.cell.hidden_features
    if readout.in_features != n:
        raise ValueError(
            f"readout must take the {n} features of a state, got {readout.in_features}"
        )
    return generalization.Classifiers(
        features=rnn.cell.in_features,
        hidden=n,
        classes=readout.out_features,
        reflectors=(weight.u_vectors.shape[0], weight.v_vectors.shape[0]),
        radius=weight.radius,
        center=weight.center,
        steps=int(steps),
        inputs_bound=float(inputs_bound),
        bias=rnn.cell.bias is not None,
        readout_bias=readout.bias is not None,
    )


def norms(rnn: SpectralRNN, readout: nnx.Linear) -> generalization.Norms:
    """The norms that the parameters of a model have, computed in float64."""
    return generalization.Norms(
        input_weights=_norm(rnn.cell.input_weights),
        bias=_norm(rnn.cell.bias),
        readout=_norm(readout.kernel),
        readout_bias=_norm(readout.bias),
    )


def margins(
    rnn: SpectralRNN,
    readout: nnx.Linear,
    inputs: Float[AnyArray, "examples time n_in"],
    labels: Integer[AnyArray, " examples"],
    *,
    readout_activation: Activation = _IDENTITY,
    batch_size: int = _BATCH,
) -> Float[np.ndarray, " examples"]:
    """`generalization.margins` of f(x) = readout(psi(h_T)).

    Computed in float64 from the parameters as they are stored, unless the model has a
    `dtype`: the bound is about exact arithmetic.

    Args:
      rnn: the recurrence, from h_0 = 0.
      readout: of its last state.
      inputs: (examples, time, n_in).
      labels: (examples,), from 0.
      readout_activation: psi, between the last state and the readout.
      batch_size: examples that go through the recurrence at once.
    """
    graph, state = nnx.split((rnn, readout))
    with jax.enable_x64(True):
        parts = (jnp.asarray(x, jnp.float64) for x in _parts(inputs, batch_size))
        logits = [
            np.asarray(_logits(graph, readout_activation, state, x)) for x in parts
        ]
    return generalization.margins(np.concatenate(logits), np.asarray(labels))


def certify(
    rnn: SpectralRNN,
    readout: nnx.Linear,
    inputs: Float[AnyArray, "examples time n_in"],
    labels: Integer[AnyArray, " examples"],
    *,
    inputs_bound: Number,
    delta: Number = 0.05,
    readout_activation: Activation = _IDENTITY,
) -> generalization.Certificate:
    """A bound on the error of a trained classifier f(x) = readout(psi(h_T)).

    `generalization.certificate` of the model's class, norms and margins.

    Args:
      rnn: the recurrence, from h_0 = 0.
      readout: of its last state.
      inputs: (examples, time, n_in): all examples that the model was trained on, and
        no others.
      labels: (examples,), from 0.
      inputs_bound: B >= ||x_t||_2 for every input that there can be. An assumption
        about where examples come from: never to be read off them.
      delta: the probability with which the bound may fail.
      readout_activation: psi, between the last state and the readout: by a name of
        `ACTIVATIONS`.

    Raises:
      ValueError: the model or psi is not of the kind that there is a bound for, or an
        input is longer than `inputs_bound`.
    """
    kind = classifiers(rnn, readout, steps=inputs.shape[1], inputs_bound=inputs_bound)
    checks.check_name("readout_activation", readout_activation.name, ACTIVATIONS)
    longest = max(
        float(np.max(np.linalg.norm(np.asarray(part, np.float64), axis=-1)))
        for part in _parts(inputs, _BATCH)
    )
    # What is 1 in exact arithmetic may have been rounded up where it is stored.
    if not longest <= kind.inputs_bound * (1 + 1e-6):
        raise ValueError(
            f"inputs_bound must be at least the norm of every input, {longest:g}, got"
            f" {inputs_bound!r}"
        )
    of_examples = margins(
        rnn, readout, inputs, labels, readout_activation=readout_activation
    )
    return generalization.certificate(
        kind, norms(rnn, readout), of_examples, delta=delta
    )


def _norm(parameter: nnx.Param | None) -> float:
    if parameter is None:
        return 0.0
    return float(np.linalg.norm(np.asarray(parameter[...], np.float64)))


def _parts(inputs: AnyArray, size: int) -> list[AnyArray]:
    return [inputs[at : at + size] for at in range(0, len(inputs), size)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(
    graph: nnx.GraphDef, psi: Activation, state: nnx.State, inputs: Array
) -> Array:
    """Logits (examples, classes) of a model whose parameters are widened."""
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state)
    rnn, readout = nnx.merge(graph, wide)
    return readout(psi(rnn(inputs, last_only=True, time_major=False)))
