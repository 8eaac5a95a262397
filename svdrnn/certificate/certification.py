"""The certificates of a trained model, and what their mathematics needs of it."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Integer

from svdrnn import checks, projection
from svdrnn._types import AnyArray, Count, Number
from svdrnn.activations import Activation
from svdrnn.certificate import generalization, rounding
from svdrnn.kernels import Kernel
from svdrnn.matrices import SpectralMatrix
from svdrnn.rnn import SpectralRNN

# The activations that are 1-Lipschitz and zero at zero whatever was learned.
ACTIVATIONS = ("leaky_relu", "relu", "tanh", "identity")

_IDENTITY = Activation("identity")

_BATCH = 1000
_SEARCHED = 10_000  # examples, by which the bits of rounded parameters are chosen


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
    models: Count = 1,
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
      models: of how many models, whose sizes were fixed beforehand, this is the best.
      readout_activation: psi, between the last state and the readout: by a name of
        `ACTIVATIONS`.

    Raises:
      ValueError: the model or psi is not of the kind that there is a bound for, an
        input is longer than `inputs_bound`, or delta or models is out of range.
    """
    delta, models = generalization.check_chance(delta, models)  # margins take long
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
        kind, norms(rnn, readout), of_examples, delta=delta, models=models
    )


def certify_rounded(
    model: nnx.Module,
    inputs: Float[AnyArray, "examples ..."],
    labels: Integer[AnyArray, " examples"],
    *,
    logits: Callable[[Any, Array], Array] = lambda model, inputs: model(inputs),
    delta: Number = 0.05,
    models: Count = 1,
) -> tuple[rounding.RoundedCertificate, nnx.Module]:
    """A bound on the error of a classifier of few bits, made of a trained one.

    The entries of every tensor of parameters are rounded to as few bits as make the
    bound of `rounding` least, which is about the classifier that is returned, as
    `logits` computes it. Its layers, activations and inputs may be any.

    Args:
      model: the trained classifier, of parameters of float32 or float64. What is no
        `nnx.Param` counts as fixed before the examples were seen.
      inputs: (examples, ...): all examples that it was trained on, and no others.
      labels: (examples,), from 0.
      logits: (model, some inputs) -> (len(inputs), classes).
      delta: the probability with which the bound may fail.
      models: of how many models, whose sizes were fixed beforehand, this is the best.

    Returns:
      The certificate, and a copy of the model with the rounded parameters.

    Raises:
      ValueError: parameters that are not finite, labels that do not fit, a delta or a
        number of models out of range, which is found before the search. An example
        whose logits have NaN counts as an error.
    """
    delta, models = generalization.check_chance(delta, models)  # the search takes long
    graph, state, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    places = [_place(path) for path, _ in leaves]
    names = [".".join(map(str, place)) for place in places]
    parameters = {
        name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)
    }
    for name, values in parameters.items():
        checks.check_floating(name, values)
    reflectors = _reflectors(model)
    sizes = {
        name: _free(parameters[name], place in reflectors)
        for name, place in zip(names, places, strict=True)
    }
    of_batch = jax.jit(lambda state, x: logits(nnx.merge(graph, state, rest), x))

    def merged(values: dict[str, np.ndarray]) -> Any:
        arrays = [jnp.asarray(values[name]) for name in names]
        return jax.tree_util.tree_unflatten(structure, arrays)

    def error(values: dict[str, np.ndarray], every: int = 1) -> float:
        found = merged(values)
        parts = _parts(inputs[::every], _BATCH)
        outputs = [np.asarray(of_batch(found, jnp.asarray(x))) for x in parts]
        margins = generalization.margins(
            np.concatenate(outputs), np.asarray(labels[::every])
        )
        return float(np.mean(~(margins > 0)))

    grids = rounding.search(
        parameters,
        sizes,
        functools.partial(error, every=-(-len(inputs) // _SEARCHED)),
        examples=len(inputs),
    )
    rounded = {name: grid.rounded(parameters[name]) for name, grid in grids.items()}
    certificate = rounding.bound(
        grids,
        sizes,
        error(rounded),
        examples=len(inputs),
        delta=delta,
        models=models,
    )
    return certificate, nnx.merge(graph, merged(rounded), rest)


def _place(path: tuple) -> tuple[Any, ...]:
    """Where a parameter is in its model: ("layers", 0, "cell", "bias")."""
    return tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def _reflectors(model: nnx.Module) -> set[tuple[Any, ...]]:
    """The places of the library's own reflectors; a name alone may be anybody's."""
    owners = [
        path
        for path, node in nnx.iter_graph(model)
        # A constraint of one's own may have parameters of these names, too.
        if isinstance(node, SpectralMatrix | Kernel) and node.num_redundant
    ]
    return {(*path, name) for path in owners for name in projection.REFLECTORS}


def _free(values: np.ndarray, are_reflectors: bool) -> int:
    """The entries that matter: reflectors have none below the trapezoid."""
    if not are_reflectors:
        return values.size
    below = min(values.shape[-2:]) * (min(values.shape[-2:]) - 1) // 2
    return values.size - math.prod(values.shape[:-2]) * below


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
