"""Arrays of one's own: files, splits and what is fitted, against plain loops."""

import io
import os
import re
import zipfile

import numpy as np
import pytest

from experiments.data import arrays, scaling, splits

# ---- Files.


def test_a_file_and_a_folder_hold_the_same(tmp_path):
    values = {"inputs": np.arange(24.0).reshape(4, 3, 2), "targets": np.arange(4)}
    np.savez(tmp_path / "data.npz", **values)
    (tmp_path / "data").mkdir()
    for name, array in values.items():
        np.save(tmp_path / "data" / f"{name}.npy", np.asfortranarray(array))
    archive, folder = (arrays.read(tmp_path / n) for n in ("data.npz", "data"))
    assert archive.keys() == folder.keys() == values.keys()
    assert all(isinstance(array, np.memmap) for array in folder.values())
    assert arrays.digest(archive) == arrays.digest(folder)
    archive["targets"] = archive["targets"] + 1
    assert arrays.digest(archive) != arrays.digest(folder)


def test_blocks_go_through_an_array_once(monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", 12)
    array = np.arange(7 * 2 * 2).reshape(7, 2, 2)
    parts = [(rows.start, block) for rows, block in arrays.blocks(array)]
    assert [start for start, _ in parts] == [0, 3, 6]
    np.testing.assert_array_equal(np.concatenate([b for _, b in parts]), array)


def test_data_are_at_the_path_or_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SVDRNN_DATA", raising=False)
    kept = tmp_path / "kept" / "sets" / "data.npz"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert arrays.find("sets/data.npz", str(tmp_path / "kept")) == kept
    assert arrays.find("/gone/data.npz", str(kept.parent)) == kept
    with pytest.raises(ValueError) as raised:
        arrays.find("data.npz", str(tmp_path / "kept"))
    assert str(raised.value) == (
        "config.task.path must be there, got 'data.npz': nothing at data.npz,"
        f" {tmp_path / 'kept' / 'data.npz'}"
    )
    (tmp_path / "data.npz").touch()
    assert arrays.find("data.npz", str(tmp_path / "kept")).samefile("data.npz")
    for path in ("", None):
        with pytest.raises(ValueError, match="config.task.path must be an .npz file"):
            arrays.find(path, "")
    with pytest.raises(ValueError, match="config.data_dir must be a folder: arrays"):
        arrays.find("data.npz", "stand-in")


def saved(**values):
    file = io.BytesIO()
    np.savez(file, **values)
    return file.getvalue()


def foreign_member():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inputs.npy", "no array")
    return file.getvalue()


GOOD = {"inputs": np.zeros((4, 3)), "targets": np.arange(4)}


@pytest.mark.parametrize(
    "content,message",
    [
        (
            saved(**GOOD)[:400],
            "data.npz must be whole arrays of numbers as numpy saves",
        ),
        (saved(**GOOD)[:-30], "data.npz must be whole arrays .*, got BadZipFile: "),
        (b"", "data.npz must be whole arrays .*, got EOFError: "),
        (b"text", "data.npz must be whole arrays .*, got a file of another format$"),
        (foreign_member(), "^inputs must be an array, got bytes$"),
        (
            saved(inputs=np.array([["a", "bc"]])),
            r"^inputs must be numbers, got text \(<U2\)$",
        ),
        (
            saved(inputs=np.array([[1, None]], object)),
            "^inputs of .* must be whole arrays of numbers .*, got Python objects$",
        ),
        (saved(inputs=np.zeros(3, complex)), r"got no real numbers \(complex128\)$"),
        (saved(labels=np.zeros(3)), "must be named inputs, targets, .*, got 'labels'$"),
        (saved(), "data.npz must hold inputs and targets, or series, got none$"),
    ],
)
def test_bad_files_are_a_line(tmp_path, content, message):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        arrays.read(path)
    assert "\n" not in str(raised.value)


def test_one_damaged_number_is_noticed(tmp_path):
    content = bytearray(saved(**GOOD))
    content[180] ^= 1  # of the inputs, not their header
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^inputs of .*got BadZipFile: Bad CRC-32"):
        arrays.read(path)


def test_a_cut_file_of_a_folder_is_named(tmp_path):
    np.save(tmp_path / "inputs.npy", np.zeros((40, 30)))
    content = (tmp_path / "inputs.npy").read_bytes()
    (tmp_path / "inputs.npy").write_bytes(content[:-8])
    with pytest.raises(ValueError, match="inputs.npy must be whole arrays"):
        arrays.read(tmp_path)


def test_a_damaged_header_is_named(tmp_path):
    np.save(tmp_path / "inputs.npy", np.zeros((4, 3)))
    content = (tmp_path / "inputs.npy").read_bytes().replace(b"(4, 3)", b"(4, 3(")
    (tmp_path / "inputs.npy").write_bytes(content)
    with pytest.raises(ValueError, match="inputs.npy must be whole arrays of numbers"):
        arrays.read(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(ValueError, match="data.npz must be an .npz file or a folder"):
        arrays.read(tmp_path / "data.npz")


def test_a_single_array_is_no_set(tmp_path):
    np.save(tmp_path / "data.npy", np.zeros(3))
    with pytest.raises(ValueError, match="must be an .npz file, got a single array"):
        arrays.read(tmp_path / "data.npy")


# ---- Splits.


def divide(count, labels=None, named=(), **fields):
    return splits.divide(count, labels, splits.Options(**fields), set(named))


def test_splits_hold_every_item_once_and_are_the_same_again():
    parts = divide(40, split_seed=3, valid_share=0.2, test_share=0.1)
    assert {split: len(rows) for split, rows in parts.items()} == {
        **{"train": 28, "valid": 8, "test": 4}
    }
    joined = np.concatenate(list(parts.values()))
    np.testing.assert_array_equal(np.sort(joined), np.arange(40))
    again = divide(40, split_seed=3, valid_share=0.2, test_share=0.1)
    other = divide(40, split_seed=4, valid_share=0.2, test_share=0.1)
    assert all(np.array_equal(parts[split], again[split]) for split in parts)
    assert not np.array_equal(parts["test"], other["test"])


@pytest.mark.parametrize("seed", range(5))
def test_every_split_has_its_share_of_every_class(seed):
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    np.random.default_rng(seed).shuffle(labels)
    fields = {"split_seed": seed, "valid_share": 0.2, "test_share": 0.1}
    parts = divide(100, labels, **fields)
    for split, share in {"test": 0.1, "valid": 0.2, "train": 0.7}.items():
        counts = np.bincount(labels[parts[split]], minlength=3)
        assert np.all(np.abs(counts - share * np.array([60, 30, 10])) < 2), split


def test_named_splits_take_nothing():
    assert divide(10, named=["valid", "test"]).keys() == {"train"}
    assert divide(10, named=["test"]).keys() == {"train", "valid"}


def test_folds_are_validation_once_and_leave_the_test_part():
    labels = np.repeat([0, 1], [30, 12])
    parts = [divide(42, labels, folds=4, fold=j, test_share=0.25) for j in range(4)]
    for each in parts:
        np.testing.assert_array_equal(each["test"], parts[0]["test"])
        rest = np.concatenate([each["train"], each["valid"]])
        fair = np.bincount(labels[rest]) / 4
        assert np.all(np.abs(np.bincount(labels[each["valid"]]) - fair) < 1)
        rest = np.concatenate([each["train"], each["valid"], each["test"]])
        np.testing.assert_array_equal(np.sort(rest), np.arange(42))
    valid = np.concatenate([each["valid"] for each in parts])
    assert len(valid) == len(set(valid)) == 42 - len(parts[0]["test"])


@pytest.mark.parametrize(
    "fields,named,message",
    [
        ({"folds": 3}, (), "folds and config.task.fold must be given together, got 3"),
        ({"folds": 3, "fold": 3}, (), r"fold must lie in 0 \.\.\. 2 .*, got 3"),
        (
            {"valid_share": 0.1},
            ("valid",),
            "valid_share must be left out with valid_in",
        ),
        (
            {"test_share": 0.1},
            ("test",),
            "test_share must be left out with test_inputs",
        ),
        ({"folds": 3, "fold": 0}, ("valid",), "folds must be left out with valid_in"),
        (
            {"folds": 3, "fold": 0, "valid_share": 0.1},
            (),
            "valid_share must be left out with config.task.folds, got 0.1",
        ),
        ({"split_seed": 1}, ("valid", "test"), "split_seed must be left out with"),
    ],
)
def test_fields_that_divide_nothing_are_refused(fields, named, message):
    with pytest.raises(ValueError, match=f"config.task.{message}"):
        splits.check(splits.Options(**fields), set(named))


def test_too_few_items_are_refused():
    with pytest.raises(ValueError, match="must leave items for training, got 2 items"):
        divide(2)
    with pytest.raises(ValueError, match="folds must be at most the 4 items, got 5"):
        divide(4, folds=5, fold=0, named=["test"])


# ---- What is fitted.


def test_moments_are_those_of_all_values_without_the_missing():
    rng = np.random.default_rng(0)
    values = rng.normal(loc=1e6, size=(50, 3))
    values[rng.random((50, 3)) < 0.3] = np.nan
    values[:, 2] = 0.1  # three tenths do not add up to 0.3
    moments = scaling.Moments(3)
    for start, stop in [(0, 7), (7, 7), (7, 30), (30, 50)]:
        moments.add(values[start:stop])
    np.testing.assert_allclose(moments.mean, np.nanmean(values, 0), rtol=1e-14)
    expected = np.nanvar(values, 0)
    np.testing.assert_allclose(moments.variance()[:2], expected[:2], rtol=1e-9)
    fitted = scaling.fit(moments, True)
    assert fitted.scale[2] == 1 and moments.variance()[2] == 0
    np.testing.assert_allclose(fitted.scale[:2], np.sqrt(expected[:2]), rtol=1e-9)
    plain = scaling.fit(moments, False)
    assert plain.mean.tolist() == [0, 0, 0] and plain.scale.tolist() == [1, 1, 1]


def filled_by_a_loop(values, rule, mean):
    values = values.copy()
    for item in values:
        for feature in range(item.shape[1]):
            last = mean[feature]
            for step in range(len(item)):
                if np.isnan(item[step, feature]):
                    options = {"zero": 0.0, "mean": mean[feature], "previous": last}
                    item[step, feature] = options[rule]
                else:
                    last = item[step, feature]
    return values


@pytest.mark.parametrize("rule", ["zero", "mean", "previous"])
def test_missing_values_are_filled_as_by_a_loop(rule):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(5, 8, 3))
    values[rng.random(values.shape) < 0.5] = np.nan
    mean = np.array([10.0, 20.0, 30.0])
    expected = filled_by_a_loop(values, rule, mean)
    np.testing.assert_array_equal(scaling.fill(values, rule, mean), expected)
    assert not np.isnan(expected).any()


def test_a_feature_without_a_value_is_named():
    moments = scaling.Moments(2)
    moments.add(np.array([[1.0, np.nan]]))
    with pytest.raises(
        ValueError, match=re.escape("inputs must have a number in ever")
    ):
        scaling.check_filled("inputs", moments)


@pytest.mark.parametrize("value", [0.3, -0.3, 1e9, 0.0])
def test_what_differs_by_rounding_alone_is_constant(value):
    rounded = np.array([value, np.nextafter(value, 1e300)])
    values = np.stack([rounded[np.arange(400) % 2], np.arange(400) / 1e3 + value], 1)
    moments = scaling.Moments(2)
    for start in range(0, 400, 7):
        moments.add(values[start : start + 7])
    fitted = scaling.fit(moments, True)
    assert fitted.scale[0] == 1 and moments.variance()[0] == 0
    np.testing.assert_allclose(fitted.scale[1], values[:, 1].std(), rtol=1e-3)
