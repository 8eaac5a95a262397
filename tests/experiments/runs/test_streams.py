"""A command goes on and ends as it would, whoever reads what it prints."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]

COMMAND = """
import os, sys
from absl import logging
from experiments import commandline

def main(words):
    with open(words[0], "w") as file:
        print("\\udcff", "line", flush=True)
        logging.warning("a warning")
        for number in (1, 2):
            try:
                os.write(number, b"by a library")
            except OSError:
                pass
        for _ in range(1000):
            print("many lines that are not flushed")
        file.write("all that it did")
    commandline.fail(7, "an error")

commandline.run(main)
"""


@pytest.mark.parametrize(
    "where",
    [
        *("> /dev/full 2>&1", ">&- 2>&-", "2>&-"),
        "> >(true) 2>&1",  # a reader that is gone
    ],
)
def test_a_command_does_not_depend_on_who_reads(tmp_path, where):
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "file")]
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {where}', "bash", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 7
    assert not done.stderr
    assert (tmp_path / "file").read_text() == "all that it did"
