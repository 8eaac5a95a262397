"""How many programs are compiled where a layer is made and called by itself."""

import jax
import numpy as np
import pytest
from flax import nnx

import svdrnn
from tests import compiled

MOST = 8  # those of the streams of random numbers included

SPECTRAL = {"reflectors": 3, "radius": 0.1}
LAYERS = {
    "SpectralRNN": lambda rngs: svdrnn.SpectralRNN(4, 8, rngs=rngs, **SPECTRAL),
    "SpectralRNN, all reflectors, a rotation, singular values": lambda rngs: (
        svdrnn.SpectralRNN(
            *(4, 8),
            **{"reflectors": None, "radius": 0.1, "init": "henaff"},
            init_sigma=1.05,
            activation="modrelu",
            rngs=rngs,
        )
    ),
    "SpectralRNN, a matrix": lambda rngs: svdrnn.SpectralRNN(
        4, 8, reflectors=None, radius=0.1, init=np.eye(8, dtype=np.float32), rngs=rngs
    ),
    "SpectralRNN, scan": lambda rngs: svdrnn.SpectralRNN(
        4, 8, method="scan", rngs=rngs, **SPECTRAL
    ),
    "DenseRNN": lambda rngs: svdrnn.DenseRNN(4, 8, rngs=rngs),
    "DenseRNN, orthogonal": lambda rngs: svdrnn.DenseRNN(
        4, 8, init="orthogonal", rngs=rngs
    ),
    "OrthogonalRNN": lambda rngs: svdrnn.OrthogonalRNN(4, 8, rngs=rngs),
    "OrthogonalRNN, cayley": lambda rngs: svdrnn.OrthogonalRNN(
        4, 8, map="cayley", negative_fraction=0.5, init="cayley", rngs=rngs
    ),
    "SpectralLinear": lambda rngs: svdrnn.SpectralLinear(4, 8, rngs=rngs, **SPECTRAL),
}
CELLS = {
    "SpectralRNNCell": lambda rngs: svdrnn.SpectralRNNCell(4, 8, rngs=rngs, **SPECTRAL),
    "DenseRNNCell": lambda rngs: svdrnn.DenseRNNCell(4, 8, rngs=rngs),
    "OrthogonalRNNCell": lambda rngs: svdrnn.OrthogonalRNNCell(4, 8, rngs=rngs),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if "," in n else n for n in LAYERS]
)
def test_a_layer_compiles_few_programs(name):
    inputs = np.ones((2, 5, 4), np.float32)
    with compiled.programs() as names:
        LAYERS[name](nnx.Rngs(0))(inputs)
    # A matrix is brought to the device, decomposed, and looked at before it is used.
    assert len(names) <= MOST + 2 * name.endswith("a matrix"), names


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_compiles_few_programs(name):
    carry, inputs = np.zeros((2, 8), np.float32), np.ones((2, 4), np.float32)
    with compiled.programs() as names:
        CELLS[name](nnx.Rngs(0))(carry, inputs)
    assert len(names) <= MOST, names


def test_a_call_is_the_same_alone_and_inside_of_a_program():
    layer = LAYERS["SpectralRNN"](nnx.Rngs(0))
    inputs = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    alone = layer(inputs, seq_lengths=np.array([5, 3]), return_carry=True)
    inside = jax.jit(
        lambda x: layer(x, seq_lengths=np.array([5, 3]), return_carry=True)
    )(inputs)
    for ours, theirs in zip(alone, inside, strict=True):
        # What is fused, and so rounded, depends on the processor.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_module_that_cannot_be_compared_is_called_as_it_is():
    layer = LAYERS["DenseRNN"](nnx.Rngs(0))
    expected = layer(np.ones((2, 5, 4), np.float32))
    layer.cell.note = bytearray(b"of a user")  # has no hash
    found = layer(np.ones((2, 5, 4), np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("radius,center", [(0.1, 1.0), (0.7, -0.3)])
def test_first_parameters_are_the_same_in_any_program(radius, center):
    def make(key):
        cell = svdrnn.SpectralRNNCell(
            *(3, 24),
            **{"reflectors": 5, "radius": radius, "center": center},
            **{"init_sigma": center + 0.6 * radius, "input_scale": 0.3},
            rngs=nnx.Rngs(key),
        )
        return nnx.to_pure_dict(nnx.state(cell, nnx.Param))

    key = jax.random.key(3)
    ours, theirs = make(key), jax.jit(make)(key)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
