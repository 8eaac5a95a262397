"""When the batch scripts put their jobs back; `tests/slurm.py` does it in earnest."""

import os
import pathlib
import subprocess

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "examples" / "slurm"
STUBS = {
    "srun": 'echo "srun $*" >> "$CALLS"; exit "$CODE"',
    "squeue": 'echo "squeue $*" >> "$CALLS"; echo "$STATE"',
    "scontrol": 'echo "scontrol $*" >> "$CALLS"',
}


def run(folder, name, *words, code=0, state="RUNNING", restarts=None):
    """The exit code of a script, and what it calls of Slurm."""
    for stub, text in STUBS.items():
        (folder / stub).write_text(f"#!/bin/bash\n{text}\n")
        (folder / stub).chmod(0o755)
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    variables = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "CODE": str(code),
        "STATE": state,
        "SLURM_CPUS_PER_TASK": "3",
        "SLURM_JOB_ID": "7",
    }
    if restarts is not None:
        variables["SLURM_RESTART_COUNT"] = str(restarts)
    if name == "sweep.sh":
        variables |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    command = ["bash", SCRIPTS / name, *words]
    ended = subprocess.run(command, env=variables, check=False)
    return ended.returncode, calls.read_text().splitlines()


@pytest.fixture(params=[("run.sh", "7"), ("sweep.sh", "7_2")], ids=["run", "sweep"])
def script(request):
    """A script, and the name of the one job that it is."""
    return request.param


@pytest.mark.parametrize(
    "code, state, restarts, back",
    [
        (138, "RUNNING", None, True),
        (143, "RUNNING", None, True),
        (143, "RUNNING", 99, True),
        (143, "RUNNING", 100, False),
        (143, "COMPLETING", None, False),  # cancelled, or requeued by Slurm
        (143, "CANCELLED", None, False),
        *((other, "RUNNING", None, False) for other in (0, 1, 2, 3, 4, 5, 130, 134)),
    ],
)
def test_what_was_saved_goes_back(tmp_path, script, code, state, restarts, back):
    name, job = script
    ended, calls = run(tmp_path, name, code=code, state=state, restarts=restarts)
    assert ended == code
    assert (f"scontrol requeue {job}" in calls) == back
    assert sum(call.startswith("scontrol") for call in calls) == back


def test_words_and_cores_are_passed_on(tmp_path, script):
    name, _ = script
    _, calls = run(tmp_path, name, "--config=a b.py", "--workdir=c")
    module = name.removesuffix(".sh")
    assert calls == [
        f"srun --cpus-per-task=3 .venv/bin/python -m experiments.{module}"
        " --config=a b.py --workdir=c"
    ]
