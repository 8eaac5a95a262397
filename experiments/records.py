"""Small JSON records of finished runs, from which tables and figures are made.

    python -m experiments.records WORKDIR NAME

writes experiments/results/NAME.json: config, result, code revision, machine in general
terms and the points of the curves. NAME may have folders in it.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

from experiments import figures

RESULTS = pathlib.Path(__file__).parent / "results"

# Columns of metrics.jsonl that a record keeps of every validation.
CURVE = (
    "step",
    "loss",
    "mse",
    "recall",
    "accuracy",
    "perplexity",
    "bits_per_character",
)


def machine() -> dict[str, Any]:
    """What figures depend on, in general terms: device, cores, versions."""
    import jax  # Figures are drawn from records without it.

    device = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def revision() -> str | None:
    """The commit of this code, with ``+`` where files differ from it; None unknown."""

    def git(*words):
        return subprocess.run(
            ("git", *words),
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def record(workdir: str | pathlib.Path, name: str) -> pathlib.Path:
    """Writes the record of a finished run and returns its path.

    Raises:
      ValueError: the workdir holds no finished run.
    """
    workdir = pathlib.Path(workdir)
    result = workdir / "result.json"
    if not result.exists():
        raise ValueError(f"{workdir} holds no finished run: there is no result.json")
    config = json.loads((workdir / "config.json").read_text())
    config.pop("data_dir", None)  # a place on some machine
    curves, events = figures.read_metrics(workdir / "metrics.jsonl")
    # Of several sessions the last: a run may be resumed under later code.
    origin = [event for event in events if "revision" in event][-1]
    content = {
        "config": config,
        "result": json.loads(result.read_text()),
        "revision": origin["revision"],
        "machine": origin["machine"],
        "valid": [
            {key: line[key] for key in CURVE if key in line}
            for line in curves.get("valid", [])
        ],
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def main(arguments: list[str]) -> None:
    if len(arguments) != 2:
        sys.exit("usage: python -m experiments.records WORKDIR NAME")
    try:
        print(record(*arguments))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
