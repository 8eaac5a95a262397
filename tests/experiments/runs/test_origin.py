"""What moves the numbers of a run: what is kept of it, compared and refused."""

import json

import jax
import pytest

from experiments.runs import origin


def test_what_is_kept_of_a_session(monkeypatch):
    monkeypatch.setenv(
        "XLA_FLAGS",
        "--xla_dump_to=/home/me --xla_cpu_enable_fast_math=true --xla_dump_hlo_as_text"
        " --xla_force_host_platform_device_count=8 --xla_gpu_cuda_data_dir=/usr/cuda",
    )
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        settings = origin.present()["settings"]
    assert settings["jax_enable_x64"] is True
    assert settings["jax_default_matmul_precision"] == "highest"
    assert settings["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=true"
    rounding = {name for name in origin.ROUNDING if name in jax.config.values}
    assert len(rounding) > 3  # JAX drops one now and then
    assert settings.keys() >= {*origin.STREAMS, *rounding, *origin.VARIABLES}
    assert json.loads(json.dumps(settings)) == settings
    now = origin.settings()
    assert {name: now[name] for name in origin.STREAMS} == origin.STREAMS


NOW = {
    "revision": "b",
    "machine": {"jax": "2", "numpy": "1", "cores": 2, "python": "3"},
    "settings": {"jax_enable_x64": False, "XLA_FLAGS": ""},
    "devices": 2,
}


@pytest.mark.parametrize(
    ("old", "words"),
    [
        (NOW, None),
        ({}, None),  # of before, or of a damaged log
        ({"machine": 1, "settings": None}, None),
        ({"revision": None, "machine": {"cores": 8, "python": "2"}}, None),
        (NOW | {"machine": {"jax": "1"}}, "jax: '1' -> '2'"),
        (
            {"revision": "a", "settings": {"XLA_FLAGS": "--x"}, "devices": 1},
            "revision: 'a' -> 'b', XLA_FLAGS: '--x' -> '', devices: 1 -> 2",
        ),
    ],
)
def test_what_may_move_numbers_is_one_line(old, words):
    found = origin.notice(old, NOW)
    assert found == (words and f"changed since then, and may move numbers: {words}")


def test_other_random_streams_are_refused():
    settings = origin.settings()
    for old in (None, {}, settings, settings | {"XLA_FLAGS": "--other"}):
        origin.check_streams("--workdir run", old, settings)
    with pytest.raises(
        ValueError,
        match=r"--workdir run was made with other random streams; (.|\n)*"
        r"\n  jax_enable_x64: True -> False\n  jax_random_seed_offset: 3 -> 0$",
    ):
        old = {"jax_enable_x64": True, "jax_random_seed_offset": 3}
        origin.check_streams("--workdir run", old, settings)
