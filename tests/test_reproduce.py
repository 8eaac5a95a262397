"""The command that reproduces figures and tables. Records here are made up."""

import json
import math
import pathlib
import subprocess
import sys

import pytest

from experiments import configuration, identity, records, reproduce
from experiments.reproduction import drawings, protocols, status, tables
from experiments.reproduction.protocols import Run

ROOT = pathlib.Path(__file__).resolve().parents[1]
MACHINE = {"backend": "cpu", "device": "cpu", "cores": 2, "architecture": "x86_64"}
METRICS = ("loss", "mse", "recall", "accuracy", "perplexity")


def invent(run, results, *, diverged=None, wall_seconds=10.0, **changes):
    """Writes a record of a run that was never made; `changes` are of its config."""
    config = protocols.config_dict(run)
    config.pop("data_dir")
    flat = identity.flatten(config) | changes
    for field in changes:
        *sections, name = field.split(".")
        part = config
        for section in sections:
            part = part[section]
        part[name] = flat[field]
    ends = range(1, 4) if diverged is None else range(1, 3)
    content = {
        "config": config,
        "result": {
            "num_independent_params": 1234,
            "steps": protocols.steps(config),
            "wall_seconds": wall_seconds,
            "baseline": 0.1667,
            "metrics": {
                "valid": dict.fromkeys(METRICS, 0.25),
                "test": dict.fromkeys(METRICS, 0.5 + config["seed"] / 10),
            },
        },
        "machine": MACHINE,
        "valid": [{"step": i} | dict.fromkeys(METRICS, 1 / i) for i in ends],
        "train": [
            {"step": i, "loss": 1 / i, "carry_grad_norm": i, "spectral_margin": i / 9}
            for i in ends
        ],
    }
    if diverged is not None:
        content |= {
            "result": None,
            "diverged": {"step": diverged, "what": "loss", "wall_seconds": 1.0},
        }
    path = results / f"{run.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


# ---- Protocols.


@pytest.mark.parametrize("scale", protocols.SCALES)
@pytest.mark.parametrize("figure", protocols.FIGURES)
def test_every_run_has_a_valid_config_and_a_name_of_its_own(figure, scale):
    runs = protocols.runs(figure, scale)
    for run in runs:
        configuration.validate(protocols.build_config(run))
    assert len({run.name for run in runs}) == len(runs)
    configs = {json.dumps(protocols.config_dict(run)) for run in runs}
    # An LSTM of fewer cells is one of as many at the size of the smoke test.
    assert len(configs) == len(runs) - (figure == "ptb_word" and scale == "smoke")
    models = {protocols.config_dict(run)["model"]["name"] for run in runs}
    feedforward = figure == "F4"
    assert models == set(protocols.FEEDFORWARD if feedforward else protocols.RECURRENT)


def test_cpu_has_the_seeds_and_fits_eight_hours(tmp_path):
    seeds, seconds = {}, 0.0
    for figure in protocols.FIGURES:
        found = status.of_figure(figure, "cpu", tmp_path)
        seconds += sum(each.seconds for each in found)
        configs = [protocols.config_dict(each.run) for each in found]
        seeds[figure] = len({config["seed"] for config in configs})
    assert [seeds[figure] for figure in protocols.FIGURES] == [3, 3, 2, 2, 1, 1]
    assert seconds <= 8 * 3600


def test_equal_lstm_has_the_parameters_of_the_spectral_model():
    def lstm(n):
        return 10_000 * n + 10_000 + 8 * n**2 + 4 * n

    n = 200
    spectral = 10_000 * n + 10_000 + n * (n + 1) + n + n * n + n
    n = protocols.PTB_EQUAL_LSTM
    assert min((n - 1, n, n + 1), key=lambda m: abs(lstm(m) - spectral)) == n


def test_a_change_of_an_unknown_field_is_an_error():
    with pytest.raises(AttributeError, match="lenght"):
        protocols.build_config(Run("x", "addition", {"task.lenght": 3}))
    with pytest.raises(ValueError, match="x needs configs/none.py"):
        protocols.build_config(Run("x", "none", {}))
    with pytest.raises(ValueError, match="figure must be one of F1, .*'F9'"):
        protocols.runs("F9", "cpu")
    with pytest.raises(ValueError, match="scale must be one of smoke, .*'huge'"):
        protocols.runs("F1", "huge")


# ---- What is recorded.


def test_recorded_missing_and_other_configs(tmp_path):
    done, redo, free = (protocols.runs("ptb_word", "cpu")[i] for i in (0, 1, 2))
    invent(done, tmp_path)
    invent(redo, tmp_path, **{"model.dropout": 0.5})
    invent(free, tmp_path, **{"train.learning_rate": 0.01})
    found = status.of_figure("ptb_word", "cpu", tmp_path)
    recorded = [each.run.name for each in found if each.record]
    assert recorded == [done.name, free.name]
    assert "config.model.dropout: 0.5 -> 0.2" in found[1].problem
    assert found[1].run.name in found[1].problem
    assert not any(each.problem for each in found[2:])


def test_fields_since_a_record_have_their_defaults(tmp_path):
    run = protocols.runs("F1", "cpu")[0]
    path = invent(run, tmp_path, **{"train.plateau_patience": 7})  # read by "plateau"
    content = json.loads(path.read_text())
    del content["config"]["model"]["dropout"]
    path.write_text(json.dumps(content))
    assert status.find(run, tmp_path)[1] is None
    content["config"]["model"]["speed"] = 1
    path.write_text(json.dumps(content))
    assert "config.model.speed: 1 -> '(absent)'" in status.find(run, tmp_path)[1]


def test_stand_in_data_count_for_nothing_else(tmp_path):
    run = protocols.runs("F3", "cpu")[0]
    path = invent(run, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": "stand-in"}))
    assert "is not of real data" in status.find(run, tmp_path)[1]
    run = protocols.runs("F3", "smoke")[0]
    invent(run, tmp_path)
    assert "is not of stand-in data" in status.find(run, tmp_path)[1]


def test_a_broken_record_is_named(tmp_path):
    run = protocols.runs("F1", "cpu")[0]
    path = invent(run, tmp_path)
    for text, message in (("{", "is not JSON"), ("[]", "no config")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            status.find(run, tmp_path)


def test_time_comes_from_records_of_the_same_shape(tmp_path):
    runs = protocols.runs("F1", "cpu")[:4]
    config = protocols.config_dict(runs[0])
    invent(runs[0], tmp_path, wall_seconds=100.0)
    invent(runs[1], tmp_path, wall_seconds=300.0)
    first, second, third, other = status.of_figure("F1", "cpu", tmp_path)[:4]
    assert (first.seconds, second.seconds) == (100.0, 300.0)
    assert third.seconds == pytest.approx(200.0) and third.measured
    assert not other.measured
    expected = protocols.estimate(protocols.config_dict(other.run))
    assert other.seconds == expected > 0
    assert config["model"]["name"] != protocols.config_dict(other.run)["model"]["name"]


def test_plan_shows_every_run_and_sums(tmp_path, capsys):
    runs = protocols.runs("F2", "cpu")
    invent(runs[0], tmp_path, wall_seconds=60.0)
    invent(runs[1], tmp_path, diverged=5)
    invent(runs[2], tmp_path, **{"model.radius": 0.5})
    reproduce.main(["F2", "--scale=cpu", "--plan", f"--results={tmp_path}"])
    text = capsys.readouterr().out
    assert text.count("  missing ") == len(runs) - 3
    assert text.count("  done ") == text.count("  diverged ") == 1
    assert f"2 of {len(runs)} runs recorded" in text
    assert "other config" in text and "cannot be used" in text
    found = status.of_figure("F2", "cpu", tmp_path)
    left = sum(each.seconds for each in found[2:])
    assert f"{reproduce.logs.duration(left)} to go" in text
    assert f"{reproduce.logs.duration(left + 61)} with them" in text


def test_the_first_seeds_alone(tmp_path, capsys):
    reproduce.main(
        ["F2", "--scale=cpu", "--plan", "--seeds=2", f"--results={tmp_path}"]
    )
    text = capsys.readouterr().out
    names = [run.name for run in protocols.runs("F2", "cpu")]
    for name in names:
        assert (f"  {name}\n" in text) == (not name.endswith("seed2"))
    assert f"0 of {len(names) * 2 // 3} runs recorded" in text


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["F1", "--scale=cpu", "--seeds=0"], "--seeds must be at least 1, got 0"),
        (["F9", "--scale=cpu"], "FIGURE must be one of F1, F2, .* got 'F9'"),
        (["F1", "--scale=huge"], "--scale must be one of smoke, cpu, full, got 'huge'"),
        (["F1"], "--scale must be one of"),
        (["F1", "--scales=cpu"], "unrecognized arguments"),
        ([], "FIGURE"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit:
        reproduce.main(arguments)
    assert exit.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    pytest.raises(ValueError, _raise, error).match(message)


def _raise(message):
    raise ValueError(message)


# ---- Running: what is missing, once, in order.


@pytest.fixture
def pretend(monkeypatch):
    """Runs that are invented instead of made; returns the names in order."""
    made = []

    def run(each, workdir, results):
        if stop == len(made):
            raise KeyboardInterrupt
        made.append(each.name)
        diverged = 2 if "irnn" in each.name else None
        path = invent(each, results, diverged=diverged)
        content = json.loads(path.read_text()) | {"data": "stand-in"}
        path.write_text(json.dumps(content))

    stop = 3
    monkeypatch.setattr(reproduce, "run", run)

    def resume():
        nonlocal stop
        stop = None
        return made

    return resume, made


def test_stop_and_go_on(tmp_path, pretend, capsys):
    resume, made = pretend
    command = ["F2", "--scale=smoke", f"--workdir={tmp_path}"]
    with pytest.raises(SystemExit) as exit:
        reproduce.main(command)
    assert exit.value.code == 130 and len(made) == 3
    resume()
    reproduce.main(command)
    assert made == [run.name for run in protocols.runs("F2", "smoke")]
    figure = tmp_path / "smoke_results" / "figures" / "F2_smoke.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    reproduce.main(command)
    assert len(made) == len(protocols.runs("F2", "smoke"))  # nothing again
    assert "5 of 5 runs recorded" in capsys.readouterr().out


def test_another_config_stops_unless_redone(tmp_path, pretend, capsys):
    resume, made = pretend
    resume()
    results = tmp_path / "smoke_results"
    invent(protocols.runs("F2", "smoke")[1], results, **{"model.hidden": 9})
    command = ["F2", "--scale=smoke", f"--workdir={tmp_path}"]
    with pytest.raises(SystemExit) as exit:
        reproduce.main(command)
    assert exit.value.code == 2 and not made
    assert "config.model.hidden: 9 -> 8" in capsys.readouterr().err
    reproduce.main([*command, "--redo"])
    assert len(made) == len(protocols.runs("F2", "smoke"))
    assert status.find(protocols.runs("F2", "smoke")[1], results)[1] is None


def test_a_run_that_diverges_is_recorded(tmp_path, capsys):
    fields = {"train.learning_rate": 1e30, "task.length": 6}
    run = Run("hopeless", "addition", protocols.SMOKE | fields)
    reproduce.run(run, tmp_path / "runs", tmp_path)
    record = records.read("hopeless", tmp_path)
    assert record["result"] is None
    assert record["diverged"]["step"] == 2
    assert record["diverged"]["what"] == "the loss or its gradient"
    assert "diverged: the loss or its gradient is not finite" in capsys.readouterr().out
    assert status.find(run, tmp_path) == (record, None)


# ---- Drawing.


@pytest.mark.parametrize("figure", drawings.DRAWINGS)
def test_figures_are_drawn_from_what_there_is(figure, tmp_path):
    runs = protocols.runs(figure, "cpu")
    assert drawings.draw(figure, "cpu", tmp_path) is None
    for i, run in enumerate(runs):
        if i % 7 != 3:
            invent(run, tmp_path, diverged=2 if i % 5 == 1 else None)
    output = drawings.draw(figure, "cpu", tmp_path)
    assert output == tmp_path / "figures" / f"{figure}_cpu.png"
    assert output.stat().st_size < 300_000
    assert drawings.redraw(tmp_path) == [output]


def test_curves_show_mean_range_and_divergence(tmp_path):
    from matplotlib.figure import Figure

    runs = protocols.runs("F1", "cpu")[:3]  # three seeds of rnn
    for run, diverged in zip(runs, (None, None, 3), strict=True):
        invent(run, tmp_path, diverged=diverged)
    found = [status.find(run, tmp_path)[0] for run in runs]
    for point in found[1]["valid"]:
        point["mse"] *= 3
    panel = Figure().subplots()
    drawings.curves(panel, drawings.by_model(found), "valid", "mse")
    mean, cross = panel.get_lines()
    assert mean.get_label() == "rnn (3 seeds, 1 diverged)"
    assert list(mean.get_xdata()) == [1, 2, 3]
    assert mean.get_ydata() == pytest.approx([5 / 3, 5 / 6, 2 / 3])
    assert (list(cross.get_xdata()), list(cross.get_ydata())) == ([2], [0.5])
    band = panel.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == 3 and band[:, 1].min() == pytest.approx(1 / 3)
    text = drawings.caption("F1", "cpu", found, 45)
    assert "scale cpu; seeds 0, 1, 2; 3 of 45 runs; 1 diverged; cpu, 2 cores" in text


def test_another_config_is_left_out_of_a_figure_aloud(tmp_path, capsys):
    runs = protocols.runs("F1", "cpu")[:2]
    invent(runs[0], tmp_path)
    invent(runs[1], tmp_path, **{"model.hidden": 64})
    assert len(drawings.usable(runs, tmp_path)) == 1
    assert "config.model.hidden: 64 -> 128" in capsys.readouterr().err


def test_drawing_and_tables_do_without_jax():
    code = (
        "import sys; from experiments import figures, reproduce;"
        "from experiments.reproduction import drawings, tables;"
        "tables.rewritten(tables.README.read_text());"
        "assert not {'jax', 'flax', 'svdrnn'} & set(sys.modules), 'imports jax'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# ---- Tables.


def test_readme_is_what_the_records_say():
    text = tables.README.read_text()
    assert tables.rewritten(text) == text
    assert {name for name, _ in tables._BLOCK.findall(text)} == set(tables.TABLES)


def test_tables_follow_the_records(tmp_path):
    runs = protocols.runs("ptb_word", "cpu")
    invent(runs[0], tmp_path)
    invent(runs[1], tmp_path, diverged=7)
    lines = tables.ptb_word(tmp_path).splitlines()
    assert lines[0].startswith("Scale `cpu`: one seed, on cpu, 2 cores")
    assert lines[4] == "| rnn | 200 | 1,234 | 2 | 0.008 | 0.2 | 0.5 | 10 s |"
    not_run = "| irnn | 200 | | 2 | 0.008 | not run | diverged at step 7 | |"
    assert lines[5] == not_run
    assert lines[-1].startswith("| lstm | 182 | | 2 | | not run | not run |")
    with pytest.raises(ValueError, match="no table is called 'lunch'"):
        tables.rewritten("<!-- table: lunch -->\n<!-- end -->", tmp_path)


def test_the_grid_marks_the_best_rate_of_each_model(tmp_path):
    run = protocols.runs("ptb_word", "cpu")[0]
    for rate, perplexity in ((0.001, 30.0), (0.002, 20.0)):
        named = run._replace(name=f"ptb_word_grid/rnn_{rate}")
        path = invent(named, tmp_path, **{"train.learning_rate": rate})
        record = json.loads(path.read_text())
        record["result"]["metrics"]["valid"]["perplexity"] = perplexity
        path.write_text(json.dumps(record))
    named = run._replace(name="ptb_word_grid/lstm")
    changes = {"model.name": "lstm", "train.learning_rate": 0.002}
    invent(named, tmp_path, diverged=5, **changes)
    text = tables.grid("ptb_word_grid", tmp_path)
    assert text.startswith("| model | 0.001 | 0.002 |")
    assert "| rnn | 30 | **20** |" in text
    assert "| lstm | not run | diverged |" in text


def test_tables_have_mean_and_range_of_several_seeds(tmp_path):
    for run in protocols.runs("pixel_mnist", "full"):
        if "rnn_seed" in run.name:
            invent(run, tmp_path)
    text = tables.pixel_mnist(tmp_path, "full")
    row = "| rnn | 128 | 1,234 | 26 | 0.001 | 0.7000 (0.5000–0.9000) | 0.941 | 10 s |"
    assert row in text


# ---- The smoke scale, for real.


def test_smoke_goes_through_everything(tmp_path, capsys):
    reproduce.main(["all", "--scale=smoke", f"--workdir={tmp_path}"])
    results = tmp_path / "smoke_results"
    for figure in protocols.FIGURES:
        for run in protocols.runs(figure, "smoke"):
            record = records.read(run.name, results)
            assert record["data"] == "stand-in"
            assert record["result"]["steps"] == 4
            norm = "grad_norm" if figure == "F4" else "carry_grad_norm"
            norms = [point[norm] for point in record["train"]]
            assert len(norms) == 3 and all(map(math.isfinite, norms))
    drawn = {path.name for path in (results / "figures").iterdir()}
    assert drawn == {f"F{i}_smoke.png" for i in range(1, 5)}
    printed = capsys.readouterr().out
    assert "test perplexity" in printed and "not run" not in printed
