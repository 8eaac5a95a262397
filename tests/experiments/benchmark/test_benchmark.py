"""The benchmark: what its contenders compute, what is skipped, what is written."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import contenders, drawing, measuring, printing, timing

ROOT = pathlib.Path(__file__).resolve().parents[3]
LAYERS = [
    *("nnx.RNN, leaky ReLU", "nnx.RNN(SimpleCell)", "nnx.RNN, identity"),
    "nnx.RNN(OptimizedLSTMCell)",
    contenders.OWN,
    *("SpectralRNN low_rank m=16", "SpectralRNN dense m=16"),
    *("SpectralRNN identity m=16", "paper m=16"),
    *("SpectralRNN low_rank m=24", "SpectralRNN dense m=24"),
    *("SpectralRNN identity m=24", "paper m=24"),
    "dense products",
    "thin products m=16",
]


# ---- Contenders.


@pytest.fixture(scope="module")
def layers():
    return contenders.layers(24, 3)


@pytest.mark.slow
def test_names(layers):
    assert [each.name for each in layers] == LAYERS
    names = [each.name for each in contenders.matrices(4)]
    assert names == ["svdrnn", "paper", "QR", "matrix exponential"]


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(LAYERS) - 2))  # not the products
def test_a_step_is_loss_and_gradient_of_every_parameter(layers, index):
    function, (params, x, weights) = layers[index].make(5)
    assert x.shape == (3, 5, 1) and x.dtype == jnp.float32
    loss, gradient = jax.eval_shape(function, params, x, weights)
    assert loss.shape == ()
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


@pytest.mark.slow
def test_spectral_contenders_of_the_same_parameters_agree(layers):
    """The forms of W compute one thing: they differ in time alone."""
    steps = {each.name: each.make(4) for each in layers}
    values = {}
    for form in ("SpectralRNN low_rank", "SpectralRNN dense", "paper"):
        function, arguments = steps[f"{form} m=16"]
        values[form] = jax.jit(function)(*arguments)
    expected = values.pop("paper")
    for found in values.values():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
            found,
            expected,
        )


def test_dense_products_are_three_a_time_step():
    make = contenders.products(4, 2)
    function, (w, h) = make(2)
    expected = np.asarray(h) @ np.linalg.matrix_power(np.asarray(w), 6)
    np.testing.assert_allclose(jax.jit(function)(w, h), expected.sum(), rtol=1e-5)


@pytest.mark.slow
def test_devices_share_a_step_and_the_sums_are_the_same():
    split = {each.name: each.make(3) for each in contenders.layers(6, 4, devices=2)}
    whole = {each.name: each.make(3) for each in contenders.layers(6, 4)}
    assert set(whole) - set(split) == {"paper m=16", "paper m=6"}
    for name, (function, arguments) in split.items():
        assert len(arguments[1].sharding.device_set) == 2
        lowered = jax.jit(function).lower(*arguments)
        # Each array is summed once, none in the loop.
        sums = len(jax.tree.leaves(lowered.out_info))
        assert lowered.as_text().count("all_reduce") == sums, name
        expected = jax.jit(whole[name][0])(*whole[name][1])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            lowered.compile()(*arguments),
            expected,
        )


# ---- Measuring.


def contender(name, size=4):
    def make(steps):
        def function(x):
            return jnp.sum(x * steps)

        return function, (jnp.ones(size),)

    return timing.Contender(name, make)


def test_a_cell_has_a_row_for_each_contender():
    about = {"kind": "layer", "n": 4, "steps": 8}
    limits = measuring.Limits(seconds=0.0)
    rivals = [contender("a"), contender("paper m=4")]
    rows = measuring.measure_cell(rivals, 8, limits, about)
    assert [row["contender"] for row in rows] == ["a", "paper m=4"]
    for row in rows:
        assert row["n"] == 4 and row["low"] <= row["seconds"] <= row["high"]
        assert row["repeats"] >= 1 and "skipped" not in row


def test_what_takes_too_long_or_too_much_is_skipped():
    about = {"kind": "layer", "n": 4, "steps": 8}
    limits = measuring.Limits(seconds=0.0, step=1.0)
    predicted = {"a": 2.0, "b": 0.5}
    rivals = [contender("a"), contender("b")]
    slow, fast = measuring.measure_cell(rivals, 8, limits, about, predicted)
    assert slow["skipped"] == "2 s a step" and slow["predicted_seconds"] == 2.0
    assert "seconds" not in slow and "seconds" in fast

    def make(steps):
        return (lambda x: jnp.sort(x @ x.T).sum()), (jnp.ones((64, 64)),)

    big = timing.Contender("big", make)
    (row,) = measuring.measure_cell([big], 8, limits._replace(gib=1e-9), about)
    assert row["skipped"].endswith("GiB") and row["temp_bytes"] > 0


def test_predictions_are_linear_in_the_length():
    rows = [
        {"contender": "a", "n": 4, "steps": 100, "seconds": 2.0},
        {"contender": "b", "n": 4, "steps": 100, "predicted_seconds": 50.0},
        {"contender": "a", "n": 8, "steps": 100, "seconds": 9.0},
        {"contender": "c", "n": 4, "steps": 100, "skipped": "8.1 GiB"},
    ]
    assert measuring.predictions(rows, 4, 300) == {"a": 6.0, "b": 150.0}
    rows.append(rows[0] | {"seconds": 1.0, "devices": 2})
    assert measuring.predictions(rows, 4, 300) == {"a": 6.0, "b": 150.0}
    assert measuring.predictions(rows, 4, 300, devices=2) == {"a": 3.0}


def test_exponent_of_a_power_law():
    sizes = [100, 200, 400]
    assert printing.exponent(sizes, [s**1.5 for s in sizes]) == pytest.approx(1.5)


# ---- What is printed, written and drawn.


def row(name, n=4, steps=8, **more):
    return {"kind": "layer", "contender": name, "n": n, "steps": steps} | more


def timed(name, seconds, **more):
    ends = {"low": seconds, "high": 2 * seconds, "temp_bytes": 2**21}
    return row(name, seconds=seconds, **ends, **more)


def test_printed_ratios(capsys):
    rows = [timed("base", 0.2), timed("own", 0.05), row("paper", skipped="90 s a step")]
    printing.cell("a cell", rows, ("base",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "a cell"
    assert lines[4].split() == ["own", "50.0", "50.0", "-", "100.0", "2", "0.250"]
    assert lines[5].split() == ["paper", "skipped:", "90", "s", "a", "step"]


def test_ratios_are_those_of_one_activation_in_one_cell(capsys):
    rows = [
        timed(contenders.TANH, 0.8, devices=1),
        timed(contenders.BASELINE, 0.4, devices=1),
        timed(contenders.HEADLINE, 0.1, devices=1),
        timed(contenders.BASELINE, 0.3, devices=2),
        timed(contenders.HEADLINE, 0.06, devices=2),
        timed(contenders.HEADLINE, 0.2, n=8, devices=1),  # nothing beside it
    ]
    found = measuring.ratios(rows)
    assert [(each["n"], each["devices"]) for each in found] == [(4, 1), (4, 2)]
    assert [each["ratio"] for each in found] == pytest.approx([0.25, 0.2])
    printing.ratios(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "SpectralRNN low_rank m=16 to nnx.RNN, leaky ReLU:"
    assert lines[2].split() == ["n=4,", "T=8,", "one", "device", "0.250"]
    assert lines[3].split() == ["n=4,", "T=8,", "2", "devices", "0.200"]


@pytest.mark.slow
def test_a_figure_of_a_record(tmp_path):
    rows = [
        timed("SpectralRNN low_rank m=4", 0.1),
        timed("nnx.RNN(SimpleCell)", 0.2),
        timed("SpectralRNN low_rank m=8", 0.3, n=8),
        timed("nnx.RNN(SimpleCell)", 0.4, steps=16),
        row("paper m=4", skipped="90 s a step"),
        {"kind": "matrix", "contender": "QR", "n": 4, "seconds": 1.0},
    ]
    record = tmp_path / "benchmark.json"
    record.write_text(json.dumps({"rows": rows}))
    drawn = drawing.draw(record, tmp_path / "benchmark.png")
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_scaling_over_lengths_and_batches(monkeypatch, capsys):
    original = contenders.spectral
    small = lambda n, m, method, **kwargs: original(4, 2, method, **kwargs)  # noqa: E731
    monkeypatch.setattr(contenders, "spectral", small)
    monkeypatch.setattr(
        contenders, "layer_step", lambda model, n, batch: contender("", batch).make
    )
    rows = measuring.measure_scaling(2, [4, 9], [2, 4])
    assert [(row["series"], row.get("steps", row.get("batch"))) for row in rows] == [
        *(("all states kept", 4), ("chunks", 4)),
        *(("all states kept", 9), ("chunks", 9)),
        *(("batch", 2), ("batch", 4)),
    ]
    assert all(0 < row["low"] <= row["seconds"] <= row["high"] for row in rows)
    printing.scaling(rows)
    assert capsys.readouterr().out.count("exponent") == 3


@pytest.mark.slow
def test_the_command(tmp_path):
    arguments = ["--n=8", "--steps=5", "--batch=2", "--seconds=0.01", "--devices=2"]
    code = (
        "from experiments import commandline\n"
        "from experiments.benchmark import __main__ as command\n"
        "command.MATRICES[:] = [4]; command.LENGTHS[:] = command.BATCHES[:] = []\n"
        "commandline.run(command.main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, f"--out={tmp_path}"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "auto at m=8: " in done.stdout
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert record["batch"] == 2 and record["machine"]["backend"] == "cpu"
    kinds = [row["kind"] for row in record["rows"]]
    assert kinds.count("layer") == 15 + 13 and kinds.count("matrix") == 4
    assert [each["devices"] for each in record["ratios"]] == [1, 2]
    assert "2 devices" in done.stdout and "to nnx.RNN, leaky ReLU:" in done.stdout
    assert all(row["seconds"] > 0 for row in record["rows"])
    assert (tmp_path / "benchmark.png").exists()
