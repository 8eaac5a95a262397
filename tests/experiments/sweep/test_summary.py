"""What is summed up of a sweep."""

import csv

import pytest

from experiments.sweep import drawing, summary


def example_runs():
    def run(number, state, value, rate, seed, error=None):
        point = {"train.learning_rate": rate, "seed": seed}
        return summary.Run(number, state, value, point, 40, 1.5, 1, 0, error)

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
    drawn = drawing.draw(tmp_path / "sweep.csv", tmp_path / "a.png", fields, "mse")
    assert drawn.read_bytes().startswith(b"\x89PNG")
    summary.write_csv([], fields, tmp_path / "sweep.csv")  # before anything ended
    drawing.draw(tmp_path / "sweep.csv", tmp_path / "b.png", fields, "mse")
