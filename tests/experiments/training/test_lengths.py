"""A task of sequences of unequal length: trained, evaluated, predicted, resumed."""

from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

import experiments
from experiments import tasks
from experiments.tasks import base
from experiments.training import evaluation, loop, prediction
from tests.experiments.small import tiny_config

STEPS, ITEMS, BATCH = 5, 37, 20


def own_steps(batch):
    return np.arange(STEPS) < batch["lengths"][:, None]


class Means(base.Task):
    """The mean of an item's numbers; `fill` stands behind its end."""

    name = "means"
    primary = "loss"
    higher_is_better = False
    time_steps = STEPS
    in_features = 1
    out_features = 1
    readout = "last"
    fill = np.nan
    stops_at = None

    def __init__(self, config):
        self.config = config

    def steps_per_epoch(self, batch_size):
        return None

    def draw(self, split, index, count):
        random = base.generator(self.config.seed, split, index)
        lengths = random.integers(1, STEPS + 1, size=count, dtype=np.int32)
        batch = {"lengths": lengths}
        values = random.normal(size=(count, STEPS)) * own_steps(batch)
        batch["targets"] = self.answer(values, lengths)
        values[~own_steps(batch)] = self.fill
        return batch | {"inputs": values[..., None].astype(np.float32)}

    def answer(self, values, lengths):
        return (values.sum(1) / lengths).astype(np.float32)[:, None]

    def train_batch(self, step):
        if step == self.stops_at:
            raise KeyboardInterrupt
        return self.draw("train", step, self.config.train.batch_size)

    def eval_batches(self, split):
        for index, start in enumerate(range(0, ITEMS, BATCH)):
            batch = self.draw(split, index, min(BATCH, ITEMS - start))
            yield base.pad(batch, BATCH)

    def sums(self, outputs, batch):
        weights = base.weights(batch)
        loss = jnp.sum(weights * jnp.square(outputs - batch["targets"])[..., 0])
        return {"loss": loss, "count": jnp.sum(weights)}

    def metrics(self, sums):
        return {"loss": float(sums["loss"] / sums["count"])}


class RunningSums(Means):
    """The sum so far, at every step of an item."""

    readout = "all"

    def answer(self, values, lengths):
        return values.cumsum(1).astype(np.float32)[..., None]

    def draw(self, *which):
        batch = super().draw(*which)
        return batch | {"weights": own_steps(batch).astype(np.float32)}

    def eval_batches(self, split):
        for batch in super().eval_batches(split):
            batch["weights"] = batch["weights"][:, None] * own_steps(batch)
            yield batch


@pytest.fixture(autouse=True)
def registered():
    with mock.patch.dict(tasks.TASKS):
        for task in (Means, RunningSums):
            tasks.register(task.__name__, task, ("length",))
        yield


def make_config(task=Means, devices=2, **model):
    config = tiny_config(steps=6, log_every=1, eval_every=3, checkpoint_every=3)
    config.task.name = task.__name__
    config.train.devices = devices
    config.model.update({"layers": 2, "activation": "tanh"} | model)
    return config


def expected_outputs(model, task):
    """Of the test split, item by item: the model of what is cut to its length."""
    outputs, targets = [], []
    for batch in task.eval_batches("test"):
        for j, length in enumerate(batch["lengths"]):
            if np.any(batch["weights"][j]):
                alone = model(batch["inputs"][j : j + 1, :length])[0][0]
                outputs.append(alone)
                of_steps = length if task.readout == "all" else None
                targets.append(batch["targets"][j][:of_steps])
    return np.concatenate(outputs), np.concatenate(targets)


@pytest.mark.parametrize(
    "task, model",
    [
        pytest.param(
            *(Means, {"pool": "mean", "bidirectional": True}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(RunningSums, {"name": "gru", "bidirectional": True}),
            marks=pytest.mark.slow,
        ),
        pytest.param(Means, {"name": "spectral_lstm"}, marks=pytest.mark.slow),
    ],
)
def test_metrics_and_predictions_are_those_of_the_items_alone(tmp_path, task, model):
    result = loop.train(make_config(task, **model), tmp_path / "run")
    assert result["devices"] == 2
    loaded = experiments.load(tmp_path / "run", "last")
    outputs, targets = expected_outputs(loaded.model, loaded.task)
    loss = np.mean(np.square(outputs - targets))
    assert result["metrics"]["test"]["loss"] == pytest.approx(loss, rel=1e-5)
    arrays, metrics = prediction.predict(loaded.model, loaded.task, "test")
    found, expected = arrays["predictions"].ravel(), outputs.ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(arrays["targets"].ravel(), targets.ravel())
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, {"pool": "max", "bidirectional": True}])
def test_a_run_is_the_same_resumed_and_with_other_padding(tmp_path, monkeypatch, model):
    config = make_config(dropout=0.2, **model)
    whole = loop.train(config, tmp_path / "whole")
    monkeypatch.setattr(Means, "stops_at", 5)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path / "stopped")
    monkeypatch.setattr(Means, "stops_at", None)
    monkeypatch.setattr(Means, "fill", 1e30)
    resumed = loop.train(config, tmp_path / "stopped")
    for result in (whole, resumed):
        del result["wall_seconds"]
    assert resumed == whole


@pytest.mark.slow
def test_devices_change_a_run_by_rounding(tmp_path):
    model = {"pool": "mean", "bidirectional": True, "name": "lstm"}
    one, two = (
        loop.train(make_config(devices=count, **model), tmp_path / str(count))
        for count in (1, 2)
    )
    for split in ("valid", "test"):
        loss = one["metrics"][split]["loss"]
        assert two["metrics"][split]["loss"] == pytest.approx(loss, rel=1e-5)


# ---- Lengths that no model can take.


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"sequential": False},
            "be without 'lengths', as inputs have no time axis, got ",
        ),
        (
            {"stateful": True},
            "be without 'lengths', as a state is carried, got lengths, ",
        ),
        ({"lengths": np.array([0, 3])}, r"lie in 1 ... 5, got 0 ... 3$"),
        ({"lengths": np.array([6, 3])}, r"lie in 1 ... 5, got 3 ... 6$"),
        ({"lengths": np.array([1, 2, 3])}, r"be integers \(2,\), got int64 \(3,"),
        ({"lengths": np.ones(2)}, r"be integers \(2,\), got float64 \(2,\)$"),
    ],
)
def test_wrong_lengths_are_named(monkeypatch, changes, message):
    task = Means(make_config())
    batch = task.draw("train", 0, 2)
    for name, value in changes.items():
        if name == "lengths":
            batch[name] = value
        else:
            monkeypatch.setattr(task, name, value)
    with pytest.raises(ValueError, match=f" of means must {message}"):
        base.check_lengths(task, batch)


def test_lengths_of_training_and_of_an_evaluation_are_checked(monkeypatch, tmp_path):
    draw = Means.draw

    def wrong(self, *which):
        batch = draw(self, *which)
        return batch | {"lengths": np.zeros_like(batch["lengths"])}

    monkeypatch.setattr(Means, "draw", wrong)
    match = "^lengths of means must lie in 1 ... 5, got 0 ... 0$"
    with pytest.raises(ValueError, match=match):
        loop.train(make_config(), tmp_path / "run")
    with pytest.raises(ValueError, match=match):
        task = Means(make_config())
        batches = task.eval_batches("valid")
        next(evaluation.go_through(None, task, batches, *(None,) * 3))
