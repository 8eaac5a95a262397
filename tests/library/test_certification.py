"""The certificate of a model against its parts in numpy."""

import math

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import svdrnn
from svdrnn.activations import Activation
from svdrnn.certificate import certification, generalization
from tests.library import test_generalization as by_hand

N, FEATURES, CLASSES, STEPS, COUNT = 6, 3, 4, 7, 300


def model(**changes):
    given = dict(reflectors=2, radius=0.1, leak=0.1)
    rngs = nnx.Rngs(0)
    rnn = svdrnn.SpectralRNN(FEATURES, N, rngs=rngs, **(given | changes))
    return rnn, nnx.Linear(N, CLASSES, rngs=rngs)


def data(scale=1.0):
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((COUNT, STEPS, FEATURES))
    inputs *= scale / np.linalg.norm(inputs, axis=-1, keepdims=True)
    return inputs.astype(np.float32), generator.integers(0, CLASSES, COUNT)


def numpy_parameters(rnn, readout):
    weight = rnn.cell.weight
    wide = {
        name: np.asarray(value[...], np.float64)
        for name, value in {
            "u": weight.u_vectors,
            "v": weight.v_vectors,
            "m": rnn.cell.input_weights,
            "b": rnn.cell.bias,
            "c": readout.bias,
        }.items()
    }
    for name in "uv":
        wide[name] /= np.linalg.norm(wide[name], axis=1, keepdims=True)
    raw = np.asarray(weight.sigma_raw[...], np.float64)
    wide["sigma"] = weight.center + weight.radius * np.tanh(raw / 2)
    wide["y"] = np.asarray(readout.kernel[...], np.float64).T
    return wide


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "psi"), [("identity", lambda h: h), ("tanh", np.tanh)]
)
def test_margins_are_those_of_the_recurrence_in_float64(name, psi):
    rnn, readout = model()
    rnn.cell.weight.sigma_raw[...] = jnp.linspace(-2, 2, N)
    rnn.cell.bias[...] = jnp.linspace(-1, 1, N)
    inputs, labels = data()
    parameters = numpy_parameters(rnn, readout)
    state = by_hand.run(parameters, inputs.swapaxes(0, 1), by_hand.leaky)[0][-1]
    logits = psi(state) @ parameters["y"].T + parameters["c"]
    expected = generalization.margins(logits, labels)
    found = certification.margins(
        *(rnn, readout, inputs, labels),
        readout_activation=Activation(name),
        batch_size=128,
    )
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_certificate_is_that_of_class_norms_and_margins():
    rnn, readout = model(center=0.9)
    rnn.cell.bias[...] = jnp.linspace(-1, 1, N)
    readout.bias[...] = jnp.linspace(-2, 1, CLASSES)
    inputs, labels = data()
    found = certification.certify(
        *(rnn, readout, inputs, labels), inputs_bound=1.0, delta=0.01, models=7
    )
    kind = generalization.Classifiers(
        features=FEATURES,
        hidden=N,
        classes=CLASSES,
        reflectors=(2, 2),
        radius=0.1,
        center=0.9,
        steps=STEPS,
        inputs_bound=1.0,
    )
    parameters = numpy_parameters(rnn, readout)
    norms = generalization.Norms(
        input_weights=np.linalg.norm(parameters["m"]),
        bias=np.linalg.norm(parameters["b"]),
        readout=np.linalg.norm(parameters["y"]),
        readout_bias=np.linalg.norm(parameters["c"]),
    )
    margins = certification.margins(rnn, readout, inputs, labels)
    assert found == generalization.certificate(
        kind, norms, margins, delta=0.01, models=7
    )
    assert (found.delta, found.models) == (0.01, 7)
    # Every stored number that matters is covered.
    stored = sum(
        leaf.size for leaf in jax.tree.leaves(nnx.state((rnn, readout), nnx.Param))
    )
    assert found.dimensions == stored - rnn.cell.weight.num_redundant


@pytest.mark.slow
def test_an_activation_before_the_readout_has_the_same_class():
    rnn, readout = model()
    inputs, labels = data()
    relu = Activation("relu")
    margins = certification.margins(
        rnn, readout, inputs, labels, readout_activation=relu
    )
    found, plain = (
        certification.certify(
            rnn, readout, inputs, labels, inputs_bound=1.0, readout_activation=psi
        )
        for psi in (relu, Activation("identity"))
    )
    assert found.training_error == np.mean(margins <= 0) != plain.training_error
    assert (found.norms, found.dimensions) == (plain.norms, plain.dimensions)
    with pytest.raises(ValueError, match="readout_activation must be one of leaky_re"):
        certification.certify(
            *(rnn, readout, inputs, labels),
            inputs_bound=1.0,
            readout_activation=Activation("modrelu"),
        )


@pytest.mark.slow
def test_models_without_sigma_or_biases():
    rnn, _ = model(radius=0, use_bias=False, reflectors=(3, 1))
    readout = nnx.Linear(N, CLASSES, use_bias=False, rngs=nnx.Rngs(0))
    kind = certification.classifiers(rnn, readout, steps=STEPS, inputs_bound=1)
    assert (kind.radius, kind.reflectors) == (0, (3, 1))
    assert not (kind.bias or kind.readout_bias)
    assert certification.norms(rnn, readout).bias == 0


@pytest.mark.slow
def test_an_input_longer_than_the_bound_is_refused(monkeypatch):
    monkeypatch.setattr(certification, "_BATCH", 128)
    rnn, readout = model()
    inputs, labels = data()
    inputs[-1, -1] *= 1.001
    with pytest.raises(ValueError, match="inputs_bound must be at least the norm of"):
        certification.certify(rnn, readout, inputs, labels, inputs_bound=1.0)
    inputs, labels = data(scale=math.sqrt(FEATURES))  # rounded in float32
    certification.certify(
        rnn, readout, inputs, labels, inputs_bound=math.sqrt(FEATURES)
    )


@pytest.mark.parametrize(
    "activation, words",
    [
        (
            "modrelu",
            "activation of rnn must be one of leaky_relu, relu, tanh, identity",
        ),
        (jax.nn.softplus, "activation of rnn must be one of"),
    ],
)
def test_activations_without_the_constant_are_refused(activation, words):
    with pytest.raises(ValueError, match=words):
        certification.classifiers(
            *model(activation=activation, leak=None), steps=STEPS, inputs_bound=1
        )


def test_other_models_are_refused():
    rnn, readout = model()
    dense = svdrnn.DenseRNN(FEATURES, N, rngs=nnx.Rngs(0))
    wide = nnx.Linear(N + 1, CLASSES, rngs=nnx.Rngs(0))
    for pair, words in (
        ((dense, readout), "rnn must be a SpectralRNN, got DenseRNN"),
        ((rnn, nnx.LayerNorm(N, rngs=nnx.Rngs(0))), "readout must be an nnx.Linear"),
        ((rnn, wide), "readout must take the 6 features of a state, got 7"),
    ):
        with pytest.raises(ValueError, match=words):
            certification.classifiers(*pair, steps=STEPS, inputs_bound=1)
