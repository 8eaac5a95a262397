"""Tasks against values worked out by hand or by an independent loop."""

import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from experiments import tasks
from experiments.tasks import base, pixel_mnist, registry, scoring, synthetic
from experiments.tasks.addition import Addition
from experiments.tasks.copying import Copying
from experiments.tasks.mnist import MNIST
from experiments.tasks.pixel_mnist import PixelMNIST


def over_split(task, split, outputs_of):
    """The task's metrics over a split, with outputs_of(batch) in the model's place."""
    totals = {}
    for batch in task.eval_batches(split):
        for name, value in task.sums(outputs_of(batch), batch).items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return task.metrics(totals)


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def fake_mnist(train=11, valid=7, test=5):
    rng = np.random.default_rng(0)

    def part(count):
        images = rng.integers(0, 256, size=(count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, size=count, dtype=np.uint8)
        return SimpleNamespace(images=images, labels=labels)

    return SimpleNamespace(train=part(train), valid=part(valid), test=part(test))


def fake_task(data=None, **changes):
    arguments = {"steps": 28, "permuted": False, "seed": 3, "batch_size": 4}
    return PixelMNIST(data or fake_mnist(), **(arguments | changes))


# ---- What all tasks share.


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: Addition(length=9, seed=seed, batch_size=5),
        lambda seed: Copying(length=3, seed=seed, batch_size=5),
        lambda seed: fake_task(seed=seed),
        lambda seed: MNIST(fake_mnist(), seed=seed, batch_size=4),
    ],
    ids=["addition", "copying", "pixel_mnist", "mnist"],
)
class TestEveryTask:
    def test_train_batch_is_a_function_of_seed_and_step(self, make):
        task, again = make(7), make(7)
        later = again.train_batch(6)  # asked for out of order
        again.train_batch(0)
        assert equal(task.train_batch(6), later)
        assert not equal(task.train_batch(5), later)
        assert not equal(make(8).train_batch(6), later)

    def test_eval_batches_are_fixed_and_equal_in_shape(self, make):
        first, second = (
            list(make(7).eval_batches("valid")),
            list(make(7).eval_batches("valid")),
        )
        assert all(equal(a, b) for a, b in zip(first, second, strict=True))
        assert len({batch["inputs"].shape for batch in first}) == 1

    def test_splits_are_apart(self, make):
        task = make(7)
        parts = [
            task.train_batch(0)["inputs"],
            next(task.eval_batches("valid"))["inputs"],
            next(task.eval_batches("test"))["inputs"],
        ]
        sequences = [{row.tobytes() for row in part} for part in parts]
        assert not sequences[0] & sequences[1]
        assert not sequences[1] & sequences[2]
        assert not sequences[0] & sequences[2]

    def test_types_and_sizes(self, make):
        task = make(7)
        batch = task.train_batch(0)
        assert batch["inputs"].dtype == np.float32
        assert batch["inputs"].shape[-1] == task.in_features
        assert batch["inputs"].ndim == (3 if task.sequential else 2)
        with pytest.raises(ValueError, match="split must be 'valid' or 'test'"):
            next(task.eval_batches("train"))


def test_unknown_task_is_named():
    config = config_dict.ConfigDict({"task": {"name": "adding"}})
    with pytest.raises(ValueError, match="config.task.name.* addition, .*'adding'"):
        tasks.build(config)


def test_a_task_is_registered_with_fields_or_with_their_meanings(monkeypatch):
    monkeypatch.setattr(tasks.registry, "TASKS", dict(tasks.TASKS))
    meanings = {"length": "How long it is."}
    for reads in (meanings, ["length"]):
        tasks.register("own", lambda config: config.task.length, reads)
        config = config_dict.ConfigDict({"task": {"name": "own"}})
        with pytest.raises(ValueError, match=r"config\.task\.length must be in the"):
            tasks.build(config)
        config.task.length = 3
        assert tasks.build(config) == 3


def test_a_config_may_lack_what_came_later_to_its_task(monkeypatch):
    monkeypatch.setattr(tasks.registry, "TASKS", dict(tasks.TASKS))
    later = {"length": 5}
    tasks.register("own", lambda config: config.task.length, ["length"], later=later)
    config = config_dict.ConfigDict({"task": {"name": "own"}}).lock()
    assert tasks.build(config) == 5
    config.task.length = 3
    assert tasks.build(config) == 3


def test_pad_repeats_and_masks():
    batch = {"inputs": np.arange(6.0).reshape(3, 2, 1), "labels": np.array([4, 5, 6])}
    padded = base.pad(batch, 5)
    np.testing.assert_array_equal(padded["labels"], [4, 5, 6, 6, 6])
    np.testing.assert_array_equal(padded["weights"], [1, 1, 1, 0, 0])
    assert padded["inputs"].shape == (5, 2, 1)


# ---- Addition.


@pytest.mark.parametrize("length", [2, 9, 100])
def test_addition_markers_and_target(length):
    batch = Addition(length=length, seed=0, batch_size=200).train_batch(3)
    assert batch["inputs"].shape == (200, length, 2)
    firsts, seconds = set(), set()
    for sequence, target in zip(batch["inputs"], batch["targets"], strict=True):
        values, markers = sequence.T
        assert values.min() >= 0 and values.max() < 1
        first, second = np.flatnonzero(markers)
        assert first < length // 2 <= second
        assert markers[first] == markers[second] == 1
        assert target == values[first] + values[second]
        firsts.add(first), seconds.add(second)
    if length == 9:  # every place of each half is used
        assert firsts == set(range(4)) and seconds == set(range(4, 9))


def test_addition_baseline_is_the_error_of_always_answering_one():
    task = Addition(length=20, seed=0, batch_size=1)
    metrics = over_split(task, "test", lambda b: jnp.ones((len(b["targets"]), 1)))
    assert task.baseline == pytest.approx(1 / 6)
    assert metrics["mse"] == pytest.approx(1 / 6, abs=1e-2)
    assert metrics["loss"] == metrics["mse"]


def test_addition_evaluates_ten_thousand_sequences():
    task = Addition(length=4, seed=0, batch_size=1)
    for split in ("valid", "test"):
        assert sum(b["weights"].sum() for b in task.eval_batches(split)) == 10_000


def test_addition_sums_by_hand():
    task = Addition(length=4, seed=0, batch_size=1)
    batch = {
        "inputs": np.zeros((3, 4, 2), np.float32),
        "targets": np.array([1.0, 0.5, 9.0], np.float32),
        "weights": np.array([1.0, 1.0, 0.0], np.float32),
    }
    sums = task.sums(jnp.array([[0.0], [1.0], [0.0]]), batch)
    assert task.metrics(sums) == {"loss": 0.625, "mse": 0.625}


# ---- Copy.


def test_copying_layout():
    task = Copying(length=3, seed=0, batch_size=6)
    batch = task.train_batch(0)
    assert batch["inputs"].shape == (6, 23, 10)
    assert batch["targets"].dtype == np.int32
    assert set(np.unique(batch["inputs"])) == {0, 1}
    np.testing.assert_array_equal(batch["inputs"].sum(-1), 1)
    for sequence, target in zip(
        batch["inputs"].argmax(-1), batch["targets"], strict=True
    ):
        symbols = sequence[:10]
        assert symbols.max() < 8
        np.testing.assert_array_equal(sequence[10:], [8, 8, 9] + [8] * 10)
        np.testing.assert_array_equal(target, [8] * 13 + list(symbols))


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 30])
def test_copying_baseline_is_the_loss_of_knowing_only_the_layout(length):
    task = Copying(length=length, seed=0, batch_size=1)
    logits = np.full((length + 20, 10), -1e9, np.float32)
    logits[:-10, 8] = 0  # certain of the blanks
    logits[-10:, :8] = 0  # eight symbols alike

    def outputs(batch):
        return jnp.broadcast_to(logits, (len(batch["targets"]), length + 20, 10))

    metrics = over_split(task, "valid", outputs)
    assert metrics["loss"] == pytest.approx(task.baseline, rel=1e-5)
    assert metrics["recall"] == pytest.approx(1 / 8, abs=1e-2)


def test_copying_baselines_of_the_literature():
    assert Copying(length=100, seed=0, batch_size=1).baseline == pytest.approx(
        0.1733, abs=5e-5
    )
    assert Copying(length=1000, seed=0, batch_size=1).baseline == pytest.approx(
        0.0204, abs=5e-5
    )


@pytest.mark.slow
def test_copying_recall_counts_the_last_ten_only():
    task = Copying(length=2, seed=0, batch_size=4)
    batch = base.pad(task.train_batch(0), 5)
    outputs = np.zeros((5, 22, 10), np.float32)
    rows, steps = np.indices((5, 22))
    outputs[rows, steps, batch["targets"]] = 50  # all right ...
    outputs[:, :12] = 0  # ... but undecided before the last ten
    outputs[0, -1] = 0
    outputs[0, -1, (batch["targets"][0, -1] + 1) % 8] = 50  # and one wrong
    metrics = task.metrics(task.sums(jnp.asarray(outputs), batch))
    assert metrics["recall"] == pytest.approx(39 / 40)
    expected = (4 * 12 * math.log(10) + 50) / (4 * 22)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


# ---- Pixel MNIST.


def test_permutation_is_the_published_one():
    order = pixel_mnist.permutation()
    np.testing.assert_array_equal(order[:6], [319, 576, 323, 107, 355, 716])
    np.testing.assert_array_equal(np.sort(order), np.arange(784))


@pytest.mark.parametrize("steps,features", [(784, 1), (112, 7), (28, 28)])
@pytest.mark.parametrize("permuted", [False, True])
def test_pixels_in_order(steps, features, permuted):
    data = fake_mnist()
    task = fake_task(data, steps=steps, permuted=permuted)
    assert task.in_features == features
    batch = next(task.eval_batches("valid"))
    assert batch["inputs"].shape == (base.EVAL_BATCH, steps, features)
    flat = data.valid.images[5].reshape(784) / 255
    if permuted:
        flat = flat[np.random.RandomState(92916).permutation(784)]
    np.testing.assert_allclose(batch["inputs"][5].reshape(784), flat, rtol=1e-6)
    np.testing.assert_array_equal(batch["labels"][:7], data.valid.labels)
    assert batch["weights"].sum() == 7


def moved(image, down, right):
    """A loop over pixels, for `mnist.shifted`."""
    found = np.zeros_like(image)
    for row in range(28):
        for column in range(28):
            if 0 <= row + down < 28 and 0 <= column + right < 28:
                found[row + down, column + right] = image[row, column]
    return found


def test_training_digits_are_shifted_and_no_others():
    data = fake_mnist(train=400)
    still = fake_task(data, batch_size=200)
    task = fake_task(data, batch_size=200, shift=2)
    drawn = set()
    for step in (0, 3):
        images = np.rint(still.train_batch(step)["inputs"] * 255).astype(np.uint8)
        batch = task.train_batch(step)
        found = np.rint(batch["inputs"] * 255).astype(np.uint8)
        np.testing.assert_array_equal(
            batch["labels"], still.train_batch(step)["labels"]
        )
        for image, other in zip(images, found, strict=True):
            ways = [
                (down, right)
                for down in range(-2, 3)
                for right in range(-2, 3)
                if np.array_equal(moved(image, down, right), other)
            ]
            assert len(ways) == 1  # the images are noise
            drawn.update(ways)
    assert len(drawn) == 25
    assert equal(
        task.train_batch(3), fake_task(data, batch_size=200, shift=2).train_batch(3)
    )
    for split in ("valid", "test"):
        assert equal(next(task.eval_batches(split)), next(still.eval_batches(split)))
    np.testing.assert_array_equal(task.examples("train")[0], still.examples("train")[0])


def test_digits_are_permuted_after_their_shift():
    options = {"steps": 784, "batch_size": 11, "shift": 1}
    plain = fake_task(**options).train_batch(2)["inputs"]
    permuted = fake_task(permuted=True, **options).train_batch(2)["inputs"]
    np.testing.assert_array_equal(plain[:, pixel_mnist.permutation()], permuted)


@pytest.mark.parametrize("shift", [-1, 28, 1.0, True, None])
def test_shift_is_an_integer_within_the_image(shift):
    with pytest.raises(ValueError, match=r"config\.task\.shift must be"):
        fake_task(shift=shift)


def test_whole_digits_are_the_rows_of_the_pixel_task():
    data = fake_mnist()
    whole = MNIST(data, seed=3, batch_size=4)
    read = fake_task(data, seed=3)
    for step in (0, 1, 5):
        batch, rows = whole.train_batch(step), read.train_batch(step)
        assert batch["inputs"].shape == (4, 784)
        whole_rows = batch["inputs"].reshape(4, 28, 28)
        np.testing.assert_array_equal(whole_rows, rows["inputs"])
        np.testing.assert_array_equal(batch["labels"], rows["labels"])
    test = next(whole.eval_batches("test"))
    assert test["inputs"].shape == (base.EVAL_BATCH, 784)
    flat = data.test.images.reshape(5, 784) / 255
    np.testing.assert_allclose(test["inputs"][:5], flat, rtol=1e-6)
    assert test["weights"].sum() == 5


def test_epoch_visits_images_once_and_drops_the_rest():
    data = fake_mnist(train=11)
    data.train.images[:] = np.arange(11, dtype=np.uint8)[:, None, None]
    task = fake_task(data)
    assert task.steps_per_epoch(4) == 2

    def images(step):
        return np.rint(task.train_batch(step)["inputs"][:, 0, 0] * 255).tolist()

    epochs = [images(2 * e) + images(2 * e + 1) for e in range(3)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_pixel_mnist_metrics_by_an_independent_loop():
    data = fake_mnist(valid=7)
    task = fake_task(data)
    logits = np.random.default_rng(1).normal(size=(7, 10)).astype(np.float32)

    def outputs(batch):  # the padding repeats the last example
        return jnp.asarray(logits[np.minimum(np.arange(len(batch["labels"])), 6)])

    losses, right = [], 0
    for row, label in zip(logits.astype(np.float64), data.valid.labels, strict=True):
        losses.append(-math.log(np.exp(row[label]) / np.exp(row).sum()))
        right += row.argmax() == label
    metrics = over_split(task, "valid", outputs)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(right / 7)
    assert task.baseline == pytest.approx(math.log(10))


# ---- Bad input.


@pytest.mark.parametrize(
    "make,message",
    [
        (
            lambda: Addition(length=1, seed=0, batch_size=1),
            "config.task.length must be an integer .*2, got 1",
        ),
        (lambda: Addition(length=2.5, seed=0, batch_size=1), "got 2.5"),
        (lambda: Addition(length=8, seed=-1, batch_size=1), "config.seed.*got -1"),
        (lambda: Addition(length=8, seed=0, batch_size=0), "batch_size.*got 0"),
        (
            lambda: Copying(length=0, seed=0, batch_size=1),
            "config.task.length must be an integer .*1, got 0",
        ),
        (lambda: fake_task(steps=56), r"\(784, 112, 28\), got 56"),
        (lambda: fake_task(batch_size=12), "at most the 11 training images, got 12"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "split,change,message",
    [
        ("train", {"images": np.full((11, 28, 28), np.nan)}, "train images.*float64"),
        ("valid", {"images": np.zeros((7, 784), np.uint8)}, r"valid images.*, 784\)"),
        ("test", {"labels": np.zeros(4, np.uint8)}, r"test labels.*\(4,\)"),
        ("test", {"labels": np.full(5, 10, np.uint8)}, "0 ... 9, got 10"),
        ("train", {"labels": np.full(11, np.nan)}, "train labels.*float64"),
    ],
)
def test_bad_data(split, change, message):
    data = fake_mnist()
    vars(getattr(data, split)).update(change)
    with pytest.raises(ValueError, match=message):
        fake_task(data)


def test_a_metric_tells_results_as_its_task_judges_them():
    task = Addition(length=4, seed=0, batch_size=2)
    assert (task.primary, task.higher_is_better) == ("mse", False)
    assert registry.metric("addition") == scoring.MSE
    kinds = (Addition, Copying, MNIST, PixelMNIST)
    assert [kind.metric.name for kind in kinds] == [
        *("mse", "recall", "accuracy", "accuracy")
    ]


def test_the_metric_of_a_task_of_ones_own_is_that_of_its_registration(monkeypatch):
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    config = config_dict.ConfigDict({"task": {"name": "own"}})

    def own(config):
        return SyntheticOwn(length=4, minimum_length=1, seed=0, batch_size=2)

    class SyntheticOwn(synthetic.SyntheticTask):
        name = "own"
        draw = sums = metrics = None

    registry.register("own", own, metric=scoring.RECALL)
    task = registry.build(config)
    assert (task.primary, task.higher_is_better) == ("recall", True)
    monkeypatch.setattr(SyntheticOwn, "primary", "mse")
    with pytest.raises(ValueError, match=r"\('recall', True\), got \('mse', True\)$"):
        registry.build(config)
    registry.register("own", own)
    with pytest.raises(ValueError, match="metric must be given where the task 'own'"):
        registry.metric("own")


def test_a_metric_prints_numbers():
    assert scoring.RECALL.best([0.5, 0.75]) == 0.75 and scoring.MSE.best([2, 1]) == 1
    assert scoring.PERPLEXITY.number(12.345) == "12.3"
    assert scoring.PERPLEXITY.number(12.345, 0) == "12"
