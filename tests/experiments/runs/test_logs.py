"""metrics.jsonl: what is written is strict JSON, and what is read is the last of it."""

import jax.numpy as jnp
import numpy as np

from experiments.runs import logs
from tests.experiments.small import strict_lines


def test_log_lines_are_strict_json(tmp_path):
    log = logs.MetricLog(tmp_path, None)
    log.write(3, "train", {"loss": float("nan"), "norm": np.float32("inf")})
    log.write(4, "valid", {"loss": jnp.float32(0.5), "count": 3})
    log.event(4, "note", text="so")
    lines = strict_lines(tmp_path / "metrics.jsonl")  # flushed: not closed yet
    log.close()
    assert lines == [
        {"step": 3, "split": "train", "loss": None, "norm": None},
        {"step": 4, "split": "valid", "loss": 0.5, "count": 3},
        {"step": 4, "split": "event", "event": "note", "text": "so"},
    ]


def test_log_cuts_an_unfinished_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"}\n{"step": 2, "sp')
    log = logs.MetricLog(tmp_path, 1)
    log.event(1, "resumed_from")
    log.close()
    assert [each["step"] for each in strict_lines(path)] == [1, 1]
