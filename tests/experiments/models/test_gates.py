"""The spectral LSTM and GRU, flax's with each gate constrained, in all experiments."""

import jax
import numpy as np
import pytest
from flax import nnx

from configs import copying, pixel_mnist, ptb_char, ptb_word
from experiments import tasks
from experiments.data import stand_in
from experiments.models import build
from experiments.training import assembly, devices, fields, programs
from svdrnn import kernels
from tests.experiments.small import tiny_config

NAMES = {"spectral_lstm": 4, "spectral_gru": 3}


def make_config(name, base=tiny_config, **model):
    config = base()
    config.data_dir = stand_in.NAME
    config.train.update(batch_size=4, steps=20, steps_per_epoch=None, epochs=None)
    config.train.update(schedule="constant", learning_rate=3e-2)
    config.model.update({"hidden": 8, "layers": 1, "radius": 0.2, "reflectors": 3})
    config.model.update({"name": name, "init": "random"} | model)
    if config.task.name in ("addition", "copying"):
        config.task.length = 5
    if config.task.name == "pixel_mnist":
        config.task.steps = 28
    return config


def trained(config, count):
    """The model after some updates, in which no constrained kernel is read unbaked."""
    fields.check(config)
    parts = assembly.assemble(config)
    one_device = parts._replace(spread=devices.ONE)
    step, _ = programs.Programs(config, one_device).make_train_step(0)
    state = parts.state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels.Kernel, "__getitem__", None)
        for index in range(count):
            state, (sums, norms) = step(state, parts.task.train_batch(index))
    assert int(state.first_bad_step) == -1 and norms["update_norm"] > 0
    return nnx.merge(parts.graph, state.params, state.rest)


def gates(layer, count):
    """The recurrent matrices of a flax cell, (count, hidden, hidden), by numpy."""
    kernel = np.asarray(layer.cell.dense_h.kernel[...], np.float64)
    return np.stack([each.T for each in np.split(kernel, count, axis=1)])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("center,radius", [(1.0, 0.2), (0.9, 0.0)])
def test_every_gate_stays_in_its_interval(name, center, radius):
    config = make_config(name, layers=2, center=center, radius=radius)
    model = trained(config, 20)
    margins = []
    for layer in model.layers:
        sigma = np.linalg.svd(gates(layer, NAMES[name]), compute_uv=False)
        assert np.abs(sigma - center).max() <= radius + 1e-5
        assert radius == 0 or np.abs(sigma - center).max() > 0.01  # it trains
        margins.append(np.abs(sigma - 1).max())
    found = model.diagnostics()["spectral_margin"]
    assert found == pytest.approx(max(margins), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_the_identity(name):
    config = make_config(name, init="identity")
    task = tasks.build(config)
    model = build.build(config.model, task, rngs=nnx.Rngs(0))
    count = NAMES[name]
    expected = np.broadcast_to(np.eye(8), (count, 8, 8))
    np.testing.assert_allclose(gates(model.layers[0], count), expected, atol=1e-6)
    below = count * 2 * 3  # of each of 3 + 3 reflectors 0, 1, 2 entries
    assert build.count_params(model) - build.count_independent_params(model) == below
    free = make_config(name.removeprefix("spectral_"))
    plain = build.build(free.model, task, rngs=nnx.Rngs(0))
    difference = count * (2 * 3 * 8 + 8 - 8 * 8)  # reflectors and sigma for W
    found = build.count_params(model) - build.count_params(plain)
    assert found == difference


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("base", [copying, pixel_mnist, ptb_word, ptb_char])
def test_in_every_experiment(name, base):
    config = make_config(name, base.get_config)
    if "embedding" in config.model and config.task.name.startswith("ptb"):
        config.model.embedding = 5
        config.model.tied = False
    model = trained(config, 3)
    for layer in model.layers:
        sigma = np.linalg.svd(gates(layer, NAMES[name]), compute_uv=False)
        assert np.abs(sigma - config.model.center).max() <= 0.2 + 1e-5
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(nnx.state(model)))


def test_a_pair_of_reflectors_with_the_identity_is_named():
    config = make_config("spectral_gru", init="identity", reflectors=(2, 3))
    with pytest.raises(ValueError, match=r"^config\.model\.reflectors .* got 2 and 3"):
        build.check(config.model)
