"""Files of a run: whole, whoever else writes them, and of the form they should have."""

import json
import multiprocessing
import os
import time

import pytest

from experiments.runs import files

WRITERS, WRITES = 8, 20


def write_often(path, number, start, failures):
    """Writes the file again and again, and puts how often it failed."""
    start.wait()
    failed = 0
    for _ in range(WRITES):
        try:
            files.write_json(path, [number] * 2000)
        except OSError:
            failed += 1
    failures.put(failed)


def test_processes_that_write_one_file_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    path, start, failures = tmp_path / "a.json", context.Event(), context.Queue()
    path.write_text("[]")
    arguments = [(path, number, start, failures) for number in range(WRITERS)]
    writers = [context.Process(target=write_often, args=each) for each in arguments]
    for writer in writers:
        writer.start()
    start.set()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert len(set(files.read_json(path))) <= 1  # whole, of one of them
        reads += 1
    assert [failures.get() for _ in writers] == [0] * WRITERS
    assert reads and os.listdir(tmp_path) == ["a.json"]


def test_nothing_is_left_of_a_file_that_fails(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("1")
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as temporary:
        temporary.write_text("2")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["a.json"] and path.read_text() == "1"


def test_what_a_killed_process_left_is_removed_once_nobody_writes_it(tmp_path):
    with files.replacing(tmp_path / "a") as left:
        left.touch()
        new, old = left.with_name(".svdrnn-x-1-a.tmp"), left.with_name(".svdrnn-y.tmp")
        new.touch()
        old.touch()
        hour_ago = time.time() - 3600
        os.utime(old, (hour_ago, hour_ago))
    assert files.foreign(tmp_path, ["a"]) == []
    files.write_json(tmp_path / "b", {})
    assert sorted(os.listdir(tmp_path)) == [new.name, "a", "b"]


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "DS_Store", "nfs0", "tmp"])
def test_files_of_a_user_are_foreign(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "own").touch()
    assert files.foreign(tmp_path, {"own"}) == [name]


FORM = {
    **{"steps": (int,), "rate": files.NUMBER, "on": (bool,), "name": (str,)},
    **{"why": (str, *files.NONE), "points": [{"step": (int,), str: files.NUMBER}]},
}
GOOD = {
    **{"steps": 3, "rate": 1, "on": True, "name": "a", "why": None, "more": [{}]},
    "points": [{"step": 1, "loss": 0.5}],
}


@pytest.mark.parametrize(
    "changed,words",
    [
        ({"steps": 3.0}, "x.steps must be a whole number, got '3.0'"),
        ({"steps": True}, "x.steps must be a whole number, got 'True'"),
        ({"rate": "1"}, "x.rate must be a finite number, got '1'"),
        ({"rate": float("nan")}, "x.rate must be a finite number, got 'nan'"),
        ({"steps": 10**400}, f"x.steps must be a whole number, got '1{'0' * 39}'"),
        ({"on": 1}, "x.on must be true or false, got '1'"),
        ({"why": 5}, "x.why must be text or null, got '5'"),
        ({"points": {}}, "x.points must be a list, got '{}'"),
        ({"points": [5]}, "x.points[0] must be an object, got '5'"),
        ({"points": [{}]}, "x.points[0] must have 'step', which is missing"),
        (
            {"points": [{"step": 1, "loss": []}]},
            "x.points[0].loss must be a finite number, got '[]'",
        ),
    ],
)
def test_the_first_part_of_another_form_is_named(changed, words):
    files.check_form(GOOD, FORM, "x")
    with pytest.raises(ValueError) as raised:
        files.check_form(json.loads(json.dumps(GOOD | changed)), FORM, "x")
    assert str(raised.value) == words
