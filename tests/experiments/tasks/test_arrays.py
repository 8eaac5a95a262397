"""One's own sequences: batches, sums, metrics and predictions against plain loops."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import experiments
from configs import arrays as config_file
from experiments import tasks
from experiments.data import arrays
from experiments.runs import fitted
from experiments.sweep import setup, summary, worker
from experiments.tasks import base
from experiments.training import agreement, exporting, loop, prediction
from tests.experiments.small import invented_model, tiny_config

RNG = np.random.default_rng(0)
X = RNG.normal(loc=(5.0, -3.0), scale=(2.0, 0.1), size=(40, 7, 2))
Y = np.arange(40) % 3
FULL = np.full(40, 7)
LENGTHS = RNG.integers(1, 8, 40)
WEIGHTS = RNG.integers(0, 4, 40).astype(float)


def make_config(path, **fields):
    config = config_file.get_config()
    config.task.path = str(path)
    config.train.batch_size = 8
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in fields.items()}
    )
    return config


@pytest.fixture
def build(tmp_path):
    """The task of some arrays and fields of config.task."""

    def build(values, batch_size=8, **fields):
        np.savez(tmp_path / "data.npz", **values)
        config = make_config(tmp_path / "data.npz", train__batch_size=batch_size)
        config.task.update(fields)
        return tasks.build(config)

    return build


def named(values, cuts=(24, 32)):
    """The arrays of one set as those of three."""
    splits = zip(arrays.SPLITS, np.split(np.arange(40), cuts), strict=True)
    return {
        f"{split}_{kind}": array[rows]
        for split, rows in splits
        for kind, array in values.items()
    }


def whole(task, split):
    """All items of a split in one batch."""
    return task.source.batch(split, np.arange(task.source.counts[split]))


def metrics_of(task, outputs, split="test"):
    """The metrics of a split from outputs for all its items, summed batch by batch."""
    totals, start = {}, 0
    for batch in task.eval_batches(split):
        count = int(batch["weights"].sum())
        rows = np.minimum(np.arange(len(batch["weights"])), count - 1)
        part = jnp.asarray(outputs[start : start + count][rows], jnp.float32)
        for name, value in task.sums(part, batch).items():
            totals[name] = totals.get(name, 0.0) + float(value)
        start += count
    assert start == len(outputs)
    return task.metrics(totals)


def standardized(values, training):
    flat = training.reshape(-1, training.shape[-1])
    return (values - flat.mean(0)) / flat.std(0)


# ---- Batches.


def test_inputs_are_standardized_by_the_training_part(build):
    task = build(named({"inputs": X, "targets": Y}))
    expected = standardized(X, X[:24])
    for split, rows in {"train": slice(24), "test": slice(32, 40)}.items():
        batch = whole(task, split)
        assert batch["inputs"].dtype == np.float32
        np.testing.assert_allclose(batch["inputs"], expected[rows], rtol=1e-5)
        np.testing.assert_array_equal(batch["targets"], Y[rows])
        assert batch["targets"].dtype == np.int32
    plain = build(named({"inputs": X, "targets": Y}), normalize=False)
    np.testing.assert_allclose(whole(plain, "test")["inputs"], X[32:], rtol=1e-6)
    assert task.readout == "last" and task.out_features == 3
    assert (task.primary, task.higher_is_better) == ("accuracy", True)


def test_numbers_far_from_zero_keep_their_differences(build):
    far = 1.7e9 + X  # seconds since 1970: float32 has steps of 128 there
    task = build(named({"inputs": far, "targets": Y}))
    np.testing.assert_allclose(
        whole(task, "train")["inputs"], standardized(X, X[:24])[:24], atol=1e-4
    )


def test_two_axes_and_integers_are_one_feature_of_floats(build):
    counts = RNG.integers(0, 9, (40, 7), dtype=np.uint8)
    task = build({"inputs": counts, "targets": Y}, normalize=False)
    batch = task.train_batch(0)
    assert batch["inputs"].shape == (8, 7, 1) and batch["inputs"].dtype == np.float32
    assert {row.tobytes() for row in batch["inputs"]} <= {
        row.tobytes() for row in counts.astype(np.float32)
    }


def test_an_epoch_visits_every_item_once_and_drops_the_rest(build):
    inputs = np.arange(40.0).reshape(40, 1)
    task = build(named({"inputs": inputs, "targets": Y}), 9, normalize=False)
    assert task.steps_per_epoch(9) == 2

    def items(step):
        batch = task.train_batch(step)
        assert "weights" not in batch
        return batch["inputs"].ravel().tolist()

    epochs = [items(2 * epoch) + items(2 * epoch + 1) for epoch in range(3)]
    assert all(len(set(epoch)) == 18 and max(epoch) < 24 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_fewer_items_than_a_batch_are_one_batch(build):
    task = build(named({"inputs": X, "targets": Y}), batch_size=32)
    assert task.steps_per_epoch(32) == 1
    batch = task.train_batch(5)
    assert batch["inputs"].shape == (32, 7, 2)
    np.testing.assert_array_equal(batch["weights"], np.arange(32) < 24)
    outputs = jnp.asarray(RNG.normal(size=(32, 3)), jnp.float32)
    sums, own = task.sums(outputs, batch), np.asarray(outputs, np.float64)[:24]
    logs = own - np.log(np.exp(own).sum(-1, keepdims=True))
    expected = -logs[np.arange(24), batch["targets"][:24]].mean()
    assert task.metrics(sums)["loss"] == pytest.approx(expected, rel=1e-6)


def test_one_set_is_divided_and_all_is_a_function_of_the_fields(build):
    values = {"inputs": X, "targets": Y}
    task = build(values, split_seed=2)
    assert task.source.counts == {"train": 28, "valid": 6, "test": 6}
    seen = [
        {row.tobytes() for row in whole(task, split)["inputs"]}
        for split in arrays.SPLITS
    ]
    assert len(set.union(*seen)) == 40
    again, other = build(values, split_seed=2), build(values, split_seed=3)
    same = [
        np.array_equal(whole(task, "test")["inputs"], whole(each, "test")["inputs"])
        for each in (again, other)
    ]
    assert same == [True, False]
    folds = [build(values, folds=4, fold=j) for j in range(4)]
    assert [each.source.counts["valid"] for each in folds] == [9, 9, 8, 8]


def test_a_folder_of_files_gives_the_batches_of_an_archive(build, tmp_path):
    values = {"inputs": X, "targets": Y.astype(float), "weights": WEIGHTS}
    task = build(values)
    for name, array in values.items():
        np.save(tmp_path / f"{name}.npy", array)
    other = tasks.build(make_config(tmp_path))
    assert other.fitted() == task.fitted()
    told = agreement.of_parts(other, 1)
    assert told == agreement.of_parts(task, 1)
    assert told["data files"] == arrays.digest(values)
    for ours, theirs in zip(
        [task.train_batch(3), *task.eval_batches("test")],
        [other.train_batch(3), *other.eval_batches("test")],
        strict=True,
    ):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_large_arrays_are_read_block_by_block(build, monkeypatch):
    values = {"inputs": X, "targets": X.sum((1, 2))}
    whole_at_once = build(values).fitted()
    monkeypatch.setattr(arrays, "BLOCK", 3 * 14)
    sizes = []
    add = arrays.check_values

    def check(name, block, *rest, **options):
        sizes.append(block.size)
        add(name, block, *rest, **options)

    monkeypatch.setattr(arrays, "check_values", check)
    in_blocks = build(values).fitted()
    assert max(sizes) == 3 * 14
    assert fitted._same([whole_at_once["data"]], [in_blocks["data"]])
    for part in ("inputs", "targets"):
        for name in ("mean", "scale"):
            np.testing.assert_allclose(
                in_blocks[part][name], whole_at_once[part][name], rtol=1e-12
            )


# ---- Loss and metrics.


def cross_entropy(outputs, target):
    return np.log(np.exp(outputs).sum()) - outputs[target]


@pytest.mark.parametrize("asked", [None, "balanced", (0.5, 2.0, 1.0)])
def test_classes_with_weights_of_items_and_classes(build, asked):
    targets = np.where(np.arange(40) < 30, Y, 0)
    values = named({"inputs": X, "targets": targets, "weights": WEIGHTS})
    task = build(values, class_weights=asked)
    outputs = RNG.normal(size=(8, 3))
    of_class = np.ones(3) if asked is None else np.array(asked)
    if asked == "balanced":
        counts = np.bincount(targets[:24][WEIGHTS[:24] > 0], minlength=3)
        of_class = counts.sum() / (3 * counts)
    loss = count = correct = 0.0
    for row, target, weight in zip(outputs, targets[32:], WEIGHTS[32:], strict=True):
        loss += weight * of_class[target] * cross_entropy(row, target)
        count += weight * of_class[target]
        correct += weight * (row.argmax() == target)
    assert metrics_of(task, outputs) == pytest.approx(
        {"loss": loss / count, "accuracy": correct / WEIGHTS[32:].sum()}, rel=1e-5
    )
    assert task.baseline == pytest.approx(np.log(3))


def test_training_leaves_out_items_that_weigh_nothing(build):
    inputs = np.where(WEIGHTS[:, None, None] > 0, X, 1e6)
    task = build(named({"inputs": inputs, "targets": Y, "weights": WEIGHTS}))
    assert task.source.counts["train"] == (WEIGHTS[:24] > 0).sum()
    kept = X[:24][WEIGHTS[:24] > 0]
    np.testing.assert_allclose(
        whole(task, "train")["inputs"], standardized(kept, kept), atol=1e-4
    )


def test_numbers_are_told_in_their_own_units(build):
    targets = RNG.normal(loc=(100.0, 0.0), scale=(1000.0, 0.01), size=(40, 2))
    task = build(named({"inputs": X, "targets": targets}))
    outputs = RNG.normal(size=(8, 2))
    mean, scale = targets[:24].mean(0), targets[:24].std(0)
    errors = (outputs * scale + mean) - targets[32:]
    assert metrics_of(task, outputs) == pytest.approx(
        {
            "loss": np.mean((errors / scale) ** 2),
            "mse": np.mean(errors**2),
            "rmse": np.sqrt(np.mean(errors**2)),
            "mae": np.mean(np.abs(errors)),
        },
        rel=1e-5,
    )
    assert (task.primary, task.higher_is_better) == ("mse", False)
    assert task.baseline == pytest.approx(1)
    batch = next(task.eval_batches("test"))
    kept = task.predictions(jnp.asarray(outputs, jnp.float32), batch)
    np.testing.assert_allclose(kept["predictions"], outputs * scale + mean, rtol=1e-4)
    np.testing.assert_allclose(kept["targets"], targets[32:], rtol=1e-4, atol=1e-6)


def test_one_number_an_item_is_predicted_as_one(build):
    task = build(named({"inputs": X, "targets": X.sum((1, 2))}))
    assert task.out_features == 1
    batch = next(task.eval_batches("test"))
    kept = task.predictions(jnp.zeros((8, 1)), batch)
    assert kept["predictions"].shape == kept["targets"].shape == (8,)
    np.testing.assert_allclose(kept["targets"], X.sum((1, 2))[32:], rtol=1e-5)


def test_large_units_do_not_overflow(build):
    targets = RNG.normal(scale=1e30, size=40)
    task = build(named({"inputs": X, "targets": targets}))
    errors = targets[:24].mean() - targets[32:]
    metrics = metrics_of(task, np.zeros((8, 1)))
    assert metrics["mse"] == pytest.approx(np.mean(errors**2), rel=1e-4)


# ---- Targets at every step, and lengths.

STEPWISE = RNG.normal(loc=3.0, scale=5.0, size=(40, 7))


def test_numbers_at_every_step_count_up_to_the_ends(build):
    targets = np.where(np.arange(7) < LENGTHS[:, None], STEPWISE, np.nan)
    inputs = np.where(np.arange(7)[:, None] < LENGTHS[:, None, None], X, np.inf)
    values = {"inputs": inputs, "targets": targets, "lengths": LENGTHS}
    task = build(named(values | {"weights": WEIGHTS}), every_step=True)
    assert task.readout == "all" and task.out_features == 1
    real = [STEPWISE[i, : LENGTHS[i]] for i in range(24) if WEIGHTS[i]]
    mean, scale = np.concatenate(real).mean(), np.concatenate(real).std()
    outputs = RNG.normal(size=(8, 7, 1))
    squares, absolute, count = 0.0, 0.0, 0.0
    for row, i in zip(outputs, range(32, 40), strict=True):
        for step in range(LENGTHS[i]):
            error = row[step, 0] * scale + mean - STEPWISE[i, step]
            squares += WEIGHTS[i] * error**2
            absolute += WEIGHTS[i] * abs(error)
            count += WEIGHTS[i]
    expected = {
        **{"loss": squares / count / scale**2, "mse": squares / count},
        **{"rmse": np.sqrt(squares / count), "mae": absolute / count},
    }
    assert metrics_of(task, outputs) == pytest.approx(expected, rel=1e-5)
    behind = np.arange(7) >= LENGTHS[32:, None]
    outputs[behind] = 1e6  # what is said behind the ends does not count
    assert metrics_of(task, outputs) == pytest.approx(expected, rel=1e-5)
    batch = next(task.eval_batches("test"))
    assert not batch["inputs"][:8][behind].any() and batch["lengths"].dtype == np.int32
    kept = task.predictions(jnp.asarray(outputs, jnp.float32), batch)
    assert kept["predictions"].shape == (8, 7)
    np.testing.assert_array_equal(np.isnan(kept["predictions"]), behind)
    np.testing.assert_array_equal(kept["lengths"], LENGTHS[32:])


def test_classes_at_every_step_count_up_to_the_ends(build):
    targets = RNG.integers(0, 3, (40, 7))
    marked = np.where(np.arange(7) < LENGTHS[:, None], targets, -1)
    values = {"inputs": X, "targets": marked, "lengths": LENGTHS}
    task = build(named(values), every_step=True, class_weights="balanced")
    real = np.concatenate([targets[i, : LENGTHS[i]] for i in range(24)])
    of_class = len(real) / (3 * np.bincount(real))
    outputs = RNG.normal(size=(8, 7, 3))
    loss = count = correct = steps = 0.0
    for row, i in zip(outputs, range(32, 40), strict=True):
        for step in range(LENGTHS[i]):
            target = targets[i, step]
            loss += of_class[target] * cross_entropy(row[step], target)
            count += of_class[target]
            correct += row[step].argmax() == target
            steps += 1
    assert metrics_of(task, outputs) == pytest.approx(
        {"loss": loss / count, "accuracy": correct / steps}, rel=1e-5
    )
    batch = next(task.eval_batches("test"))
    kept = task.predictions(jnp.asarray(outputs, jnp.float32), batch)
    np.testing.assert_array_equal(kept["targets"], marked[32:])
    assert np.isnan(kept["log_probabilities"][0, LENGTHS[32] :]).all()


def test_statistics_are_those_of_the_steps_that_are_real(build):
    values = {"inputs": X, "targets": Y, "lengths": LENGTHS}
    task = build(named(values))
    real = np.concatenate([X[i, : LENGTHS[i]] for i in range(24)])
    np.testing.assert_allclose(task.fitted()["inputs"]["mean"], real.mean(0))
    np.testing.assert_allclose(task.fitted()["inputs"]["scale"], real.std(0))
    np.testing.assert_array_equal(
        task.source.batch("test", [3])["lengths"], LENGTHS[35]
    )


def test_a_split_without_lengths_or_weights_is_whole(build):
    values = named({"inputs": X, "targets": Y})
    values |= {"train_lengths": LENGTHS[:24], "train_weights": WEIGHTS[:24] + 1}
    batch = whole(build(values), "test")
    assert batch["lengths"].tolist() == [7] * 8
    assert batch["item_weights"].tolist() == [1] * 8


# ---- Missing values.


def test_missing_values_are_filled_in_the_units_of_the_data(build):
    holes = X.copy()
    holes[RNG.random(X.shape) < 0.2] = np.nan
    mean = np.nanmean(holes[:24].reshape(-1, 2), 0)
    scale = np.nanstd(holes[:24].reshape(-1, 2), 0)
    values = named({"inputs": holes, "targets": Y})
    for rule, value in {"zero": 0.0, "mean": mean}.items():
        task = build(values, fill=rule)
        expected = (np.where(np.isnan(holes), value, holes) - mean) / scale
        batch = whole(task, "test")
        np.testing.assert_allclose(batch["inputs"], expected[32:], rtol=1e-4, atol=1e-5)
        fills = task.fitted()["inputs"]["fill"]
        np.testing.assert_allclose(fills, np.zeros(2) + value)
    carried = whole(build(values, fill="previous"), "test")["inputs"]
    assert np.isfinite(carried).all()
    row, step, feature = np.argwhere(
        np.isnan(holes[32:, 1:]) & ~np.isnan(holes[32:, :-1])
    )[0]
    assert carried[row, step + 1, feature] == carried[row, step, feature]


# ---- One long series.

SERIES = np.cumsum(RNG.normal(size=(100, 2)), 0) * (1.0, 50.0)


def test_windows_and_what_follows_them(build):
    task = build({"series": SERIES}, window=10, horizon=3, test_share=0.2)
    assert task.source.counts == {"train": 53, "valid": 13, "test": 18}
    assert (task.time_steps, task.in_features, task.out_features) == (10, 2, 6)
    mean, scale = SERIES[:65].mean(0), SERIES[:65].std(0)
    scaled = (SERIES - mean) / scale
    ends = {"train": (10, 65), "valid": (65, 80), "test": (80, 100)}
    for split, (begin, end) in ends.items():
        batch = whole(task, split)
        firsts = range(begin - 10, end - 13 + 1)
        assert len(batch["inputs"]) == len(firsts)
        for row, first in enumerate(firsts):
            window, following = np.split(scaled[first : first + 13], [10])
            np.testing.assert_allclose(
                batch["inputs"][row], window, rtol=1e-4, atol=1e-5
            )
            targets = batch["targets"][row].reshape(3, 2)
            np.testing.assert_allclose(targets, following, rtol=1e-4, atol=1e-5)
    outputs = RNG.normal(size=(18, 6))
    truth = np.stack([SERIES[i : i + 3] for i in range(80, 98)])
    errors = outputs.reshape(18, 3, 2) * scale + mean - truth
    metrics = metrics_of(task, outputs)
    assert metrics["mse"] == pytest.approx(np.mean(errors**2), rel=1e-4)
    assert metrics["mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-4)
    batch = next(task.eval_batches("test"))
    kept = task.predictions(jnp.asarray(outputs, jnp.float32), batch)
    np.testing.assert_allclose(kept["targets"], truth, rtol=1e-3, atol=1e-3)


def test_training_windows_know_nothing_of_what_follows(build):
    fields = {"window": 10, "horizon": 3}
    changed = SERIES.copy()
    changed[70:] += 1000.0
    task, other = (build({"series": s}, **fields) for s in (SERIES, changed))
    ours, theirs = whole(task, "train"), whole(other, "train")
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert not np.array_equal(
        whole(task, "valid")["targets"], whole(other, "valid")["targets"]
    )


def test_a_series_of_one_axis_and_with_holes(build):
    series = SERIES[:, 0].copy()
    series[5] = np.nan
    task = build({"series": series}, window=4, horizon=1, fill="previous")
    batch = whole(task, "train")
    assert batch["inputs"].shape[1:] == (4, 1)
    assert batch["inputs"][3, 2] == batch["inputs"][3, 1] == batch["targets"][1, 0]


# ---- Bad input.

SET = {"inputs": X, "targets": Y}
SERIES_FIELDS = {"window": 10, "horizon": 3}


def changed(name, place, value, values=None):
    """The arrays with one number of them changed."""
    values = dict(values or SET)
    values[name] = values[name].copy()
    values[name][place] = value
    return values


@pytest.mark.parametrize(
    "values,fields,message",
    [
        # Names and shapes.
        ({"targets": Y}, {}, "inputs must be among the arrays, got targets"),
        ({"inputs": X}, {}, "targets must be among the arrays, got inputs"),
        (
            {"train_inputs": X, "train_targets": Y, "valid_inputs": X},
            {},
            "valid_targets must be among the arrays, got train_inputs, train_targets",
        ),
        (
            SET | {"test_inputs": X},
            {},
            "arrays must all begin with train_, .*test_inpu",
        ),
        (
            SET | {"inputs": X[0, 0]},
            {},
            r"inputs must be \(items, steps\) .*got \(2,\)",
        ),
        (SET | {"inputs": X[:0]}, {}, r"none of them 0, got \(0, 7, 2\)"),
        (
            SET | {"targets": Y[:39]},
            {},
            "targets must have the 40 items of inputs, got 39",
        ),
        (SET | {"targets": np.float64(3)}, {}, "targets must be .*, got one number"),
        (SET | {"lengths": LENGTHS[:, None]}, {}, r"lengths must be \(items,\), got"),
        (
            named(SET) | {"test_inputs": X[32:, :5]},
            {},
            r"test_inputs must have the 7 steps and 2 features .*, got \(5, 2\)",
        ),
        (
            named(SET) | {"test_targets": Y[32:] * 1.0},
            {},
            "test_targets must be integers as those of the training part, got float64",
        ),
        (
            SET | {"targets": STEPWISE.astype(int)},
            {},
            r"targets must be integers, the classes, \(items,\) with"
            r" config.task.every_step=False, got \(40, 7\)",
        ),
        (
            SET | {"targets": STEPWISE[:, :6]},
            {"every_step": True},
            r"targets must be numbers \(items, 7\) or \(items, 7, k\) with"
            r" config.task.every_step=True, got \(40, 6\)",
        ),
        # Classes.
        (SET | {"targets": Y * 2}, {}, r"targets must be the classes .*got 2 and no 1"),
        (SET | {"targets": Y - 1}, {}, r"targets must be the classes .*, got -1"),
        (SET | {"targets": 0 * Y}, {}, r"targets must be the classes .*, got 0 alone"),
        (
            named(SET) | {"valid_targets": Y[24:32] + 1},
            {},
            r"valid_targets must be classes .* training part has, 0 \.\.\. 2, got 3",
        ),
        (
            SET,
            {"class_weights": (1.0, 2.0)},
            r"'balanced' or 3 numbers, .*\(1.0, 2.0\)",
        ),
        (SET, {"class_weights": (1.0, 1e300, 1.0)}, "at most 3.4e.38, got 1e.300"),
        (SET, {"class_weights": "even"}, "class_weights must be None, .*got 'even'"),
        (
            SET,
            {"class_weights": (1.0, 0.0, 1.0)},
            "class_weights must be finite and abo",
        ),
        (
            SET | {"targets": Y * 1.0},
            {"class_weights": "balanced"},
            "class_weights must be left out where numbers are .*, got 'balanced'",
        ),
        # Values.
        (
            changed("inputs", (3, 5, 1), np.nan),
            {},
            "^inputs must .* nan at row 3, step 5, feature 1; config.task.fill says",
        ),
        (
            changed("inputs", (3, 5, 1), -np.inf),
            {"fill": "zero"},
            "^inputs must be finite .*, got -inf at row 3, step 5, feature 1$",
        ),
        (
            changed("inputs", (0, 0, 0), 1e39),
            {},
            r"got 1e\+39 at row 0, step 0, feature 0",
        ),
        (
            SET | {"targets": np.where(Y == 1, np.nan, 0.0)},
            {"fill": "zero"},
            "^targets must be finite .*, got nan at row 1, column 0$",
        ),
        (
            changed("lengths", 4, 8, SET | {"lengths": LENGTHS}),
            {},
            r"lengths must lie in 1 \.\.\. 7, .*, got 8 at row 4",
        ),
        (SET | {"lengths": LENGTHS * 1.0}, {}, "lengths must be integers, got float64"),
        (
            changed("weights", 2, -1.0, SET | {"weights": WEIGHTS}),
            {},
            "weights must be finite and at least 0, got -1 at row 2",
        ),
        (
            named(SET) | {"test_weights": np.zeros(8)},
            {},
            "test_weights must have one above 0 in the test part, got zeros alone",
        ),
        # Fields.
        (
            SET,
            {"fill": "last"},
            "config.task.fill must be one of error, zero, mean, prev",
        ),
        (
            SET,
            {"valid_share": 1.0},
            "config.task.valid_share must be finite .*, got 1.0",
        ),
        (
            SET,
            {"folds": 1, "fold": 0},
            "config.task.folds must be an integer of at leas",
        ),
        (SET, {"split_seed": -1}, "config.task.split_seed must be an integer of at le"),
        (
            SET,
            {"window": 3},
            "config.task.window must be left out without series, got 3",
        ),
        (SET, {"horizon": 3}, "config.task.horizon must be left out without series"),
        (
            named(SET),
            {"valid_share": 0.1},
            "config.task.valid_share must be left out with valid_inputs, got 0.1",
        ),
        # A series.
        (
            {"series": SERIES},
            {"window": 3},
            "config.task.horizon must be .*series, got N",
        ),
        (
            {"series": SERIES} | SET,
            SERIES_FIELDS,
            "series must be the only array, got inputs, targets beside it",
        ),
        (
            {"series": X},
            SERIES_FIELDS,
            r"series must be \(steps,\) or .*, got \(40, 7, 2\)",
        ),
        (
            {"series": SERIES},
            SERIES_FIELDS | {"every_step": True},
            "config.task.every_step must be left out with series, got True",
        ),
        (
            {"series": SERIES},
            SERIES_FIELDS | {"folds": 3},
            "config.task.folds must be left out with series, got 3",
        ),
        (
            {"series": SERIES},
            {"window": 68, "horizon": 3},
            "must fit into the 70 steps of the training part, got 68 and 3",
        ),
        (
            {"series": SERIES},
            {"window": 3, "horizon": 16},
            "task.horizon must be at most the 15 steps of the valid part, got 16",
        ),
        (
            changed("series", (7, 1), np.nan, {"series": SERIES}),
            SERIES_FIELDS,
            "^series must be finite .*, got nan at step 7, feature 1; config.task.fill",
        ),
    ],
)
def test_bad_input_is_a_line(build, values, fields, message):
    with pytest.raises(ValueError, match=message) as raised:
        build(values, **fields)
    assert "\n" not in str(raised.value)


# ---- Runs.

SMALL = {
    **{"model__hidden": 6, "model__reflectors": 2, "train__steps": 8},
    **{"train__warmup_steps": 0, "train__log_every": 4, "train__eval_every": 4},
    "train__checkpoint_every": 4,
}


@pytest.mark.parametrize("fill", ["zero", "mean", "previous"])
def test_what_prepares_raw_data_is_what_makes_the_batches(build, fill):
    holes = np.where(RNG.random(X.shape) < 0.3, np.nan, X)
    holes[24:, 0, 1] = np.nan
    task = build(named({"inputs": holes, "targets": X[:, 0, 0]}), fill=fill)
    prepared = task.prepare(holes[32:].astype(np.float32))
    expected = whole(task, "test")["inputs"]
    np.testing.assert_allclose(prepared, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_an_exported_model_takes_raw_data_and_tells_numbers_in_their_units(build, pool):
    values = {"inputs": X, "targets": 50 + 9 * X[:, 0, :], "lengths": LENGTHS}
    task = build(named(values))
    config = config_file.get_config()
    config.model.update(hidden=6, reflectors=2, pool=pool)
    model = invented_model(config.model, task)
    exported = exporting.export(model, task, platforms=["cpu"])
    raw = X[32:].astype(np.float32)
    lengths = LENGTHS[32:].astype(np.int32)
    outputs = exported.call(raw, lengths)
    assert np.abs(outputs).mean() > 10  # units of the targets
    batch = whole(task, "test")
    plain, _ = model(batch["inputs"], lengths=batch["lengths"])
    expected = task.predictions(plain, batch)["predictions"]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)
    step = exporting.export(model, task, platforms=["cpu"], streaming=True)
    carry = model.initialize_carry(1, streaming=True)
    for t in range(lengths[0]):
        carry, last = step.call(carry, raw[:1, t])
    np.testing.assert_allclose(last, expected[:1], rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "lstm"},
        {"name": "gru", "bidirectional": True},
        {"name": "spectral", "residual": True},
    ],
)
def test_lengths_are_exported_with_every_kind_of_layer(build, options):
    task = build(named({"inputs": X, "targets": Y, "lengths": LENGTHS}))
    config = config_file.get_config()
    config.model.update(hidden=6, reflectors=2, **options)
    model = invented_model(config.model, task)
    exported = exporting.export(model, task, platforms=["cpu"])
    batch = whole(task, "test")
    plain, _ = model(batch["inputs"], lengths=batch["lengths"])
    for count in (3, len(plain)):
        raw, lengths = X[32 : 32 + count], LENGTHS[32 : 32 + count]
        found = exported.call(raw.astype(np.float32), lengths.astype(np.int32))
        np.testing.assert_allclose(found, plain[:count], rtol=1e-4, atol=1e-5)


def test_validation_batches_of_weight_zero_alone_are_refused(tmp_path):
    weights = np.concatenate([np.ones(24), np.zeros(500), np.ones(8), np.ones(8)])
    inputs = RNG.standard_normal((540, 5, 2))
    values = {"inputs": inputs, "targets": np.arange(540) % 2, "weights": weights}
    parts = {
        f"{split}_{kind}": array[rows]
        for split, rows in zip(
            arrays.SPLITS, np.split(np.arange(540), (24, 532)), strict=True
        )
        for kind, array in values.items()
    }
    np.savez(tmp_path / "data.npz", **parts)
    changes = SMALL | {"train__valid_batches": 1, "train__batch_size": 8}
    config = make_config(tmp_path / "data.npz", **changes)
    message = "config.train.valid_batches must reach a validation item .*, got 1$"
    with pytest.raises(ValueError, match=message):
        loop.train(config, tmp_path / "run")
    config.train.valid_batches = 2
    loop.check(config)


def test_a_model_that_reads_ahead_goes_not_step_by_step(build):
    task = build(named({"inputs": X, "targets": Y}))
    config = config_file.get_config()
    config.model.update({"hidden": 6, "reflectors": 2, "bidirectional": True})
    model = invented_model(config.model, task)
    words = "bidirectional must be False for steps one at a time, got True"
    with pytest.raises(ValueError, match=words):
        exporting.export(model, task, streaming=True)


def test_steps_that_look_back_are_not_exported_one_at_a_time(build):
    task = build(named({"inputs": X, "targets": Y}), fill="previous")
    with pytest.raises(ValueError, match="streaming must be False .* 'previous', got"):
        exporting.export(None, task, streaming=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    targets = 1000 + 100 * X.mean((1, 2))
    np.savez(folder / "data.npz", inputs=X, targets=targets)
    result = loop.train(make_config(folder / "data.npz", **SMALL), folder / "run")
    return folder, result


def test_a_run_keeps_what_was_fitted_and_predicts_in_units(trained):
    folder, result = trained
    model, task, _ = experiments.load(folder / "run")
    assert json.loads((folder / "run" / "task.json").read_text()) == task.fitted()
    predicted, metrics = prediction.predict(model, task, "test")
    errors = predicted["predictions"] - predicted["targets"]
    assert metrics["mse"] == pytest.approx(np.mean(errors**2), rel=1e-3)
    assert metrics == pytest.approx(result["best"]["test"], rel=1e-5)
    assert np.all(np.abs(predicted["targets"] - 1100) < 300)


# ---- New items from a file.


@pytest.fixture
def predict_file(tmp_path):
    """What a model with its first parameters says of a file, and its metrics."""

    def predict_file(task, values, **fields):
        config = config_file.get_config()
        config.model.update(hidden=6, reflectors=2, **fields)
        model = invented_model(config.model, task)
        np.savez(tmp_path / "new.npz", **values)
        said = prediction.predict_file(model, task, tmp_path / "new.npz")
        return *said, prediction.predict(model, task, "test")

    return predict_file


KINDS = {
    "classes": ({"targets": Y}, {}),
    "numbers": ({"targets": 9 * X[:, 0, 0], "weights": WEIGHTS}, {}),
    "lengths": ({"targets": Y, "lengths": LENGTHS}, {}),
    "steps": ({"targets": STEPWISE, "lengths": LENGTHS}, {"every_step": True}),
    "holes": ({"targets": X[:, 0, :]}, {"fill": "previous"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_the_test_items_is_predicted_as_they_are(build, predict_file, kind):
    values, fields = KINDS[kind]
    holes = np.where(RNG.random(X.shape) < 0.3, np.nan, X)
    values = values | {"inputs": holes if kind == "holes" else X}
    task = build(named(values), **fields)
    new = {name: array[32:] for name, array in values.items()}
    arrays_of_file, metrics, (expected, metrics_of_test) = predict_file(task, new)
    assert metrics == pytest.approx(metrics_of_test, rel=1e-6)
    assert arrays_of_file.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(arrays_of_file[name], array, rtol=1e-5, atol=1e-6)
    del new["targets"]
    without, metrics, _ = predict_file(task, new)
    assert metrics == {} and without.keys() == expected.keys() - {"targets"}
    np.testing.assert_array_equal(without["predictions"], arrays_of_file["predictions"])


def test_new_items_may_have_other_steps_and_more_than_a_batch(
    build, predict_file, monkeypatch
):
    task = build(named({"inputs": X, "targets": Y}))
    monkeypatch.setattr(base, "EVAL_BATCH", 3)
    longer, _, _ = predict_file(task, {"inputs": np.tile(X[:8], (1, 2, 1))})
    assert longer["log_probabilities"].shape == (8, 3)
    ends = {"inputs": np.tile(X[:8], (1, 2, 1)), "lengths": np.full(8, 7)}
    cut, _, _ = predict_file(task, ends)
    plain, _, _ = predict_file(task, {"inputs": X[:8]})
    for name in ("predictions", "log_probabilities"):
        np.testing.assert_allclose(cut[name], plain[name], rtol=1e-5)
    assert not np.allclose(longer["log_probabilities"], plain["log_probabilities"])


def test_new_items_have_steps_that_fit_the_outputs(build, predict_file):
    task = build(named({"inputs": X, "targets": Y}))
    fields = {"pool": "mean", "output_every": 7}
    longer, _, _ = predict_file(task, {"inputs": np.tile(X[:8], (1, 2, 1))}, **fields)
    assert longer["log_probabilities"].shape == (8, 3)
    for new, message in (
        ({"inputs": X[:, :5]}, "inputs must have a multiple of 7 steps, .* got 5"),
        ({"inputs": X, "lengths": LENGTHS}, "lengths must be left out where output_e"),
    ):
        with pytest.raises(ValueError, match=f"^--input .*new.npz: {message}"):
            predict_file(task, new, **fields)


def test_the_values_after_the_last_window_of_a_series(build, predict_file):
    task = build({"series": SERIES}, **SERIES_FIELDS)
    window, horizon = task.time_steps, task.source.target_shape[0]
    upto = SERIES[: len(SERIES) - horizon]  # whose last window is the test part's
    said, metrics, (expected, _) = predict_file(task, {"series": upto})
    assert metrics == {} and said.keys() == {"predictions"}
    last = expected["predictions"][-1:]
    np.testing.assert_allclose(said["predictions"], last, rtol=1e-5)
    shortest, _, _ = predict_file(task, {"series": upto[-window:]})
    np.testing.assert_array_equal(shortest["predictions"], said["predictions"])


PLAIN = {"inputs": X, "targets": Y}
WITH_LENGTHS = PLAIN | {"lengths": LENGTHS}
NUMBERS = {"inputs": X, "targets": X[:, 0, :]}


@pytest.mark.parametrize(
    "values,new,message",
    [
        (
            PLAIN,
            {"inputs": X[..., :1]},
            r"inputs must have the 2 features .* got 1, of",
        ),
        (PLAIN, {"targets": Y}, "inputs must be among the arrays, got targets"),
        (PLAIN, {"series": X[0]}, "must be named inputs, .* weights, got 'series'"),
        (PLAIN, {"train_inputs": X}, "must be named .*, got 'train_inputs'"),
        (PLAIN, {"inputs": X * np.nan}, "inputs must be finite .* got nan at row 0"),
        (PLAIN, PLAIN | {"targets": Y + 1}, r"targets must be classes .*2, got 3"),
        (PLAIN, PLAIN | {"targets": Y + 0.5}, "targets must be integers as those of"),
        (PLAIN, PLAIN | {"targets": Y[1:]}, "targets must have the 40 items"),
        (NUMBERS, NUMBERS | {"targets": X[:, 0]}, None),
        (NUMBERS, NUMBERS | {"targets": X[:, 0, 0]}, r"targets must be .*\(items, 2\)"),
        (NUMBERS, NUMBERS | {"targets": X[:, 0] * np.inf}, "targets must be finite"),
        (NUMBERS, NUMBERS | {"weights": Y * 0.0}, "weights must have one above 0 in"),
        (WITH_LENGTHS, PLAIN, "lengths must be among the arrays, as in the data of"),
        (PLAIN, PLAIN | {"lengths": LENGTHS + 7}, r"lengths must lie in 1 \.\.\. 7"),
        ("series", {"inputs": X}, "series must be the only array, got inputs"),
        ("series", {"series": SERIES[:5]}, "series must have 10 steps at least and 2"),
        ("series", {"series": SERIES[:, 0]}, r"and 2 features, .* got \(100, 1\)"),
        ("series", {"series": SERIES * np.inf}, "series must be finite numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_a_file_that_does_not_fit_is_a_line(build, tmp_path, values, new, message):
    series = values == "series"
    task = build(
        {"series": SERIES} if series else values, **(SERIES_FIELDS if series else {})
    )
    np.savez(tmp_path / "new.npz", **new)
    if message is None:
        assert len(next(task.file_batches(tmp_path / "new.npz"))["inputs"]) == 40
        return
    with pytest.raises(ValueError, match=f"^--input .*new.npz: .*{message}") as raised:
        next(task.file_batches(tmp_path / "new.npz"))
    assert "\n" not in str(raised.value)


def test_other_tasks_take_no_file(tmp_path):
    task = tasks.build(tiny_config())
    with pytest.raises(ValueError, match="--input must be left out for addition, whi"):
        prediction.predict_file(None, task, tmp_path)


def test_moved_data_are_named_by_the_data_folder(trained, tmp_path):
    folder, _ = trained
    run = shutil.copytree(folder / "run", tmp_path / "run")
    moved = shutil.copy(folder / "data.npz", tmp_path / "data.npz")
    (folder / "data.npz").rename(folder / "gone.npz")
    try:
        with pytest.raises(ValueError, match="config.task.path must be there, got"):
            experiments.load(run)
        loaded = experiments.load(run, data_dir=str(tmp_path))
    finally:
        (folder / "gone.npz").rename(folder / "data.npz")
    assert loaded.task.source.counts["train"] == 28 and moved


def test_data_that_changed_are_refused(trained, tmp_path):
    folder, _ = trained
    run = shutil.copytree(folder / "run", tmp_path / "run")
    (run / "result.json").unlink()  # as if it had not ended
    shutil.copy(folder / "data.npz", folder / "kept.npz")
    try:
        values = dict(np.load(folder / "data.npz"))
        values["inputs"][0, 0, 0] += 1e-3
        np.savez(folder / "data.npz", **values)
        message = (
            "the data must be those of the run, got others: data of .*task.json is"
        )
        with pytest.raises(ValueError, match=message):
            experiments.load(run)
        with pytest.raises(ValueError, match=message):
            loop.train(make_config(folder / "data.npz", **SMALL), run)
    finally:
        (folder / "kept.npz").rename(folder / "data.npz")


@pytest.mark.parametrize(
    "values,fields",
    [
        pytest.param(
            {"inputs": X, "targets": Y, "weights": WEIGHTS, "lengths": FULL},
            {"class_weights": "balanced"},
            marks=pytest.mark.slow,
        ),
        (
            {"inputs": X, "targets": np.stack([STEPWISE] * 2, -1), "lengths": FULL},
            {"every_step": True},
        ),
        pytest.param(
            *({"series": SERIES}, {"window": 10, "horizon": 3}),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["classes", "steps", "series"],
)
def test_runs_of_every_kind_learn(tmp_path, values, fields):
    np.savez(tmp_path / "data.npz", **values)
    config = make_config(tmp_path / "data.npz", **SMALL | {"train__batch_size": 32})
    config.task.update(fields)
    result = loop.train(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if '"train"' in line]
    assert losses[-1] < losses[0]
    assert all(np.isfinite(list(result["metrics"]["test"].values())))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sweep_over_folds_is_a_cross_validation(tmp_path):
    np.savez(tmp_path / "data.npz", inputs=X, targets=Y)
    config = make_config(tmp_path / "data.npz", **SMALL)
    config.task.update(folds=3, fold=0)
    space = {"task.fold": [0, 1, 2], "train.learning_rate": [1e-3, 1e-2]}
    options = setup.Options(heartbeat=1, grace=30)
    sweep = setup.prepare(config.lock(), space, tmp_path / "sweep", options)
    assert sweep.metric == "accuracy"
    worker.work(sweep)
    runs = summary.runs(sweep.study, tmp_path / "sweep")
    assert [run.state for run in runs] == ["complete"] * 6
    groups = summary.groups(runs, higher_is_better=True)
    assert [group.complete for group in groups] == [3, 3]
    values = [run.value for run in runs if run.point["train.learning_rate"] == 1e-2]
    (mean,) = (g.mean for g in groups if g.point["train.learning_rate"] == 1e-2)
    assert mean == pytest.approx(np.mean(values))


@pytest.mark.slow
def test_the_command_trains_and_predicts_or_ends_with_a_line(tmp_path):
    np.savez(tmp_path / "data.npz", inputs=X, targets=Y)

    def command(module, *words):
        return subprocess.run(
            [sys.executable, "-m", f"experiments.{module}", *words],
            cwd=pathlib.Path(__file__).parents[3],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )

    fields = ["--config=configs/arrays.py", f"--workdir={tmp_path / 'run'}"]
    fields += [f"--config.{n.replace('__', '.')}={v}" for n, v in SMALL.items()]
    done = command("run", *fields, f"--config.task.path={tmp_path / 'gone.npz'}")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: config.task.path must be there, got ")
    done = command("run", *fields, f"--config.task.path={tmp_path / 'data.npz'}")
    assert done.returncode == 0, done.stderr
    assert "28 train, 6 valid, 6 test; 7 steps, 2 features; 3 classes" in done.stdout
    words = [f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out.npz'}"]
    assert command("predict", *words).returncode == 0
    with np.load(tmp_path / "out.npz") as out:
        assert out["predictions"].shape == out["targets"].shape == (6,)
        assert out["log_probabilities"].shape == (6, 3)
    np.save(tmp_path / "new.npy", X[:4, :5])
    done = command("predict", *words, f"--input={tmp_path / 'new.npy'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith("new.npy")  # and no metrics
    with np.load(tmp_path / "out.npz") as out:
        assert out["log_probabilities"].shape == (4, 3) and "targets" not in out
    done = command("predict", *words, f"--input={tmp_path / 'new.npy'}", "--split=test")
    assert done.returncode == 1
    assert done.stderr == "error: --split must be left out with --input, got test\n"
