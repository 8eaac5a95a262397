"""What the fuzz of tests/fuzz.py found, each kind by itself."""

import json
import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

import optuna
import pytest
from absl import flags
from ml_collections import config_flags

from experiments import commandline
from experiments.benchmark import measuring
from experiments.data import files as data_files
from experiments.reproduce import registry
from experiments.runs import folder, identity, logs, records
from experiments.sweep import setup, space, storage, summary
from experiments.training import memory
from tests.experiments.small import changed_addition as changed
from tests.experiments.small import result_of_a_run

CONFIG = identity.to_dict(changed())
ROOT = pathlib.Path(__file__).resolve().parents[2]


def failed(capsys, code, call, *arguments):
    """The line of a command that ends."""
    with pytest.raises(SystemExit) as raised:
        call(*arguments)
    assert raised.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


# ---- The command line.


def test_a_value_of_any_length_leaves_a_line_that_can_be_read(capsys):
    error = f"config.train.optimizer must be one of adam, got {'a' * 5000!r}"
    line = failed(capsys, 2, commandline.fail, 2, error)
    assert len(line) <= 500
    assert line.startswith("error: config.train.optimizer must be one of adam, got 'aa")
    assert line.endswith("aaa'")


def test_a_value_with_an_end_of_line_stays_in_its_line(capsys):
    line = failed(capsys, 2, commandline.fail, 2, "--workdir a\nb is a file")
    assert line == r"error: --workdir a\nb is a file"


def test_indented_lines_stay(capsys):
    with pytest.raises(SystemExit):
        commandline.fail(2, "go back to these values:\n  x: 1 -> 2\n  y: 3 -> 4")
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_what_is_neither_true_nor_false_is_named(capsys):
    words = ["run", "--config=configs/addition.py", "--config.model.tied=yes"]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    with mock.patch.object(flags, "FLAGS", values):
        line = failed(capsys, 1, commandline.parse_flags, words)
    assert line == "error: --config.model.tied must be True or False, got 'yes'"


@pytest.mark.parametrize("field", ["", "é.", "train..steps", "1", "a b", "train.x-y"])
def test_a_field_without_a_name_is_none(capsys, field):
    words = ["run", "--config=configs/addition.py", f"--config.{field}=1"]
    line = failed(capsys, 1, commandline.parse_flags, words)
    assert line == f"error: the config has no field {field!r}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "content,words",
    [
        ("import nothing_like_it", "--config: ModuleNotFoundError"),
        ("raise SystemExit(9)", "--config: the file ended the process with 9"),
        ("def get_config():\n    return None", "flag --config=None"),
        ("raise Exception('a\\nb')", r"--config: Exception: a\nb"),
    ],
)
def test_a_config_file_that_fails_is_a_line(tmp_path, content, words):
    path = tmp_path / "own.py"
    path.write_text(content + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", f"--config={path}", "--workdir=w"],
        **{"cwd": ROOT, "env": os.environ | {"JAX_PLATFORMS": "cpu"}},
        **{"capture_output": True, "text": True},
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert words in line


@pytest.mark.slow
def test_the_verbosity_may_stand_behind_a_config_that_fails(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def get_config():\n    return 1 / 0\n")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", f"--config={path}", "--check"]
        + ["--verbosity=1"],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )
    assert done.returncode == 1
    assert f'File "{path}", line 2, in get_config' in done.stderr
    assert "error: --config: ZeroDivisionError: division by zero\n" in done.stderr


REFUSED = "error: {} does not read {}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words,end",
    [
        (
            "benchmark --quick --n=8 --steps=5",
            REFUSED.format("--quick", "--n, --steps"),
        ),
        ("reproduce readme --plan", REFUSED.format("readme", "--plan")),
        ("sets files --results=x", REFUSED.format("files", "--results")),
        (
            "sweep summary --workdir=w --space=x --config=configs/addition.py",
            REFUSED.format("summary", "--config, --space"),
        ),
        ("sweep --workdir=w --space=x", "error: --config must be given, got none\n"),
        (
            "sweep --workdir=w --pruner_startup=-1",
            "error: flag --pruner_startup=-1: -1 is not a non-negative integer\n",
        ),
        (
            "records w ../x",
            "error: NAME must be a path below the records, got '../x'\n",
        ),
    ],
)
def test_flags_that_are_not_read_or_wrong_are_named(words, end):
    command, *others = words.split()
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{command}", *others],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )
    assert (done.returncode, done.stderr) == (1, end)


def test_an_empty_path_is_none():
    with pytest.raises(ValueError, match="^--workdir must be a path, got ''"):
        commandline.folder("")


def test_a_home_folder_that_is_not_known_is_named():
    with pytest.raises(
        ValueError, match="--output must be a path, got '~no_such_user/x'"
    ):
        commandline.folder("~no_such_user/x", "--output")
    with pytest.raises(
        ValueError, match="data_dir must be a folder, got '~no_such_user/x'"
    ):
        data_files.data_root("~no_such_user/x")


# ---- Configs.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1j, b"x", ..., [1, {2}]])
def test_a_field_that_is_no_json_is_named(value):
    config = changed(train__clip_norm=None)
    config.train.clip_norm = value
    with pytest.raises(ValueError, match=r"^config.train.clip_norm must be text"):
        identity.to_dict(config)


@pytest.mark.parametrize(
    "field,value",
    [("seed", "x"), ("model.hidden", [1]), ("task.name", 5)],
)
def test_a_kept_config_with_a_value_of_another_type_is_named(field, value):
    stored = identity.flatten(identity.to_dict(changed()))
    stored = {k: v for k, v in stored.items() if not k.startswith(f"{field}.")}
    with pytest.raises(ValueError, match=f"c.json must have .* config.{field}, got"):
        identity.to_config(identity.unflatten(stored | {field: value}), "c.json")


# ---- Files of a run.


@pytest.mark.parametrize(
    "line",
    [
        *("5", "[]", "{}", '{"step": 1}', "[" * 5000, '{"step": 1e999, "split": "x"}'),
        *('{"step": 1, "split": []}', '{"step": "1", "split": "train"}'),
        *(
            '{"step": 1, "split": "train", "loss": "x"}',
            '{"step": 1, "split": "event"}',
        ),
        *('{"step": 0, "split": "event", "event": "started", "task": 5}',),
        *('{"step": 1, "split": "valid", "loss": {"a": 1}}',),
        *('{"step": 1, "split": "valid", "loss": 1' + "0" * 400 + "}",),
    ],
)
def test_a_foreign_line_of_a_log_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train", "loss": null}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: not a metrics line"):
        logs.read_metrics(path)


@pytest.mark.parametrize("metrics", [5, {"loss": "x"}, {"loss": [1]}, None])
def test_metrics_of_a_result_are_numbers(tmp_path, metrics):
    config = identity.to_dict(changed())
    good = result_of_a_run()
    path = tmp_path / "result.json"
    path.write_text(json.dumps(good))
    assert folder.result(tmp_path, config) == good
    bad = good["metrics"] | {"test": metrics}
    path.write_text(json.dumps(result_of_a_run(metrics=bad)))
    words = r"result.json .*: the result.metrics.test(.loss)? must be a"
    with pytest.raises(ValueError, match=words):
        folder.result(tmp_path, config)


OTHER_KINDS = ["[]", "5", "null", '"x"', "true", "{}", "[{}]", '{"config": 5}', "1e999"]


@pytest.mark.parametrize("content", OTHER_KINDS)
@pytest.mark.parametrize(
    "name,read",
    [
        ("config.json", lambda path: folder.check(path.parent, CONFIG)),
        ("result.json", folder.read_result),
        ("result.json", lambda path: folder.result(path.parent, CONFIG)),
        ("sweep.json", lambda path: storage.read(path.parent)),
        ("name.json", lambda path: records.read("name", path.parent)),
    ],
)
def test_a_file_that_holds_json_of_another_kind_is_named(tmp_path, name, read, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=name if name != "config.json" else "config"):
        read(path)


SWEEP = {
    **{"config": {}, "space": {"seed": [0]}, "metric": "mse", "sampler": "grid"},
    **{"higher_is_better": False, "storage": None, "study": "sweep"},
}


@pytest.mark.parametrize(
    "name,value",
    [
        *(("config", []), ("space", ["seed"]), ("metric", None), ("study", 5)),
        *(("higher_is_better", 0), ("storage", [])),
    ],
)
def test_a_part_of_a_sweep_s_file_of_another_kind_is_named(tmp_path, name, value):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(SWEEP))
    assert storage.read(tmp_path) == SWEEP
    path.write_text(json.dumps(SWEEP | {name: value}))
    with pytest.raises(ValueError, match=f"sweep.json.{name} must be"):
        storage.read(tmp_path)
    path.write_text(json.dumps({k: v for k, v in SWEEP.items() if k != name}))
    with pytest.raises(ValueError, match=f"sweep.json must have '{name}'"):
        storage.read(tmp_path)


def test_a_sweep_that_another_worker_makes_meanwhile_is_joined(tmp_path, monkeypatch):
    def listing(folder, own):
        (folder / "sweep.json").write_text(json.dumps(SWEEP))
        return ["runs"]  # which the other worker has made since

    monkeypatch.setattr(storage.files, "foreign", listing)
    assert storage.read(tmp_path) == SWEEP


@pytest.mark.parametrize("content", OTHER_KINDS)
def test_a_sweep_s_result_of_another_kind_is_named(tmp_path, content):
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={"run": 3}))
    path = summary.run_folder(tmp_path, 3) / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(ValueError, match="result.json"):
        summary.runs(study, tmp_path)


@pytest.mark.parametrize("kept", [5, [], None, {}, {"config": {}, "space": []}])
def test_a_study_that_keeps_something_else_is_named(tmp_path, kept):
    optuna.create_study(
        storage=storage.connect(tmp_path, None), study_name="sweep"
    ).set_user_attr("sweep", kept)
    options = setup.Options()
    with pytest.raises(ValueError, match="--study sweep"):
        setup.prepare(changed().lock(), {"seed": [1]}, tmp_path, options)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/tmp/x"])
def test_a_record_lies_below_the_records(tmp_path, name):
    with pytest.raises(ValueError, match="^NAME must be a path below the records, got"):
        records.record(tmp_path, name, tmp_path / "results")


# ---- Sweeps, figures, sizes.


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(tmp_path, url):
    with pytest.raises(ValueError, match=f"--storage must be .* got '{url}', which is"):
        storage.connect(tmp_path, url)


@pytest.mark.parametrize("other", [[1], {"low": 1}, None, 5])
def test_a_field_depends_on_a_field(other):
    asked = {"train.learning_rate": {"by": other, "x": [1e-3]}}
    with pytest.raises(ValueError, match='learning_rate must be "by" a field'):
        space.check(asked, changed(), "grid")


@pytest.mark.parametrize("content", ["x = (", "1 / 0", "import nothing_like_it"])
def test_a_figure_of_a_file_that_fails_is_named(tmp_path, content):
    path = tmp_path / "own.py"
    path.write_text(content + "\n")
    with pytest.raises(ValueError, match=r"own.py: \w+Error: "):
        registry.find(str(path))


def test_sizes_of_a_benchmark_fit_or_are_named(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    memory.check_bytes("--n", (1024, 784), measuring.least_bytes(1024, 784, 128))
    with pytest.raises(
        ValueError, match="^--n must fit into 1 GB .*, got 65536 and 1,"
    ):
        memory.check_bytes("--n", (2**16, 1), measuring.least_bytes(2**16, 1, 1))


def test_the_data_sets_kept_have_a_place_of_their_own(tmp_path, monkeypatch):
    builders = pytest.importorskip("experiments.data.builders")
    monkeypatch.setattr(builders.constants, "DATA_DIR", str(tmp_path))
    texts = {part: part.encode() for part in ("train", "valid", "test")}
    parts, place = builders.ptb_parts(lambda: texts)
    assert {part: bytes(text) for part, text in parts.items()} == texts
    assert tmp_path in pathlib.Path(place).parents


@pytest.mark.slow
def test_more_devices_than_memory_are_refused(tmp_path):
    words = [f"--workdir={tmp_path / 'w'}", "--config=configs/addition.py"]
    words.append("--config.train.devices=2147483647")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", *words],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: config.train.devices must be at most ")
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_small_fuzz(tmp_path):
    out = tmp_path / "summary.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--cases=80", f"--out={out}"],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    ends = json.loads(out.read_text())["ends"]
    kinds = [kind for each in ends.values() for kind in each]
    assert {"ran", "accepted", "refused"} == set(kinds)


def test_an_error_of_a_space_is_not_taken_for_a_missing_function(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def get_space():\n    return {}['rates']\n")
    with pytest.raises(ValueError, match="--space .*own.py: KeyError: 'rates'$"):
        space.load(str(path))
    path.write_text("def space():\n    return {}\n")
    with pytest.raises(ValueError, match="own.py: 'get_space' is missing$"):
        space.load(str(path))


@pytest.mark.parametrize(
    "read, words",
    [
        (space.load, "--space {}: SystemExit: 9"),
        (registry.find, "SystemExit: 9"),
    ],
)
def test_a_file_that_ends_the_process_is_an_error(tmp_path, read, words):
    path = tmp_path / "own.py"
    path.write_text("raise SystemExit(9)\n")
    with pytest.raises(ValueError, match=re.escape(words.format(path))):
        read(str(path))
