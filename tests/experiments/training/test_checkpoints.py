"""Checkpoints: the newest two, each complete, intact and within its folder."""

import json
import os
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runs import files
from experiments.training import checkpoints


class State(NamedTuple):
    weights: Any
    step: Any
    nothing: Any = None


def state(step):
    return State(jnp.arange(3.0), jnp.int32(step))


def best(step):
    return {"weights": jnp.full(3, float(step))}


def record(step):
    metrics = {"step": step, "valid": {"loss": 0.5 / step}}
    own = {"stalled": step % 2, "seconds": float(step), "restores": 0}
    return {"best": metrics, "last": metrics, **own}


def save(folder, *steps):
    saved = checkpoints.Checkpoints(folder)
    for step in steps:
        saved.save(step, state(step), best(step), record(step))
    saved.close()


def restored(folder):
    """(step, best parameters, record) that are found in a folder."""
    saved = checkpoints.Checkpoints(folder)
    try:
        found, params, content = saved.restore(state(0), best(0))
    finally:
        saved.close()
    return int(found.step), params["weights"][0], content


def stored(folder, step):
    return folder / str(step) / "record" / "metadata"


def test_two_are_kept_and_a_step_that_exists_is_not_saved_again(tmp_path):
    saved = checkpoints.Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        saved.save(step, state(step), best(step), record(step))
    saved.save(3, state(3), best(0), record(1))
    assert saved.latest() == 3
    assert sorted(p.name for p in saved.directory.iterdir()) == ["2", "3"]
    found, best_params, content = saved.restore(state(0), best(0))
    saved.close()
    assert content == record(3) and found.nothing is None
    np.testing.assert_array_equal(found.weights, [0, 1, 2])
    np.testing.assert_array_equal(best_params["weights"], [3, 3, 3])


def test_arrays_without_entries(tmp_path):
    empty = State({"none": jnp.zeros((2, 0), jnp.bfloat16)}, jnp.int32(1))
    saved = checkpoints.Checkpoints(tmp_path)
    saved.save(1, empty, empty.weights, record(1))
    found, best_params, content = saved.restore(empty, empty.weights)
    saved.close()
    assert content == record(1)
    for weights in (found.weights, best_params):
        assert weights["none"].shape == (2, 0)
        assert weights["none"].dtype == jnp.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["lr[0.1]", "[x]", "a\\b", "a?b", "a*b", "a%41b", "{b}", "a\nb", "ü #", "\udcff"],
)
def test_any_name_of_a_folder(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    save(folder, 1, 2)
    save(folder, 3)  # a new process
    assert restored(folder) == (3, 3.0, record(3))
    assert sorted(os.listdir(folder)) == ["2", "3"]
    assert os.listdir(tmp_path) == [name]  # nothing is written elsewhere


def test_a_name_that_is_a_pattern_reads_no_neighbour(tmp_path):
    save(tmp_path / "ab" / "checkpoints", 1)
    save(tmp_path / "[a]b" / "checkpoints", 2)
    assert restored(tmp_path / "[a]b" / "checkpoints")[0] == 2


def test_any_flipped_bit_of_a_record_is_seen(tmp_path):
    save(tmp_path, 1, 2)
    content = stored(tmp_path, 2).read_bytes()
    for place in range(len(content)):
        # What stays valid JSON is the danger: a letter, a digit, a sign.
        flipped = bytes([content[place] ^ (1 << place % 7)])
        damaged = content[:place] + flipped + content[place + 1 :]
        try:
            value = json.loads(damaged)
        except ValueError:
            continue
        with pytest.raises(ValueError):
            checkpoints._opened(2, state(2), best(2), value)
    opened = checkpoints._opened(2, state(2), best(2), json.loads(content))
    assert opened == record(2)


def test_values_of_other_types_in_what_orbax_reads_by_itself(tmp_path):
    save(tmp_path / "whole", 1, 2)
    name = checkpoints.METADATA
    content = json.loads((tmp_path / "whole" / "2" / name).read_text())
    assert len(content) > 3
    for key in content:
        folder = tmp_path / key
        shutil.copytree(tmp_path / "whole", folder)
        damaged = json.dumps(content | {key: 3.5})
        (folder / "2" / name).write_text(damaged)
        with pytest.raises(ValueError, match=f"{key}/.*{name} cannot be read: "):
            checkpoints.Checkpoints(folder, read_only=True)
        assert (folder / "2" / name).read_text() == damaged
        assert restored(folder) == (2, 2.0, record(2))
        save(folder, 3)
        assert restored(folder)[0] == 3


@pytest.mark.parametrize("part", ["state", "best_params", "record"])
def test_a_part_of_another_step_is_seen(tmp_path, part):
    save(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "2" / part)
    shutil.copytree(tmp_path / "1" / part, tmp_path / "2" / part)
    assert restored(tmp_path) == (1, 1.0, record(1))
    assert os.listdir(tmp_path) == ["1"]


def test_a_record_of_before_there_were_digests(tmp_path):
    save(tmp_path, 1, 2)
    old = {name: record(2)[name] for name in ("best", "seconds")}
    stored(tmp_path, 2).write_text(json.dumps(old))
    lacking = {"last": None, "stalled": 0}
    assert restored(tmp_path) == (2, 2.0, record(2) | lacking)
    for damaged in (
        old | {"seconds": -1.0},
        old | {"best": {"step": 3, "valid": {"loss": 0.1}}},
        old | {"best": {"step": 2, "valid": {"losq": 0.1}}},
        old | {"best": {"step": 2, "valid": {"loss": None}}},
        old | {"best": 2},
        [],
    ):
        with pytest.raises(ValueError, match="record"):
            checkpoints._opened(2, state(2), best(2), damaged)


def test_a_record_of_before_there_was_a_field(tmp_path):
    save(tmp_path, 1, 2)
    whole = record(2)
    assert whole.pop("stalled") == 0
    old = checkpoints._sealed(2, best(2), whole)
    stored(tmp_path, 2).write_text(json.dumps(old))
    assert restored(tmp_path) == (2, 2.0, record(2))
    for damaged in (old | {"seconds": 3.0}, old | {"stalled": 0}):
        with pytest.raises(ValueError, match="the record is damaged"):
            checkpoints._opened(2, state(2), best(2), damaged)


def test_what_a_kill_left_beside_the_newest_two_is_removed(tmp_path):
    save(tmp_path / "a", 1)
    save(tmp_path / "b", 2, 3)
    shutil.copytree(tmp_path / "a" / "1", tmp_path / "b" / "1")
    shutil.copytree(tmp_path / "a" / "1", tmp_path / "b" / "4.orbax-checkpoint-tmp")
    (tmp_path / "b" / "5").mkdir()
    assert restored(tmp_path / "b")[0] == 3
    assert sorted(os.listdir(tmp_path / "b")) == ["2", "3"]


def test_a_link_among_the_checkpoints_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("draft")
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    (folder / "7").symlink_to(other, target_is_directory=True)
    checkpoints.Checkpoints(folder).close()
    assert (other / "thesis.tex").read_text() == "draft"


def test_a_disk_without_space_is_left_alone(tmp_path, monkeypatch):
    save(tmp_path, 1)
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    saved = checkpoints.Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: full)
    with pytest.raises(files.Unwritable, match="/2 cannot .*No space .*1000 free"):
        saved.save(2, state(2), best(2), record(2))
    saved.close()
    assert os.listdir(tmp_path) == ["1"]


def test_a_save_that_fails_is_one_line_and_leaves_the_others(tmp_path, monkeypatch):
    save(tmp_path, 1)
    saved = checkpoints.Checkpoints(tmp_path)

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: no space [source locations]\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(saved._manager, "save", full)
        with pytest.raises(files.Unwritable) as raised:
            saved.save(2, state(2), best(2), record(2))
    saved.close()
    assert str(raised.value).startswith(f"{tmp_path}/2 cannot be written: RESOURCE_E")
    assert "source" not in str(raised.value) and "\n" not in str(raised.value)
    assert restored(tmp_path)[0] == 1


@pytest.mark.parametrize("method", ["save", "restore"])
def test_a_process_that_is_gone_is_no_fault_of_disk_or_checkpoint(
    tmp_path, monkeypatch, method
):
    save(tmp_path, 1, 2)
    saved = checkpoints.Checkpoints(tmp_path)

    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed")

    monkeypatch.setattr(saved._manager, method, fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Gloo"):
        if method == "save":
            saved.save(3, state(3), best(3), record(3))
        else:
            saved.restore(state(0), best(0))
    saved.close()
    monkeypatch.undo()
    assert restored(tmp_path)[0] == 2
