"""Runs of a task and a model of one's own are opened by the file of their config."""

import json
import runpy
import shutil
from unittest import mock

import pytest

import experiments
from experiments import models, tasks
from experiments.runs import config_file, curves, files, folder, records
from experiments.training import loop

FILE = '''
"""Addition under another name, by a model with a field of its own."""

from flax import nnx

from experiments import models, tasks
from experiments.tasks import addition
from tests.experiments import small

print("imported")


class Mine(addition.Addition):
    name = "mine"


def build(config):
    sizes = {"seed": config.seed, "batch_size": config.train.batch_size}
    return Mine(length=config.task.numbers, **sizes)


def wide(config, features, *, rngs):
    assert config.width == 5
    return nnx.RNN(nnx.SimpleCell(features, config.hidden, rngs=rngs), rngs=False)


def get_config(numbers="6"):
    tasks.register("mine", build, ("numbers",))
    reads = ("hidden", "width", "layers", "dropout", "embedding", "tied")
    models.register("wide", wide, (*reads, "readout_activation"))
    config = small.tiny_config(steps=4, eval_every=2, log_every=2)
    config.task.name, config.task.numbers = "mine", int(numbers)
    config.model.name, config.model.width = "wide", 5
    return config
'''


@pytest.fixture(autouse=True)
def registries():
    """Nothing is registered but what is shipped, before and after."""
    with (
        mock.patch.dict(tasks.TASKS),
        mock.patch.dict(models.MODELS),
        mock.patch.dict(config_file._imported, clear=True),
    ):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    project = tmp_path_factory.mktemp("own") / "project"
    project.mkdir()
    (project / "mine.py").write_text(FILE)
    with mock.patch.dict(tasks.TASKS), mock.patch.dict(models.MODELS):
        config = runpy.run_path(str(project / "mine.py"))["get_config"]("7")
        given = f"{project / 'mine.py'}:7"
        loop.train(config, project / "run", config_file=given)
    return project


@pytest.fixture
def project(trained, tmp_path):
    """The same in another folder: file and workdir have been moved together."""
    return shutil.copytree(trained, tmp_path / "project")


def names(loaded):
    return loaded.task.name, loaded.config.model.name, loaded.config.model.width


def test_a_moved_run_is_opened_by_its_config_file(project, trained, capsys):
    shutil.move(trained / "mine.py", trained / "gone.py")
    try:
        loaded = experiments.load(project / "run")
    finally:
        shutil.move(trained / "gone.py", trained / "mine.py")
    assert names(loaded) == ("mine", "wide", 5)
    inputs = loaded.task.train_batch(0)["inputs"]
    assert inputs.shape == (16, 7, 2) and loaded.model(inputs)[0].shape == (16, 1)
    assert capsys.readouterr().out == "imported\n"
    experiments.load(project / "run", "last")
    assert not capsys.readouterr().out  # once


def test_a_moved_workdir_finds_the_file_where_it_was(project, trained, tmp_path):
    moved = shutil.move(project / "run", tmp_path / "elsewhere")
    assert names(experiments.load(moved)) == ("mine", "wide", 5)
    by = {("task.name", "mine"), ("model.name", "wide")}
    assert config_file._imported == dict.fromkeys(by, str(trained / "mine.py"))


def test_a_run_of_another_file_is_opened_by_that_one(project, tmp_path):
    other = shutil.copytree(project, tmp_path / "other")
    changed = FILE.replace('name = "mine"', 'name = "mine"; of = "other"')
    (other / "mine.py").write_text(changed)
    for where in (other / "run", project / "run"):
        kept = json.loads((where / config_file.NAME).read_text())
        kept["path"] = str(where.parent / "mine.py")
        (where / config_file.NAME).write_text(json.dumps(kept))
    found = [experiments.load(each / "run").task for each in (project, other, project)]
    assert [getattr(task, "of", None) for task in found] == [None, "other", None]


def test_a_file_that_changed_is_a_warning(project, trained, caplog):
    (trained / "mine.py").rename(trained / "gone.py")
    try:
        (project / "mine.py").write_text(FILE + "\n# changed\n")
        experiments.load(project / "run")
    finally:
        (trained / "gone.py").rename(trained / "mine.py")
    assert f"{project / 'mine.py'} has changed since the run" in caplog.text
    assert "--config" in caplog.text


def test_a_file_that_is_gone_has_to_be_given(project, trained, tmp_path):
    given = shutil.move(project / "mine.py", tmp_path / "given.py")
    (trained / "mine.py").rename(trained / "gone.py")
    try:
        with pytest.raises(ValueError) as raised:
            experiments.load(project / "run")
    finally:
        (trained / "gone.py").rename(trained / "mine.py")
    assert str(raised.value) == (
        "--config (config_file in Python) must be the file that registers"
        " config.task.name 'mine' and config.model.name 'wide', got none, and it is no"
        f" longer at {trained / 'mine.py'} nor {project / 'mine.py'}"
    )
    loaded = experiments.load(project / "run", config_file=f"{given}:3")
    assert loaded.config.task.numbers == 7  # of the run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(_): pass", "must register config.task.name 'mine' of .*not$"),
        ("raise SystemExit(3)", "--config .*given.py: SystemExit: 3"),
        ("1 / 0", "--config .*given.py: ZeroDivisionError: division by zero"),
        (None, "--config must be a Python file, got '.*given.py'"),
    ],
)
def test_a_file_that_does_not_help_is_one_line(project, tmp_path, text, message):
    if text:
        (tmp_path / "given.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        experiments.load(project / "run", config_file=f"{tmp_path / 'given.py'}:7")


def test_folders_of_before_say_nothing_of_a_file(project):
    (project / "run" / config_file.NAME).unlink()
    with pytest.raises(ValueError, match="got none, and .*run does not know it$"):
        experiments.load(project / "run")
    runpy.run_path(str(project / "mine.py"))["get_config"]()
    assert names(experiments.load(project / "run")) == ("mine", "wide", 5)


def test_what_the_user_has_registered_is_left(project, capsys):
    runpy.run_path(str(project / "mine.py"))["get_config"]()
    mine = tasks.TASKS["mine"]
    capsys.readouterr()
    experiments.load(project / "run")
    assert tasks.TASKS["mine"] is mine and not capsys.readouterr().out


def test_a_name_of_ours_may_be_taken(project):
    text = FILE.replace('"mine"', '"copying"').replace('"wide"', '"rnn"')
    (project / "mine.py").write_text(text)
    assert not tasks.is_own("copying") and not models.is_own("rnn")
    with mock.patch.dict(tasks.TASKS), mock.patch.dict(models.MODELS):
        config = runpy.run_path(str(project / "mine.py"))["get_config"]()
        config_file.keep(project, str(project / "mine.py"), config.to_dict())
    config_file.register(project, config.to_dict())
    assert tasks.build(config).name == "copying"
    assert tasks.is_own("copying") and models.is_own("rnn")


def test_no_file_is_imported_for_our_tasks_and_models(tmp_path):
    path = tmp_path / "file.py"
    path.write_text("def get_config(): pass\n")
    config = {"task": {"name": "copying"}, "model": {"name": "lstm"}}
    config_file.keep(tmp_path, str(path), config)
    assert json.loads((tmp_path / config_file.NAME).read_text())["registers"] == []
    path.write_text("1 / 0")
    config_file.register(tmp_path, config)
    path.unlink()
    config_file.register(tmp_path, config)
    path.write_text("def get_config(): pass\n")
    with pytest.raises(ValueError, match="--config must be left out of .*file.py$"):
        config_file.register(tmp_path, config, str(path))


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"path": 1}'])
def test_a_damaged_file_is_named(project, text):
    (project / "run" / config_file.NAME).write_text(text)
    with pytest.raises(ValueError, match=config_file.NAME):
        experiments.load(project / "run")


def test_logs_need_no_file(project):
    shutil.copytree(project / "run", project / "_twin")
    (project / "mine.py").unlink()
    drawn = curves.compare([project / "run", project / "_twin"], project / "a.png")
    assert drawn.exists()
    path = records.record(project / "run", "mine", project)
    assert files.read_json(path)["config"]["model"]["width"] == 5
    assert config_file.NAME in folder._WRITTEN
