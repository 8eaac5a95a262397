"""What a config takes before its first step, as the benchmark measures it."""

import json
import pathlib
import subprocess
import sys

import pytest

from experiments.benchmark import startup

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_the_second_process_reads_what_the_first_compiled(tmp_path):
    words = ["startup", "--configs=arrays", f"--out={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *words],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "benchmark_startup.json").read_text())
    cold, warm = (startup.Row(**row) for row in record["rows"])
    assert (cold.cache, warm.cache) == (startup.COLD, startup.WARM)
    assert cold.programs == warm.programs <= 12
    assert warm.compiling < cold.compiling / 2
    for row in (cold, warm):
        parts = row.imports + row.data + row.initialization + row.first_update
        assert parts <= row.to_first_step and row.step < row.first_update
        assert min(row.evaluation, row.checkpoint, row.gib) > 0


@pytest.mark.parametrize("name", startup.CONFIGS)
def test_every_config_is_there(name, tmp_path):
    config = startup.config_of(name, tmp_path)
    assert config.task.name and config.train.batch_size
