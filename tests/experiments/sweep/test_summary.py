"""What is summed up of a sweep."""

import csv
import json
import re

import matplotlib
import optuna
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.runs import pictures
from experiments.sweep import drawing, summary
from tests.experiments.small import result_of_a_run


def example_runs():
    def run(number, state, value, rate, seed, error=None):
        point = {"train.learning_rate": rate, "seed": seed}
        result = {"num_params": 7, "test_mse": value} if state == "complete" else {}
        return summary.Run(number, state, value, point, 40, 1.5, 1, 0, error, result)

    return [
        run(0, "complete", 0.5, 0.1, 0),
        run(1, "complete", 0.1, 0.2, 0),
        run(2, "complete", 0.3, 0.2, 1),
        run(3, "pruned", 0.05, 0.2, 2),
        run(4, "failed", None, 0.4, 0, "diverged, at 5\nmore"),
    ]


def test_groups_hold_mean_and_spread_of_the_completed():
    groups = summary.groups(example_runs(), higher_is_better=False)
    assert [g.point["train.learning_rate"] for g in groups] == [0.2, 0.1, 0.4]
    best, second, last = groups
    assert best.mean == pytest.approx(0.2)
    assert best.std == pytest.approx(0.02**0.5)  # two deviations of 0.1, over 2 - 1
    assert (best.low, best.high, best.complete, best.runs) == (0.1, 0.3, 2, 3)
    assert (second.mean, second.std) == (0.5, None)
    assert (last.mean, last.complete, last.runs) == (None, 0, 1)
    groups = summary.groups(example_runs(), higher_is_better=True)
    assert [g.point["train.learning_rate"] for g in groups] == [0.1, 0.2, 0.4]


@pytest.mark.parametrize("higher", [False, True])
def test_of_equal_metrics_the_lower_loss_goes_first(higher):
    def run(number, value, loss):
        point = {"train.learning_rate": number / 10}
        return summary.Run(
            number, "complete", value, point, 40, 1.5, 1, 0, None, {}, loss
        )

    better, worse = (0.9, 0.8) if higher else (0.8, 0.9)
    found = [run(0, worse, 0.1), run(1, better, 0.4), run(2, better, 0.2)]
    found += [run(3, better, None), run(4, better, 0.3)]
    groups = summary.groups(found, higher_is_better=higher)
    assert [g.point["train.learning_rate"] for g in groups] == [0.2, 0.4, 0.1, 0.3, 0.0]
    study = optuna.create_study(direction="maximize" if higher else "minimize")
    assert summary.Progress(study, 5, 0)._best(found).number == 2


def test_results_are_those_of_the_runs_folders(tmp_path):
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={"run": 3}))
    study.add_trial(optuna.trial.create_trial(value=0.7, user_attrs={"run": 4}))
    folder = summary.run_folder(tmp_path, 3)
    folder.mkdir(parents=True)
    best = {"step": 1, "valid": {"loss": 0.5}, "test": {"loss": 0.6, "mse": None}}
    (folder / "result.json").write_text(json.dumps(result_of_a_run(best=best)))
    there, elsewhere = summary.runs(study, tmp_path)
    assert there.result == {
        **{"num_params": 9, "num_independent_params": 8},
        **{"valid_loss": 0.5, "test_loss": 0.6, "test_mse": None},
    }
    assert elsewhere.result == {}


def test_progress_counts_runs_and_the_time_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(summary.time, "monotonic", lambda: now[0])
    study = optuna.create_study()

    def add(run, **more):
        study.add_trial(optuna.trial.create_trial(user_attrs={"run": run}, **more))

    add(0, value=0.5)
    shown = summary.Progress(study, 5, max_retries=3)
    assert capsys.readouterr().out == "5 runs: 1 done, 0 running, 4 left\n"
    add(1, value=0.25)
    add(2, state=optuna.trial.TrialState.RUNNING)
    now[0] = 20.0
    shown.show()
    assert capsys.readouterr().out == (
        "run 1 (2/5): complete 0.25 | best 0.25 (run 1) | 2 done, 1 running, 2 left,"
        " about 1 min 00 s\n"
    )


def test_progress_is_that_of_the_runs_of_this_command(capsys):
    study = optuna.create_study()
    for run in (0, 1, 2, 3):  # of a command with more trials
        study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={"run": run}))
    shown = summary.Progress(study, 2, max_retries=3)
    assert capsys.readouterr().out == "2 runs: 2 done, 0 running, 0 left\n"
    study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={"run": 4}))
    shown.show()
    assert shown.left() == 0 and capsys.readouterr().out == ""


def test_runs_that_wait_count_for_their_point():
    study = optuna.create_study()
    params = {"train.learning_rate": 0.1}
    distributions = {
        name: optuna.distributions.FloatDistribution(0, 1) for name in params
    }
    made = {"params": params, "distributions": distributions, "value": 0.5}
    study.add_trial(optuna.trial.create_trial(**made, user_attrs={"run": 0, "seed": 0}))
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.WAITING,
            system_attrs={"fixed_params": params},
            user_attrs={"run": 1, "seed": 1},
        )
    )
    (group,) = summary.groups(summary.runs(study), higher_is_better=False)
    assert (group.complete, group.runs) == (1, 2)


def test_the_csv_has_values_in_full_and_any_letter(tmp_path):
    rate = 0.1234567890123
    run = example_runs()[4]._replace(point={"train.learning_rate": rate})
    run = run._replace(error="no folder \udcff")
    summary.write_csv([run], ["train.learning_rate", "seed"], tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["train.learning_rate"]) == rate and row["seed"] == ""
    assert row["error"] == "no folder \\udcff"


def test_table_csv_and_figure(tmp_path):
    fields = ["train.learning_rate", "seed"]
    text = summary.table(example_runs(), fields, "mse", higher_is_better=False)
    lines = text.splitlines()
    assert lines[0] == "validation mse at the best step, lower is better"
    assert lines[2].split() == ["0.2", "0.2", "0.14142", "0.1", "0.3", "2/3"]
    assert lines[-2] == "5 runs: 1 failed, 1 pruned, 3 complete"
    assert lines[-1] == "run 4 failed: diverged, at 5"
    summary.write_csv(example_runs(), fields, tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2]["value"] == "0.3" and rows[2]["seed"] == "1"
    assert rows[4]["value"] == "" and rows[4]["error"] == "diverged, at 5\nmore"
    assert [row["test_mse"] for row in rows] == ["0.5", "0.1", "0.3", "", ""]
    assert [row["num_params"] for row in rows] == ["7", "7", "7", "", ""]
    space = {name: [] for name in fields}
    drawn = drawing.draw(tmp_path / "sweep.csv", tmp_path / "a.png", space, "mse")
    assert drawn.read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "a.svg").read_text()
    for word in ("train.learning_rate", "mean and range over 1 to 2 seeds", "pruned"):
        assert f">{word}</text>" in text
    assert ">seed</text>" not in text
    summary.write_csv([], fields, tmp_path / "sweep.csv")  # before anything ended
    drawing.draw(tmp_path / "sweep.csv", tmp_path / "b.png", space, "mse")


def points():
    """A hidden size, a rate, and a radius that one model alone has."""
    rows = [
        {"model.hidden": "8", "train.learning_rate": "0.1", "model.radius": ""},
        {"model.hidden": "16", "train.learning_rate": "0.2", "model.radius": "0.3"},
        {"model.hidden": "16", "train.learning_rate": "0.2", "model.radius": "0.3"},
        {"model.hidden": "8", "train.learning_rate": "0.4", "model.radius": "0.1"},
    ]
    states = ("complete", "complete", "complete", "pruned")
    for row, state, value in zip(rows, states, ("5", "1", "2", "9"), strict=True):
        row |= {"state": state, "value": value}
    return drawing._points(rows, list(rows[0])[:3])


def test_a_line_for_each_completed_point():
    complete = [point for point in points() if point.complete]
    scales = dict.fromkeys(complete[0].fields, "categories")
    study = drawing._study(complete, scales, False)
    assert [trial.value for trial in study.trials] == [5, 1.5]
    assert [trial.params for trial in study.trials] == [
        {"model.hidden": 8, "train.learning_rate": 0.1},
        {"model.hidden": 16, "train.learning_rate": 0.2, "model.radius": 0.3},
    ]


def test_more_than_two_fields_are_parallel_axes(tmp_path):
    head = "state,value,model.hidden,train.learning_rate,model.radius,seed\n"
    lines = "complete,5,8,0.1,,0\ncomplete,1,16,0.2,0.3,0\ncomplete,2,16,0.2,0.3,1\n"
    (tmp_path / "sweep.csv").write_text(head + lines)
    names = ("model.hidden", "train.learning_rate", "model.radius", "seed")
    fields = {name: [] for name in names}
    drawn = drawing.draw(tmp_path / "sweep.csv", tmp_path / "a.png", fields, "mse")
    assert drawn.read_bytes().startswith(b"\x89PNG")
    text = drawn.with_suffix(".svg").read_text()
    for word in ("validation mse,", "mean over 1 to 2 seeds", "hidden", "0.3"):
        assert f">{word}</" in text


def test_numbers_on_parallel_axes_stand_in_their_order(tmp_path):
    head = "state,value,model.hidden,train.learning_rate,model.init,seed\n"
    lines = "".join(
        f"complete,{i},{hidden},{rate},random,0\n"
        for i, (hidden, rate) in enumerate([(16, 0.02), (128, 0.003), (8, 0.1)])
    )
    (tmp_path / "sweep.csv").write_text(head + lines)
    names = ("model.hidden", "train.learning_rate", "model.init", "seed")
    fields = {name: [] for name in names}
    drawn = drawing.draw(tmp_path / "sweep.csv", tmp_path / "a.png", fields, "mse")
    text = drawn.with_suffix(".svg").read_text()
    for names in (("8", "16", "128"), ("0.003", "0.02", "0.1")):
        heights = [_height(text, name) for name in names]  # from the top down
        assert heights == sorted(heights, reverse=True) and len(set(heights)) == 3


@pytest.mark.parametrize("fields", [["model.name"], ["model.name", "a", "b"]])
def test_values_and_metrics_are_drawn_as_they_stand(tmp_path, fields):
    lines = 'complete,1,"$m$_{",1,2\ncomplete,2,_n,2,1\n'
    (tmp_path / "sweep.csv").write_text("state,value,model.name,a,b\n" + lines)
    space = {name: [] for name in fields}
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30}):
        drawn = drawing.draw(tmp_path / "sweep.csv", tmp_path / "a.png", space, "$p$")
    text = drawn.with_suffix(".svg").read_text()
    for word in ("$m$_{", "_n", "validation $p$"):
        assert f">{word}</text>" in text.replace("\N{ZERO WIDTH SPACE}", "")


def _height(svg, label):
    found = re.search(f'y="([0-9.]+)"[^>]*>{re.escape(label)}</text>', svg)
    return float(found[1])


def test_equal_places_are_side_by_side():
    found = drawing._side_by_side([0.0, 1.0, 0.0])
    assert found == [-0.125, 1.0, 0.125]


def test_folds_are_joined_as_seeds_are(tmp_path):
    def run(number, value, rate, fold, seed):
        point = {"seed": seed, "task.fold": fold, "train.learning_rate": rate}
        return summary.Run(number, "complete", value, point, 40, 1.5, 1, 0, None, {})

    found = [
        run(2 * i + fold, 0.1 * (i + 1) + 0.02 * fold, rate, fold, 0)
        for i, rate in enumerate([0.5, 0.25])
        for fold in range(2)
    ]
    best, other = summary.groups(found, higher_is_better=False)
    assert best.point == {"train.learning_rate": 0.5}
    assert (best.mean, best.complete) == (pytest.approx(0.11), 2)
    assert other.mean == pytest.approx(0.21)
    fields = ["seed", "task.fold", "train.learning_rate"]
    text = summary.table(found, fields, "mse", higher_is_better=False)
    assert text.splitlines()[1].split()[0] == "train.learning_rate"
    summary.write_csv(found, fields, tmp_path / "sweep.csv")
    space = {"seed": [0], "task.fold": [0, 1], "train.learning_rate": [0.25, 0.5]}
    drawn = drawing.draw(tmp_path / "sweep.csv", tmp_path / "a.png", space, "mse")
    text = drawn.with_suffix(".svg").read_text()
    assert ">mean and range over 2 seeds and folds</text>" in text


def test_an_axis_is_that_of_the_space():
    many = {str(10.0**-i) for i in range(9)}
    few = {"0.1", "0.2"}
    assert drawing._scale(many, []) == "log"
    assert drawing._scale({str(i) for i in range(9)}, []) == "linear"
    assert drawing._scale(few, []) == "categories"
    assert drawing._scale({f"{text}x" for text in many}, []) == "categories"
    log = {"low": 0.1, "high": 0.9, "log": True}
    assert drawing._scale(few, log) == "log"
    assert drawing._scale(few, {"low": 0.1, "high": 0.9}) == "linear"
    assert drawing._scale(few, {"by": "model.name", "rnn": log, "lstm": [0.1]}) == "log"
    assert drawing._places(few, "log") == {"0.1": 0.1, "0.2": 0.2}
    assert drawing._places(few, "categories") == {"0.1": 0, "0.2": 1}


def test_of_two_fields_each_panel_has_the_colours_of_the_other(tmp_path):
    rows = [("0.1", "rnn", 1), ("0.2", "rnn", 2), ("0.1", "lstm", 3), ("0.4", "", 4)]
    lines = "".join(f"complete,{value},{rate},{name}\n" for rate, name, value in rows)
    (tmp_path / "sweep.csv").write_text("state,value,rate,model.name\n" + lines)
    points = drawing._points(
        [
            {"rate": a, "model.name": b, "state": "complete", "value": c}
            for a, b, c in rows
        ],
        ["rate", "model.name"],
    )
    panel = Figure().subplots()
    scales = {"rate": "log", "model.name": "categories"}
    found = drawing._colors(panel, points, "model.name", scales)
    lstm, rnn = pictures.PALETTE[:2]
    assert found == [rnn, rnn, lstm, pictures.GRAY]
    names = [text.get_text() for text in panel.get_legend().get_texts()]
    assert names == ["lstm", "rnn"]
    shades = drawing._colors(panel, points, "rate", scales)
    assert shades[0] == shades[2] and len(set(shades)) == 3
    space = {"rate": {"low": 0.1, "high": 0.4, "log": True}, "model.name": ["rnn"]}
    drawn = drawing.draw(tmp_path / "sweep.csv", tmp_path / "a.png", space, "mse")
    with Image.open(drawn) as image:
        assert image.width == pictures.PAGE * pictures.DPI
    text = drawn.with_suffix(".svg").read_text()
    assert text.count(">rate</text>") == text.count(">model.name</text>") == 2
