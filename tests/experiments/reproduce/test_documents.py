"""The tables of README.md and docs/, from records that are mostly made up."""

import json

import pytest

from configs import common
from experiments.reproduce import config_fields, documents, grids, registry
from experiments.reproduce.tables import (
    certificates,
    learned,
    pixel_mnist,
    ptb_word,
    shipped,
    speed,
    targets,
    trials,
)
from experiments.runs import identity, records
from experiments.tasks.registry import TASKS
from tests.experiments.reproduce.invented import invent


def test_the_pages_are_what_the_records_say():
    pages = documents.read()
    assert documents.rewritten(pages) == pages
    found = [name for text in pages.values() for name in documents.tables_of(text)]
    assert set(found) == set(documents.TABLES)


@pytest.mark.slow
def test_links_start_from_the_page_they_stand_on():
    speed = "<!-- table: speed -->\n<!-- end -->\n"
    headline = "<!-- table: headline -->\n<!-- end -->\n"
    pictures = "<!-- table: figures -->\n<!-- end -->\n"
    one = documents.rewritten({"README.md": headline + speed + pictures})
    assert "[Speed](#speed)" in one["README.md"]
    assert "](experiments/results/figures/F1_cpu.png)" in one["README.md"]
    pages = {"README.md": headline, "docs/speed.md": speed, "docs/paper.md": pictures}
    several = documents.rewritten(pages)
    assert "[Speed](docs/speed.md)" in several["README.md"]
    assert "](../experiments/results/figures/F1_cpu.png)" in several["docs/paper.md"]
    again = documents.rewritten(pages | {"docs/index.md": headline})
    assert "[Speed](speed.md)" in again["docs/index.md"]


def test_the_headline_is_refused_where_it_does_not_hold(tmp_path):
    record = json.loads((records.RESULTS / "benchmark_sizes.json").read_text())
    for row in record["rows"]:
        if row.get("contender") == "SpectralRNN low_rank m=16" and row["n"] == 128:
            row["seconds"] = 1.0
    (tmp_path / "benchmark_sizes.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="benchmark_sizes must be .* faster than"):
        speed.headline(tmp_path, "docs/speed.md")


def test_all_pages_are_written(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("no table here\n")
    page = tmp_path / "docs" / "fields.md"
    page.write_text(
        "above\n<!-- table: config_fields -->\nformer\n<!-- end -->\nbelow\n"
    )
    assert documents.write(tmp_path) == [page]
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("<!-- end -->\nbelow\n")
    assert "former" not in text and "`train.learning_rate`" in text


def test_every_field_of_a_config_has_a_meaning():
    assert set(common.FIELDS) == set(identity.flatten(common.get_config().to_dict()))
    for field in common.FIELDS.values():
        assert field.meaning.endswith(".")
    read = {f"task.{name}" for task in TASKS.values() for name in task.reads}
    rows = config_fields.table().splitlines()[2:]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert {name.strip("`") for name, *_ in cells} == set(common.FIELDS) | read
    assert all(about for _, _, about, _ in cells)
    by_name = {name.strip("`"): row for name, *row in cells}
    assert by_name["train.steps"][:2] == [
        "`None`",
        "How many updates the run makes; where it is None, train.epochs counts.",
    ]
    assert by_name["train.optimizer"][1].endswith(
        "One of adam, adamw, rmsprop, sgd, lion."
    )
    assert "of vectors: mlp, resnet, spectral_mlp" in by_name["model.name"][1]
    assert by_name["model.radius"][2] == (
        "spectral, spectral_lstm, spectral_gru, spectral_mlp, spectral_resnet"
    )
    assert by_name["train.decay_rate"][2] == "`train.schedule=exponential`"
    assert by_name["model.hidden"][2] == "all"


def test_tables_follow_the_records(tmp_path):
    runs = registry.FIGURES["ptb_word"].runs("cpu")
    invent(runs[0], tmp_path)
    invent(runs[1], tmp_path, diverged=7)
    lines = ptb_word.table(tmp_path, "cpu").splitlines()
    assert lines[0].startswith("Scale `cpu`, on cpu, 2 cores")
    assert lines[4] == "| rnn | 200 | 1,234 | 2 | 0.008 | 1 | 0.2 | 0.5 | 10 s |"
    not_run = "| irnn | 200 | | 2 | 0.008 | 1 | not run | diverged at step 7 | |"
    assert lines[5] == not_run
    assert lines[-1].startswith("| lstm | 182 | | 2 | | | not run | not run |")


def test_an_unknown_table_is_named():
    page = {"docs/food.md": "<!-- table: lunch -->\n<!-- end -->"}
    with pytest.raises(ValueError, match="of docs/food.md must be one of .*'lunch'"):
        documents.rewritten(page)


def test_the_grid_marks_the_best_rate_of_each_model(tmp_path):
    runs = {run.name: run for run in grids.runs("ptb_word_grid", "cpu")}
    for rate, perplexity in (("1e-3", 30.0), ("2e-3", 20.0)):
        path = invent(runs[f"ptb_word_grid/rnn_{rate}"], tmp_path)
        record = json.loads(path.read_text())
        record["result"]["metrics"]["valid"]["perplexity"] = perplexity
        path.write_text(json.dumps(record))
    invent(runs["ptb_word_grid/lstm_2e-3"], tmp_path, diverged=5)
    text = trials.table("ptb_word_grid", tmp_path)
    assert text.startswith("| model | 0.0005 | 0.001 | 0.002 | 0.004 | 0.008 | 0.016 |")
    assert "| rnn | not run | 30 | **20** | not run |" in text
    assert "| lstm | not run | not run | diverged | not run |" in text
    long = trials.table("addition_grid_300", tmp_path)
    assert "| rnn | not run | not run | not run | not run | | |" in long


def test_tables_have_mean_and_range_of_several_seeds(tmp_path):
    for run in registry.FIGURES["pixel_mnist"].runs("full"):
        if "rnn_seed" in run.name:
            invent(run, tmp_path)
    text = pixel_mnist.table(tmp_path, "full")
    row = (
        "| rnn | 128 | 1,234 | 26 | 0.001 | 5 | 0.7000 (0.5000–0.9000) | 0.941 | 10 s |"
    )
    assert row in text


def test_targets_are_of_means_and_say_what_is_not_run(tmp_path):
    known = {run.name: run for run in (*shipped.RUNS, *ptb_word.runs("cpu"))}
    words = (
        "lstm_200_tuned",
        "spectral_lstm_200_tuned",
        "spectral_lstm_200_seed1_tuned",
    )
    for name in ("copying_5000", *(f"ptb_word/{word}" for word in words)):
        invent(known[name], tmp_path)  # 0.5 with seed 0, 0.6 with seed 1
    lines = targets.table(tmp_path).splitlines()
    rows = {line.split(" | ")[0]: line for line in lines}
    copy = rows["| copy at a lag of 5,000, recall"]
    assert copy.endswith("n = 190 | 0.5000; 2 of 3 seeds not run | no |")
    name = "| PTB words: Spectral-LSTM, and the LSTM of as many units and parameters"
    assert rows[name].endswith("| not run | | 0.6 (0.5 to 0.6, 2 seeds) | no |")
    invent(known["ptb_word/lstm_200_seed1_tuned"], tmp_path)
    (row,) = [x for x in targets.table(tmp_path).splitlines() if x.startswith(name)]
    assert row.endswith("| **yes** |")  # 0.55 and 0.55
    alone = rows["| PTB words: Spectral-RNN, and the LSTM of as many parameters"]
    assert alone.endswith("| not run | | not run | no |")
    invent(known["addition_750"], tmp_path)
    invent(known["addition_750_seed1"], tmp_path, diverged=7)
    rows = targets.table(tmp_path).splitlines()
    (last,) = [row for row in rows if row.startswith("| addition, T = 750")]
    assert last.endswith("| scoRNN | 0.5000; 1 of 2 seeds diverged | no |")


def test_a_target_may_be_a_bound(tmp_path):
    run = certificates.RUNS["28 steps"]
    path = invent(run, tmp_path)
    name = "| certificate of the rounded classifier, 28 steps"

    def row():
        rows = targets.table(tmp_path).splitlines()
        return next(row for row in rows if row.startswith(name))

    assert row().endswith("| ≤ 0.280 | | not run | no |")
    record = json.loads(path.read_text())
    errors = {"training_error": 0.1, "test_error": 0.2}
    for bound, reached in ((0.2, "**yes**"), (0.3, "no")):
        rounded = errors | {"bound": bound, "bits": 2468}
        path.write_text(json.dumps(record | {"certificate_rounded": rounded}))
        assert row().endswith(f"| ≤ 0.280 | | {bound:.3f} | {reached} |")
    lines = certificates.table(tmp_path).splitlines()
    assert lines[2] == "| 28 steps | 1,234 | | | | 2.0 | 0.100 | 0.200 | 0.300 |"
    assert lines[3].startswith("| 784 steps | not run | not run")


def test_a_seed_that_diverged_has_no_bound(tmp_path):
    first, second = (
        run for title, run in certificates.RUNS.items() if "n = 24" in title
    )
    path = invent(first, tmp_path)
    errors = {"training_error": 0.1, "test_error": 0.2, "bound": 0.2, "bits": 2468}
    record = json.loads(path.read_text()) | {"certificate_rounded": errors}
    path.write_text(json.dumps(record))
    name = "| certificate of the rounded classifier, 784 steps, n = 24"

    def row():
        rows = targets.table(tmp_path).splitlines()
        return next(row for row in rows if row.startswith(name))

    assert row().endswith("| 0.200; 1 of 2 seeds not run | no |")
    invent(second, tmp_path, diverged=7)
    assert row().endswith("| 0.200; 1 of 2 seeds diverged | no |")


def test_who_learns_is_told_of_all_seeds(tmp_path):
    runs = {run.name: run for run in registry.FIGURES["F1"].runs("cpu")}

    def made(name, *errors, **options):
        path = invent(runs[f"cpu/F1/{name}"], tmp_path, **options)
        record = json.loads(path.read_text())
        record["valid"] = [
            {"step": 100 * i, "mse": error} for i, error in enumerate(errors, 1)
        ]
        path.write_text(json.dumps(record))

    made("T30_rnn_seed0", 0.5, 0.01, 0.2)
    made("T30_rnn_seed1", 0.001, 0.01)
    made("T30_rnn_seed2", 0.001, diverged=1234)
    made("T30_irnn_seed0", 0.5, 1 / 60)  # not below a tenth
    made("T100_irnn_seed0", diverged=7)  # before the first validation
    lines = learned.table("addition", tmp_path).splitlines()
    assert lines[0] == "| protocol | model | T = 30 | T = 100 | T = 300 |"
    lines = [line for line in lines if line.startswith("| `tuned` |")]
    rnn = "2 of 3 after 100–200 (0.5000–0.6000), 1 diverged at 1,234"
    assert lines[0] == f"| `tuned` | rnn | {rnn} | not run | not run |"
    irnn = "0 of 1 (0.5000) | 0 of 1, 1 diverged at 7"
    assert lines[1] == f"| `tuned` | irnn | {irnn} | not run |"
    recall = learned.table("copying", tmp_path).splitlines()
    assert recall[0] == "| protocol | model | lag 100 | lag 500 |"
    assert len(recall) == 2 + 2 * 5


def test_a_shipped_run_that_diverged_is_in_its_table(tmp_path):
    known = {run.name: run for run in shipped.RUNS}
    path = invent(known["addition_750_seed1"], tmp_path, diverged=1234)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "abc"}))
    row = (
        "`configs/addition.py:750 --config.seed=1` | | diverged at step 1,234 | | 1 s |"
    )
    assert row in shipped.table(tmp_path)
