"""The compiled programs of a run: how few they are, what of them is kept, and how."""

import pathlib

import jax
import numpy as np
import pytest
from absl import logging

from experiments.benchmark import startup
from experiments.data import stand_in
from experiments.tasks import base
from experiments.training import compilations, loop
from tests import compiled
from tests.experiments.small import strict_lines, tiny_config

MOST = 12


@pytest.fixture
def cache(tmp_path):
    """Leads to a folder for the length of a test, and back."""
    names = (
        *("jax_compilation_cache_dir", "jax_enable_compilation_cache"),
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield tmp_path / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)
    compilations.compilation_cache.reset_cache()


def losses(workdir):
    return [
        {k: v for k, v in line.items() if "second" not in k}
        for line in strict_lines(workdir / "metrics.jsonl")
        if "loss" in line
    ]


def test_runs_share_programs_and_come_out_the_same(cache, tmp_path):
    config = tiny_config(
        *(), steps=3, eval_every=2, checkpoint_every=2, schedule="cosine", devices=2
    )
    config.train.weight_decay = 0.1
    config.train.rates.readout = 0.01
    compilations.keep("none")
    with compiled.programs() as names:
        loop.train(config, tmp_path / "without")
    assert len(names) <= MOST, names

    compilations.keep(str(cache))
    with compiled.written() as written:
        loop.train(config, tmp_path / "cold")
    assert written and len(list(cache.iterdir())) == len(written)
    with compiled.written() as written:
        loop.train(config, tmp_path / "warm")
        changed = config.copy_and_resolve_references()
        changed.seed = 2
        changed.train.learning_rate = 1e-4
        changed.train.rates.reflectors = 1e-5
        changed.train.rates.readout = 1e-4
        changed.train.weight_decay = 0.3
        loop.train(changed, tmp_path / "changed")
    assert not written
    expected = losses(tmp_path / "without")
    assert losses(tmp_path / "cold") == losses(tmp_path / "warm") == expected
    assert losses(tmp_path / "changed") != expected


def test_an_entry_is_whole_and_a_cut_one_is_written_anew(cache, tmp_path, recwarn):
    compilations.keep(str(cache))
    double = jax.jit(lambda x: 2 * x + 1)
    double(np.ones(3))
    (entry,) = cache.glob("*-cache")
    content = entry.read_bytes()
    entry.write_bytes(content[: len(content) // 2])
    jax.clear_caches()
    np.testing.assert_array_equal(double(np.ones(3)), 3)
    jax.clear_caches()
    with compiled.written() as written:
        np.testing.assert_array_equal(double(np.ones(3)), 3)
    assert not written
    assert [path.name for path in cache.iterdir()] == [entry.name]


def test_what_was_not_used_for_the_longest_goes_first(tmp_path):
    entries = compilations.Entries(tmp_path)
    for name in "abc":
        entries.put(name, b"x" * 100)
    assert entries.get("a") == b"x" * 100 and entries.get("d") is None
    for age, name in enumerate("bca"):
        path = tmp_path / f"{name}-cache"
        compilations.os.utime(path, (age, age))
    compilations.Entries(tmp_path, most_bytes=250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-cache", "c-cache"]


def test_a_run_goes_on_where_nothing_can_be_kept(tmp_path, monkeypatch):
    entries = compilations.Entries(tmp_path)
    lines = []
    monkeypatch.setattr(logging, "warning", lambda *line: lines.append(line))
    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    entries.put("a", b"x")
    entries.put("b", b"x")
    assert len(lines) == 1 and not list(tmp_path.iterdir())


def full(*arguments):
    raise OSError(28, "No space left on device")


def test_a_folder_that_cannot_be(tmp_path, cache):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--compilation_cache must be a folder"):
        compilations.keep(str(tmp_path / "file" / "below"))


@pytest.mark.slow
@pytest.mark.parametrize("name", startup.CONFIGS)
def test_every_config_compiles_few_programs(name, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "EVAL_SEQUENCES", 64)
    config = startup.config_of(name, tmp_path)
    if "data_dir" in config and config.task.name != "arrays":
        config.data_dir = stand_in.NAME
    config.train.update(steps=2, warmup_steps=0)
    with compiled.programs() as names:
        loop.train(config, tmp_path / "run")
    assert len(names) <= MOST, names
