"""A run under other settings of JAX: the same, refused, or said in one line."""

import contextlib

import jax
import pytest

from experiments.training import loop
from tests.experiments.small import strict_lines, tiny_config


def config():
    config = tiny_config(steps=2, log_every=1, eval_every=2, checkpoint_every=1)
    config.model.dropout = 0.3  # which draws in every step
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return workdir, loop.train(config(), workdir)


def losses(workdir):
    return [each["loss"] for each in strict_lines(workdir / "metrics.jsonl")[1:-1]]


def test_random_streams_are_those_of_the_seed(finished, tmp_path):
    with jax.default_prng_impl("rbg"), jax.threefry_partitionable(False):
        other = loop.train(config(), tmp_path)
        assert jax.config.jax_default_prng_impl == "rbg"  # given back
    workdir, result = finished
    assert losses(tmp_path) == losses(workdir)
    assert other["metrics"] == result["metrics"]


def test_a_finished_run_of_other_settings(finished, capsys):
    workdir, result = finished
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match="streams(.|\n)*jax_enable_x64: False -> True"),
    ):
        loop.train(config(), workdir)
    for context, notices in [
        (contextlib.nullcontext(), []),
        (
            jax.default_matmul_precision("highest"),
            ["jax_default_matmul_precision: None -> 'highest'"],
        ),
    ]:
        with context:
            assert loop.train(config(), workdir) == result
        said = capsys.readouterr().out.splitlines()
        assert "nothing to do" in said[0]
        for line, notice in zip(said[1:], notices, strict=True):
            assert line == f"changed since then, and may move numbers: {notice}"


@pytest.mark.slow
def test_a_run_goes_on_under_other_settings(finished, capsys):
    workdir, result = finished
    (workdir / "result.json").unlink()  # as if it had been stopped before its end
    with jax.enable_x64(True), pytest.raises(ValueError, match="jax_enable_x64"):
        loop.train(config(), workdir)
    for name, notice in [("highest", "None -> 'highest'"), ("high", "'highest' -> ")]:
        (workdir / "result.json").unlink(missing_ok=True)
        with jax.default_matmul_precision(name):
            again = loop.train(config(), workdir)
        assert again["metrics"] == result["metrics"]
        said = capsys.readouterr().out
        assert "resumed from step 2 of 2\nchanged since then, and may move num" in said
        assert f"jax_default_matmul_precision: {notice}" in said
        event = strict_lines(workdir / "metrics.jsonl")[-2]
        assert event["event"] == "resumed_from" and event["devices"] >= 1
        assert event["settings"]["jax_default_matmul_precision"] == name


def test_a_run_of_before_goes_on(finished, capsys):
    workdir, result = finished
    log = workdir / "metrics.jsonl"
    for damage in (
        lambda text: text.replace('"settings"', '"other"').replace('"jaxlib"', '"x"'),
        lambda text: "",
    ):
        (workdir / "result.json").unlink(missing_ok=True)
        log.write_text(damage(log.read_text()))
        assert loop.train(config(), workdir)["metrics"] == result["metrics"]
        said = capsys.readouterr().out
        assert "resumed from step 2" in said and "may move" not in said
