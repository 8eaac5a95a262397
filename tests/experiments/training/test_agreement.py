"""Processes of a run that were not started alike end together, and say what differs."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from configs import addition
from experiments import tasks
from experiments.data import stand_in
from experiments.training import agreement, loop
from tests.experiments.small import tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[3]


# ---- What is compared.


def told(**fields):
    return {"told": fields}


@pytest.mark.parametrize(
    ("answers", "lines"),
    [
        ([told(a=1, b=[2, None])] * 3, None),
        (
            [told(a=64, b=1), told(a=128, b=1)],
            ["a: 64 in process 0, 128 in process 1"],
        ),
        (
            [told(a="x", b=None), told(a="y", b=2), told(a="x", b=2)],
            [
                "a: 'x' in processes 0, 2, 'y' in process 1",
                "b: None in process 0, 2 in processes 1, 2",
            ],
        ),
        ([told(a=1), told()], ["a: 1 in process 0, '(absent)' in process 1"]),
        ([told(a=1)] * 5 + [told(a=2)], ["a: 1 in 5 processes, 2 in process 5"]),
        ([told(revision="a"), told(revision=None)], None),
        (
            [told(revision="a"), told(revision="b")],
            ["revision: 'a' in process 0, 'b' in process 1"],
        ),
    ],
)
def test_fields_that_differ_are_named_with_their_values(answers, lines):
    found = agreement.disagreement(answers)
    if lines is None:
        assert found is None
    else:
        first, *others = found.split("\n  ")
        assert first == "the processes of a run must be started alike, got"
        assert others == lines


def test_what_one_process_refuses_goes_before_what_differs():
    answers = [told(a=1), told(a=2), {"error": "config.x must be 1"}]
    expected = "process 2 refused: config.x must be 1"
    assert agreement.disagreement(answers) == expected


def test_a_process_alone_compares_nothing():
    assert agreement.agree(lambda: 3, lambda made: pytest.fail("told")) == 3


def test_digests_of_data():
    def built(**fields):
        config = tiny_config()
        config.update_from_flattened_dict(fields)
        return tasks.build(config)

    expected = agreement.digest(built())
    assert agreement.digest(built()) == expected
    assert agreement.digest(built(seed=1)) != expected
    # One number of those that a task holds, in no batch that is looked at.
    fields = {"data_dir": stand_in.NAME, "task.name": "mnist"}
    task = built(**fields)
    expected = agreement.digest(built(**fields))
    assert agreement.digest(task) == expected
    images, labels = task._splits["train"]
    seen = set(task._order.rows(0))
    unseen = next(i for i in range(len(labels)) if i not in seen)
    images = np.array(images)
    images[unseen, 0] ^= 1
    task._splits["train"] = (images, labels)
    assert agreement.digest(task) != expected


# ---- Two processes.

FIELDS = {"task.length": 6, "model.hidden": 8, "model.reflectors": 3, "train.steps": 2}

# What cannot be told by flags or variables: another checkout, another installation.
OTHER_CODE = """
import runpy, sys
from experiments.runs import records
number = next(flag for flag in sys.argv if flag.startswith("--process_id="))
records.revision = lambda: number  # outside of a checkout there is none
versions = records.versions() | {"numpy": number}
records.versions = lambda: versions
runpy.run_module("experiments.run", run_name="__main__", alter_sys=True)
"""


def two(workdir, fields, other, *, config="addition", code=None, elsewhere=None, **env):
    """Two processes; the second with other fields, folder or variables."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"--coordinator=localhost:{found.getsockname()[1]}"
    processes = []
    for i in range(2):
        run = ["-c", code] if code else ["-m", "experiments.run"]
        values = fields | other if i else fields
        processes.append(
            subprocess.Popen(
                [
                    *(sys.executable, *run, f"--config=configs/{config}.py", address),
                    *("--num_processes=2", f"--process_id={i}"),
                    *(f"--config.{name}={value}" for name, value in values.items()),
                    f"--workdir={i and elsewhere or workdir}",
                ],
                cwd=ROOT,
                env=os.environ | {"JAX_PLATFORMS": "cpu"} | (env if i else {}),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    ended = [each.communicate(timeout=300) for each in processes]
    return [(p.returncode, *both) for p, both in zip(processes, ended, strict=True)]


def test_processes_that_were_not_started_alike(tmp_path):
    other = {"seed": 1, "train.learning_rate": 0.1, "train.batch_size": 64}
    ended = two(
        *(tmp_path / "run", FIELDS, other),
        code=OTHER_CODE,
        JAX_ENABLE_X64="1",
        JAX_DEFAULT_PRNG_IMPL="rbg",  # which does not matter
    )
    for code, _, text in ended:
        first, *lines = text.splitlines()
        assert code == 2, text
        assert first == "error: the processes of a run must be started alike, got"
        fields = [line.partition(":")[0] for line in lines]
        assert set(fields) == {
            *("  config.seed", "  config.train.learning_rate"),
            *("  config.train.batch_size", "  revision", "  numpy", "  jax_enable_x64"),
        }
        assert "  config.train.batch_size: 128 in process 0, 64 in process 1" in lines
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_process_refuses_its_config(tmp_path):
    other = {"train.learning_rate": -1.0}
    first, second = two(tmp_path / "run", FIELDS, other)
    assert (first[0], second[0]) == (2, 2), (first, second)
    refusal = "config.train.learning_rate must be finite and above 0"
    assert second[2].startswith(f"error: {refusal}")
    assert first[2].startswith(f"error: process 1 refused: {refusal}")


@pytest.mark.slow
def test_other_data_in_one_process(tmp_path):
    fields = {"allow_other_data": True, "train.steps": 2, "train.batch_size": 4}
    corpus = "the cat sat on the mat\n" * 40
    for place, text in {"a": corpus, "b": corpus[:-4] + "cat\n"}.items():
        (tmp_path / place / "ptb").mkdir(parents=True)
        for split in ("train", "valid", "test"):
            content = text if split == "train" else corpus
            (tmp_path / place / "ptb" / f"ptb.{split}.txt").write_text(content)
    fields |= {"data_dir": tmp_path / "a", "train.devices": 1}
    for place, end in {"b": "data: ", "c": "process 1 refused: "}.items():
        (tmp_path / "c").mkdir(exist_ok=True)
        (tmp_path / "c" / "ptb").touch()  # no folder
        other = {"data_dir": tmp_path / place}
        ended = two(tmp_path / "run", fields, other, config="ptb_char")
        assert [code for code, _, _ in ended] == [2, 2], ended
        assert end in ended[0][2].splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_that_one_process_does_not_see(tmp_path):
    fields = FIELDS | {"train.devices": 1}
    ended = two(tmp_path / "run", fields, {}, elsewhere=tmp_path / "other")
    for code, _, text in ended:
        assert code == 2, text
        line = text.splitlines()[-1]
        assert line.startswith("  --workdir, one folder that all see, is held by: ")
        assert line.endswith(" in process 0, None in process 1")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_another_random_generator_in_one_process(tmp_path):
    """The run is that of one process alone: the generator is none of JAX's settings."""
    fields = FIELDS | {"train.devices": 1, "model.dropout": 0.3}
    variables = {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0"}
    ended = two(tmp_path / "run", fields, {}, **variables)
    assert [code for code, _, _ in ended] == [0, 0], ended
    config = addition.get_config()
    config.update_from_flattened_dict(fields)
    alone = loop.train(config, tmp_path / "alone")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for split in ("valid", "test"):
        expected = pytest.approx(alone["metrics"][split], rel=1e-5)
        assert result["metrics"][split] == expected
