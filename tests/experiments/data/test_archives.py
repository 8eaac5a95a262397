"""Sets as aeon reads them, to arrays by name: no aeon is needed."""

import numpy as np
import pytest

from configs import arrays
from experiments.data import archives
from experiments.tasks import arrays as tasks


def cases(count, features=2, steps=5, seed=0):
    """(items, features, steps), as aeon reads items of equal lengths."""
    return np.random.default_rng(seed).normal(size=(count, features, steps))


def test_features_come_last_and_labels_become_classes():
    train = cases(4), np.array(["walk", "run", "walk", "stand"])
    test = cases(2, seed=1), np.array(["stand", "walk"])
    named = archives.arrays(train, test)
    assert set(named) == {
        f"{split}_{kind}"
        for split in ("train", "test")
        for kind in ("inputs", "targets")
    }
    np.testing.assert_array_equal(named["train_inputs"], train[0].transpose(0, 2, 1))
    np.testing.assert_array_equal(named["test_inputs"], test[0].transpose(0, 2, 1))
    assert named["train_targets"].tolist() == [2, 0, 2, 1]
    assert named["test_targets"].tolist() == [1, 2]


def test_integers_are_classes_and_other_numbers_are_predicted():
    integers = archives.arrays(
        (cases(3), np.array([4, 7, 4])), (cases(1), np.array([7]))
    )
    assert integers["train_targets"].tolist() == [0, 1, 0]
    numbers = archives.arrays(
        (cases(2), np.array([0.5, 2.0])), (cases(1), np.array([9.0]))
    )
    assert numbers["test_targets"].tolist() == [9.0]


def test_unequal_lengths_are_filled_with_zeros_to_the_longest_of_both_splits():
    train = [cases(1, steps=n)[0] for n in (3, 5)]
    test = [cases(1, steps=7, seed=1)[0]]
    named = archives.arrays((train, np.array(["a", "b"])), (test, np.array(["b"])))
    assert named["train_inputs"].shape == (2, 7, 2)
    assert named["train_lengths"].tolist() == [3, 5]
    assert named["test_lengths"].tolist() == [7]
    np.testing.assert_array_equal(named["train_inputs"][0, :3], train[0].T)
    assert not named["train_inputs"][0, 3:].any()
    # Both splits of one length each, but not of the same.
    named = archives.arrays(
        (cases(2, steps=3), np.array(["a", "b"])),
        (cases(1, steps=4), np.array(["b"])),
    )
    assert named["train_lengths"].tolist() == [3, 3]


def test_a_label_of_test_alone_is_refused():
    with pytest.raises(ValueError, match="labels of test must be among a, b, .* got c"):
        archives.arrays((cases(2), np.array(["a", "b"])), (cases(1), np.array(["c"])))


def test_the_file_is_what_the_config_reads(tmp_path):
    labels = np.array(["a", "b"] * 8)
    train = [cases(1, steps=3 + i % 3, seed=i)[0] for i in range(16)]
    test = [cases(1, steps=6, seed=i)[0] for i in range(4)]
    named = archives.arrays((train, labels), (test, labels[:4]))
    np.savez(tmp_path / "set.npz", **named)
    config = arrays.get_config()
    config.task.path = str(tmp_path / "set.npz")
    config.task.folds, config.task.fold = 4, 1
    task = tasks.build(config)
    assert task.source.counts == {"train": 12, "valid": 4, "test": 4}
    assert task.out_features == 2 and task.time_steps == 6
    batch = next(task.eval_batches("test"))
    assert batch["targets"].tolist() == [0, 1, 0, 1]
    assert batch["lengths"].tolist() == [6] * 4
