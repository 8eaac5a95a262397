"""The benchmark of constraints: its contenders compute one thing, and its table."""

import numpy as np
import pytest

from experiments.benchmark import constraints, timing


@pytest.mark.slow
def test_baked_and_not_are_one_model(monkeypatch):
    monkeypatch.setattr(constraints, "UNITS", 4)
    monkeypatch.setattr(constraints, "STEPS", 3)
    monkeypatch.setattr(constraints, "BATCH", 2)
    calls = constraints.calls("lstm")
    assert list(calls) == [
        "unconstrained",
        *("Spectral, as it is", "Spectral, baked"),
        *("Orthogonal, as it is", "Orthogonal, baked"),
    ]
    for name in constraints.CONSTRAINTS:
        as_it_is, baked = (calls[f"{name}, {how}"]() for how in ("as it is", "baked"))
        np.testing.assert_allclose(as_it_is[0], baked[0], rtol=1e-5)
    assert calls["unconstrained"]()[0] != baked[0]


def test_table():
    times = {
        "unconstrained": timing.Timing(0.010, 0.009, 0.020, 5),
        "Spectral, baked": timing.Timing(0.012, 0.011, 0.013, 5),
        "torch unconstrained": timing.Timing(0.1, 0.1, 0.1, 5),
        "torch orthogonal": timing.Timing(0.2, 0.1, 0.3, 5),
    }
    lines = constraints.table({"lstm": times}).splitlines()
    assert lines[3] == "| lstm | Spectral, baked | 12.0 | 11.0–13.0 | 1.20 | 1.22 |"
    assert lines[5].endswith("| 2.00 | 1.00 |")
