"""The folder of a run."""

import contextlib
import json
import re
import time

import pytest

from configs import addition, pixel_mnist
from experiments.runs import folder, identity
from experiments.sweep import storage


def test_check_workdir(tmp_path):
    config = identity.to_dict(addition.get_config())
    assert not folder.check(tmp_path / "new", config)
    assert not folder.check(tmp_path, config)  # empty
    (tmp_path / "config.json.tmp").write_text("{")  # killed while writing
    assert not folder.check(tmp_path, config)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no config.json.*notes.txt"):
        folder.check(tmp_path, config)
    with pytest.raises(ValueError, match="got the file"):
        folder.check(tmp_path / "notes.txt", config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert folder.check(tmp_path, config)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        folder.check(tmp_path, config)


def test_stand_in_data_are_other_data_wherever_real_ones_are(tmp_path):
    config = identity.to_dict(pixel_mnist.get_config())
    (tmp_path / "config.json").write_text(json.dumps(config | {"data_dir": "/here"}))
    assert folder.check(tmp_path, config | {"data_dir": "/there"})
    with pytest.raises(ValueError, match="config.data_dir: '/here' -> 'stand-in'"):
        folder.check(tmp_path, config | {"data_dir": "stand-in"})
    (tmp_path / "config.json").write_text(json.dumps(config | {"data_dir": "stand-in"}))
    assert folder.check(tmp_path, config | {"data_dir": "stand-in"})
    with pytest.raises(ValueError, match="config.data_dir: 'stand-in' -> '/there'"):
        folder.check(tmp_path, config | {"data_dir": "/there"})


@pytest.mark.parametrize("left", [".svdrnn-host-12-ab.tmp", "run.lock"])
def test_what_a_killed_run_left_is_its_own(tmp_path, left):
    (tmp_path / left).touch()
    assert not folder.check(tmp_path, identity.to_dict(addition.get_config()))


@pytest.mark.parametrize(
    "name",
    [
        *(".DS_Store", "._config.json", "lost+found", "Thumbs.db", "desktop.ini"),
        *(".nfs00000001", "@eaDir", ".Trash-1000", ".Trashes", ".snapshot"),
        "System Volume Information",
    ],
)
def test_a_folder_with_what_the_system_puts_there_is_empty(tmp_path, name):
    (tmp_path / name).mkdir()
    assert not folder.check(tmp_path, identity.to_dict(addition.get_config()))
    assert storage.read(tmp_path) is None


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    assert not folder.is_held(tmp_path / "new") and not folder.is_held(tmp_path)
    with folder.held(tmp_path):
        assert folder.is_held(tmp_path)
        with pytest.raises(folder.InUse, match=r"in use by process \d+ on "):
            with folder.held(tmp_path):
                pass
    assert not folder.is_held(tmp_path)  # and what it held stays as it is
    assert (tmp_path / folder.LOCK).exists()


def test_work_in_a_folder_begins_when_it_is_free(tmp_path, monkeypatch, capsys):
    other = contextlib.ExitStack()
    other.enter_context(folder.held(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda seconds: other.close())
    calls = []

    def work():
        calls.append(folder.is_held(tmp_path))
        with folder.held(tmp_path):
            return "made"

    assert folder.when_free(tmp_path, work) == "made" and calls == [True, False]
    assert re.fullmatch(r"waiting: .* in use by process .*\n", capsys.readouterr().out)
    with pytest.raises(ZeroDivisionError):  # what else it raises is its own
        folder.when_free(tmp_path, lambda: 1 // 0)
