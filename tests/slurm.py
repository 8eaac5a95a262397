"""Slurm on this one machine, and what it does to runs and sweeps; not of the suite.

    apt-get install -y slurm-wlm munge
    python -m tests.slurm

As root, on a machine that may be thrown away: `/etc/hosts` names the nodes meanwhile.
munged, slurmctld and two slurmd, each a node of one CPU, are started with a config of
their own in a temporary folder, and ended with the command. `examples/slurm/run.sh` and
`sweep.sh` are then submitted as they stand, and disturbed: a signal ahead of the time
limit, `scancel --signal`, preemption (REQUEUE, 20 s of grace), `scontrol requeue`,
`scancel`, a task killed, two steps of one job at once. What is left has to equal, bit
for bit, what the same job comes to when it is left alone.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
NODES = ("node1", "node2")
GRACE = 20

CONFIG = """\
ClusterName=trial
SlurmctldHost={host}
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
KillWait=10
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace} State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""

# About half a minute; a signal is seen after 20 steps at the latest.
RUN = {
    **{"task.length": 12, "model.hidden": 8, "model.reflectors": 3},
    **{"train.devices": 1, "train.batch_size": 16, "train.steps": 4_000},
    **{"train.log_every": 20, "train.eval_every": 1_000},
    **{"train.checkpoint_every": 500},
}
SPACE = "def get_space():\n    return {'seed': [0, 1, 2, 3]}\n"


def log(text: str) -> None:
    """Prints a line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def say(*words: str) -> str:
    """What a command of Slurm prints."""
    return subprocess.run(words, check=True, text=True, capture_output=True).stdout


def until(holds: Callable[[], bool], what: str, seconds: int = 300) -> None:
    """Waits; it is an error if it does not come."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)


# ---- The cluster.


@contextlib.contextmanager
def cluster(folder: pathlib.Path) -> Iterator[None]:
    """munged, slurmctld and a slurmd for each of the nodes."""
    host, port = socket.gethostname().partition(".")[0], 17_000
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + 1 + i}"
        " CPUs=1 State=UNKNOWN"
        for i, name in enumerate(NODES)
    )
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(host=host, port=port, folder=folder, nodes=nodes, grace=GRACE)
    )
    os.environ["SLURM_CONF"] = str(config)
    for name in ("state", *NODES):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    daemons = [
        [
            *("munged", "--foreground", "--force", f"--key-file={key}"),
            f"--socket={folder}/munge.socket",
            *(f"--{x}-file={folder}/munge.{x}" for x in ("pid", "log", "seed")),
        ],
        ["slurmctld", "-D", "-i"],
        *(["slurmd", "-D", "-N", name] for name in NODES),
    ]
    started: list[subprocess.Popen] = []
    hosts = pathlib.Path("/etc/hosts")
    before = hosts.read_text()
    try:
        hosts.write_text(f"{before}\n127.0.0.1 {' '.join(NODES)}\n")
        for i, words in enumerate(daemons):
            output = (folder / f"{words[0]}-{i}.log").open("w")
            started.append(subprocess.Popen(words, stdout=output, stderr=output))
            time.sleep(1)
        ready = ["sinfo", "--noheader", "--states=idle", "--Format=nodes", "-p", "low"]
        until(lambda: say(*ready).split() == ["2"], "two idle nodes", 60)
        log(f"{say('slurmctld', '-V').strip()}: {', '.join(NODES)} are idle")
        yield
    finally:
        subprocess.run(["scancel", "--user=root"], check=False)
        with contextlib.suppress(AssertionError, subprocess.CalledProcessError):
            until(lambda: not say("squeue", "--noheader"), "an empty queue", 30)
        for process in reversed(started):
            process.terminate()
            process.wait()
        hosts.write_text(before)


# ---- Jobs.


def submit(*words: str) -> str:
    """The id of a new job."""
    return say("sbatch", "--parsable", *words).strip()


def field(job: str, name: str) -> str:
    """A field of what Slurm says of a job, or of an array's first that it shows."""
    shown = say("scontrol", "show", "job", "--oneliner", job)
    return shown.partition(f" {name}=")[2].split()[0]


def state(job: str) -> str:
    """RUNNING, COMPLETED, ..."""
    return field(job, "JobState")


def ended(job: str) -> bool:
    """Whether the job is over; one that is back in the queue is started soon.

    Slurm itself lets it wait for two minutes: on its nodes it has to be over first.
    """
    if state(job) == "PENDING" and field(job, "Reason") == "BeginTime":
        time.sleep(15)
        words = ("scontrol", "update", f"JobId={job}", "StartTime=now")
        subprocess.run(words, check=False, capture_output=True)
    return state(job) in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


def outcome(job: str) -> str:
    """State, exit code and restarts."""
    return f"{state(job)} {field(job, 'ExitCode')}, {field(job, 'Restarts')} restarts"


# ---- What runs and sweeps come to.


def content(run: pathlib.Path) -> dict:
    """Of a finished run, all that does not depend on time."""
    result = json.loads((run / "result.json").read_text())
    del result["wall_seconds"]
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    curve = [
        {name: value for name, value in line.items() if "second" not in name}
        for line in lines
        if line["split"] != "event"
    ]
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    record = json.loads((newest / "record" / "metadata").read_text())
    return {"result": result, "curve": curve, "parameters": record["best_params"]}


def digest(contents: object) -> str:
    """The first half of a SHA-256 of JSON."""
    text = json.dumps(contents, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:32]


def words_of_run(workdir: pathlib.Path) -> list[str]:
    """The arguments of a run."""
    return [
        *("--config=configs/addition.py", f"--workdir={workdir}"),
        *(f"--config.{name}={value}" for name, value in RUN.items()),
    ]


def submit_run(workdir: pathlib.Path, *options: str) -> str:
    """`run.sh` on both nodes."""
    given = ("--cpus-per-task=1", f"--output={workdir}.out", *options)
    return submit(*given, "examples/slurm/run.sh", *words_of_run(workdir))


def is_under_way(workdir: pathlib.Path) -> Callable[[], bool]:
    """Whether a run has saved a checkpoint."""
    checkpoints = workdir / "checkpoints"
    return lambda: (
        checkpoints.is_dir()
        and any(path.name.isdigit() for path in checkpoints.iterdir())
    )


def preempt(job: str) -> None:
    """Both nodes for another job."""
    submit("--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=sleep 3")


DISTURBANCES: dict[str, Callable[[str], object]] = {
    "scancel --signal=USR1": lambda job: say("scancel", "--signal=USR1", job),
    "preemption": preempt,
    "scontrol requeue": lambda job: say("scontrol", "requeue", job),
}


def runs(folder: pathlib.Path) -> None:
    """`run.sh`, left alone and disturbed."""
    whole = folder / "whole"
    job = submit_run(whole)
    until(lambda: ended(job), "the run that is left alone")
    assert state(job) == "COMPLETED", (folder / "whole.out").read_text()
    expected = content(whole)
    log(f"run.sh, left alone: {outcome(job)}; digest {digest(expected)}")

    def compare(what: str, job: str, workdir: pathlib.Path, least: int) -> None:
        until(lambda: ended(job), what, 600)
        output = pathlib.Path(f"{workdir}.out").read_text()
        assert state(job) == "COMPLETED", f"{outcome(job)}\n{output}"
        assert int(field(job, "Restarts")) >= least, outcome(job)
        assert content(workdir) == expected, f"{what}: another result"
        log(f"run.sh, {what}: {outcome(job)}; the same digest")

    for number, (what, disturb) in enumerate(DISTURBANCES.items()):
        workdir = folder / f"disturbed-{number}"
        job = submit_run(workdir)
        until(is_under_way(workdir), what)
        disturb(job)
        until(lambda: field(job, "Restarts") == "1", what)  # noqa: B023
        compare(what, job, workdir, 1)

    workdir = folder / "limited"
    job = submit_run(workdir, "--time=2", "--signal=USR1@75")
    compare("a time limit of two minutes, USR1 75 s before it", job, workdir, 1)

    workdir = folder / "cancelled"
    job = submit_run(workdir)
    until(is_under_way(workdir), "scancel")
    say("scancel", job)
    until(lambda: ended(job), "scancel")
    time.sleep(5)
    assert state(job) == "CANCELLED" and field(job, "Restarts") == "0", outcome(job)
    log(f"run.sh, scancel: {outcome(job)}; it stays out of the queue")
    compare("the same sbatch after it", submit_run(workdir), workdir, 0)

    workdir = folder / "killed"
    job = submit_run(workdir)
    until(is_under_way(workdir), "a task killed")
    pid = subprocess.run(
        ["pgrep", "--newest", "--full", f"experiments.run.*workdir={workdir} "],
        check=True,
        text=True,
        capture_output=True,
    ).stdout
    os.kill(int(pid.split()[0]), 9)
    began = time.monotonic()
    until(lambda: ended(job), "a task killed")
    took = time.monotonic() - began
    assert state(job) == "FAILED" and field(job, "Restarts") == "0", outcome(job)
    log(f"run.sh, a task killed: {outcome(job)} after {took:.0f} s, not requeued")
    compare("the same sbatch after it", submit_run(workdir), workdir, 0)


def steps(folder: pathlib.Path) -> None:
    """Two runs at once, each a step of one job."""
    workdirs = [folder / f"step-{i}" for i in range(2)]
    commands = [
        f"srun --overlap --ntasks=2 {sys.executable} -m experiments.run"
        f" {' '.join(words_of_run(workdir))} & steps+=($!)"
        for workdir in workdirs
    ]
    script = folder / "steps.sh"
    waits = "for step in ${steps[@]}; do wait $step || exit 1; done"
    script.write_text("\n".join(["#!/bin/bash", *commands, waits, ""]))
    job = submit("--nodes=2", "--ntasks=2", f"--output={folder}/steps.out", str(script))
    until(lambda: ended(job), "two steps of one job")
    assert state(job) == "COMPLETED", (folder / "steps.out").read_text()
    whole = content(folder / "whole")
    assert all(content(workdir) == whole for workdir in workdirs)
    log(f"two steps of one job at once: {outcome(job)}; both the same digest")


def sweeps(folder: pathlib.Path) -> None:
    """`sweep.sh`: an array of two workers, left alone and disturbed."""
    space = folder / "space.py"
    space.write_text(SPACE)

    def submit_sweep(workdir: pathlib.Path) -> str:
        fields = {**RUN, "train.steps": 2_000}
        return submit(
            *("--array=0-1", "--cpus-per-task=1", f"--output={workdir}-%a.out"),
            *("examples/slurm/sweep.sh", "--config=configs/addition.py"),
            *(f"--space={space}", f"--workdir={workdir}", "--heartbeat=2", "--grace=6"),
            *(f"--config.{name}={value}" for name, value in fields.items()),
        )

    def results(workdir: pathlib.Path) -> list[dict]:
        found = map(content, sorted(p for p in workdir.glob("runs/*") if p.is_dir()))
        return sorted(found, key=lambda run: run["result"]["seed"])

    def both(job: str) -> list[str]:
        return [f"{job}_{i}" for i in range(2)]

    def finish(what: str, job: str, workdir: pathlib.Path) -> None:
        until(lambda: all(map(ended, both(job))), what, 600)
        output = "".join(path.read_text() for path in folder.glob(f"{workdir.name}-*"))
        assert [state(x) for x in both(job)] == ["COMPLETED"] * 2, output

    whole = folder / "sweep-whole"
    job = submit_sweep(whole)
    finish("the sweep that is left alone", job, whole)
    expected = results(whole)
    assert len(expected) == 4, expected
    log(f"sweep.sh, left alone: 4 runs by 2 workers; digest {digest(expected)}")

    for number, (what, disturb) in enumerate(DISTURBANCES.items()):
        workdir = folder / f"sweep-{number}"
        job = submit_sweep(workdir)
        until(lambda: any(workdir.glob("runs/*/checkpoints/500")), what)  # noqa: B023
        # The last of an array has the array's own id, by which all would come back.
        disturb(both(job)[1])
        restarts = [both(job)[1]] if what != "preemption" else both(job)
        until(lambda: all(field(x, "Restarts") == "1" for x in restarts), what)  # noqa: B023
        finish(what, job, workdir)
        assert results(workdir) == expected, f"{what}: another result"
        ends = "; ".join(map(outcome, both(job)))
        log(f"sweep.sh, {what} ({ends}): the same digest")

    workdir = folder / "sweep-cancelled"
    job = submit_sweep(workdir)
    until(lambda: any(workdir.glob("runs/*/checkpoints/500")), "scancel")
    say("scancel", job)
    until(lambda: all(map(ended, both(job))), "scancel")
    time.sleep(5)
    assert [state(x) for x in both(job)] == ["CANCELLED"] * 2
    log(f"sweep.sh, scancel: {'; '.join(map(outcome, both(job)))}")
    job = submit_sweep(workdir)
    finish("the same sbatch after it", job, workdir)
    assert results(workdir) == expected, "scancel: another result"
    log("sweep.sh, the same sbatch after it: the same digest")


CHECKS = {"runs": runs, "steps": steps, "sweeps": sweeps}


def main() -> None:
    """Brings the cluster up, makes the checks, and takes it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checks", nargs="*", help=f"of {', '.join(CHECKS)}; all")
    names = parser.parse_args().checks or list(CHECKS)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("ended by a signal"))
    os.chdir(ROOT)
    os.environ |= {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = pathlib.Path(name)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        with cluster(folder):
            for check in names:
                CHECKS[check](folder)
    log("done")


if __name__ == "__main__":
    main()
