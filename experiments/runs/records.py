"""Records: small JSON files of finished runs, from which tables and figures are made.

A record has config, result, code revision, machine in general terms, the settings that
move numbers, the points of the curves, and the certificate where `experiments.certify`
has made one. That of a run that diverged has no result, but the step and what was not
finite.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

from experiments.data import stand_in
from experiments.runs import files, folder, logs

RESULTS = pathlib.Path(__file__).parents[1] / "results"

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

# Columns of metrics.jsonl that are no metrics of the model.
BOOKKEEPING = ("split", "seconds", "examples_per_second", "tokens_per_second")

# Of the training lines at most this many, evenly spread, the first and the last too.
MOST_TRAIN_POINTS = 80
DIGITS = 6  # significant, of the training points

# Of what form a record is. A point has its step and metrics, null if not finite.
_POINTS = [{"step": (int,), str: (*files.NUMBER, *files.NONE)}]
_MACHINE = {
    "backend": (str,),
    "device": (str,),
    "cores": (int,),
    "architecture": (str,),
}
_FORM: dict[str, Any] = {
    **{"config": (dict,), "result": folder.RESULT, "revision": (str, *files.NONE)},
    **{"machine": _MACHINE, "valid": _POINTS},
}
_DIVERGED = {
    **{"step": (int,), "what": (str, *files.NONE)},
    "wall_seconds": files.NUMBER,
}
_CERTIFICATES = ("certificate", "certificate_rounded")
_CERTIFICATE = dict.fromkeys(("bound", "training_error", "test_error"), files.NUMBER)


def machine() -> dict[str, Any]:
    """What figures depend on, in general terms: device, cores, versions."""
    import jax  # Figures are drawn from records without it.

    device = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        **versions(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """{package: version} of those that compute the numbers of a run."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def revision() -> str | None:
    """The commit of this code, with `+` where files differ from it; None unknown."""

    def git(*words: str) -> str:
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


def check_name(name: str) -> None:
    """Raises ValueError unless the name of a record is a path below the records."""
    place = pathlib.PurePath(name)
    if place.is_absolute() or ".." in place.parts or not place.name:
        raise ValueError(f"NAME must be a path below the records, got {name!r}")


def record(
    workdir: str | pathlib.Path, name: str, results: pathlib.Path | None = None
) -> pathlib.Path:
    """Writes the record of a run that finished or diverged and returns its path.

    Args:
      workdir: folder of the run.
      name: place of the record below `results`, without its ending.
      results: `RESULTS` where None.

    Raises:
      ValueError: the workdir holds no run that finished or diverged; the name is none
        below the results.
    """
    workdir = pathlib.Path(workdir)
    check_name(name)
    result = workdir / "result.json"
    curves: logs.Curves = {}
    events: list[dict] = []
    if (workdir / "metrics.jsonl").exists():
        curves, events = logs.read_metrics(workdir / "metrics.jsonl")
    end = events[-1] if events else {}
    diverged = end.get("event") == "non_finite"
    if not (result.exists() or diverged):
        raise ValueError(f"{workdir} holds no finished run: there is no result.json")
    config = files.read_object(workdir / "config.json")
    place = config.pop("data_dir", None)  # a place on some machine
    # Of several sessions the last: a run may be resumed under later code.
    origin = logs.last_session(events) or {"revision": None, "machine": None}
    content: dict[str, Any] = {
        "config": config,
        "result": folder.read_result(result) if result.exists() else None,
        "revision": origin["revision"],
        "machine": origin["machine"],
    }
    if "settings" in origin:
        content["settings"] = origin["settings"]
    for kind in _CERTIFICATES:
        certificate = workdir / f"{kind}.json"
        if certificate.exists():
            content[kind] = files.read_json(certificate)
    if place == stand_in.NAME:
        content["data"] = place
    elif config.get("allow_other_data"):
        content["data"] = "not checked to be the published"
    if not result.exists():
        lines = [line for split in curves.values() for line in split]
        content["diverged"] = {
            "step": end["step"],
            "what": end.get("what"),
            "wall_seconds": max(
                (line["seconds"] for line in lines if line.get("seconds")), default=0.0
            ),
        }
    content["valid"] = [_metrics(line) for line in curves.get("valid", [])]
    content["train"] = [
        {key: _rounded(value) for key, value in _metrics(line).items()}
        for line in thinned(curves.get("train", []), MOST_TRAIN_POINTS)
    ]
    _check(content, str(workdir))
    path = (results or RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:  # whole or not at all
        temporary.write_text(_dump(content))
    return path


def read(name: str, results: pathlib.Path | None = None) -> dict | None:
    """The record of that name, or None where there is none.

    Raises:
      ValueError: the file is not a record.
    """
    path = (results or RESULTS) / f"{name}.json"
    if not path.exists():
        return None
    content = files.read_json(path)
    if not isinstance(content, dict) or "config" not in content:
        raise ValueError(f"{path} is not the record of a run: it has no config")
    _check(content, str(path))
    return content


def _check(content: dict, where: str) -> None:
    """Raises ValueError where a part of a record is of another form."""
    form = dict(_FORM)
    if content.get("result") is None:
        form |= {"result": files.NONE, "diverged": _DIVERGED}
    if content.get("machine") is None:  # of a log without its origin
        form["machine"] = files.NONE
    beside = dict.fromkeys(_CERTIFICATES, _CERTIFICATE) | {"train": _POINTS}
    form |= {name: beside[name] for name in beside if name in content}
    files.check_form(content, form, where)


def thinned(lines: list, most: int) -> list:
    """At most `most` of them, evenly spread, with the first and the last."""
    if len(lines) <= most:
        return lines
    return [lines[round(i * (len(lines) - 1) / (most - 1))] for i in range(most)]


def _metrics(line: dict) -> dict:
    return {key: value for key, value in line.items() if key not in BOOKKEEPING}


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _dump(content: dict) -> str:
    """JSON with a line for every point of a curve."""
    curves = {key: content[key] for key in ("valid", "train")}
    rest = {key: value for key, value in content.items() if key not in curves}
    text = json.dumps(rest, indent=1).removesuffix("\n}")
    for key, points in curves.items():
        lines = ",\n".join(f"  {json.dumps(point)}" for point in points)
        text += f',\n "{key}": [\n{lines}\n ]' if points else f',\n "{key}": []'
    return text + "\n}\n"
