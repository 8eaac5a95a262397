"""Records of runs that were never made."""

import json

from experiments.data import stand_in
from experiments.reproduce import estimates, protocol
from experiments.runs import identity

MACHINE = {"backend": "cpu", "device": "cpu", "cores": 2, "architecture": "x86_64"}
CERTIFICATE = {"bound": 0.5, "training_error": 0.15, "test_error": 0.2}
METRICS = ("loss", "mse", "rmse", "recall", "accuracy", "perplexity")


def invent(
    run, results, *, diverged=None, wall_seconds=10.0, stands_in=False, **changes
):
    """Writes a record of a run that was never made; `changes` are of its config.

    With `stands_in` it has read stand-in data, if its task reads any.
    """
    config = protocol.config_dict(run)
    config.pop("data_dir")
    flat = identity.flatten(config) | changes
    for field in changes:
        *sections, name = field.split(".")
        part = config
        for section in sections:
            part = part[section]
        part[name] = flat[field]
    ends = range(1, 4) if diverged is None else range(1, 3)
    metrics = {
        "valid": dict.fromkeys(METRICS, 0.25),
        "test": dict.fromkeys(METRICS, 0.5 + config["seed"] / 10),
    }
    content = {
        "config": identity.read_part(config),  # as that of a real one
        "result": {
            **{"num_params": 1300, "num_independent_params": 1234},
            "steps": estimates.steps(config),
            "wall_seconds": wall_seconds,
            "baseline": 0.1667,
            "metrics": metrics,
            "best": {"step": 1, **metrics},
        },
        "revision": "0123456789ab",
        "machine": MACHINE,
        "valid": [{"step": i} | dict.fromkeys(METRICS, 1 / i) for i in ends],
        "train": [
            {"step": i, "loss": 1 / i, "carry_grad_norm": i, "spectral_margin": i / 9}
            for i in ends
        ],
    }
    if diverged is not None:
        content |= {
            "result": None,
            "diverged": {"step": diverged, "what": "loss", "wall_seconds": 1.0},
        }
    elif run.certificate:
        content["certificate"] = CERTIFICATE
    if stands_in and reads_data(run):
        content["data"] = stand_in.NAME
    path = results / f"{run.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def reads_data(run):
    """Whether the run's task reads data files."""
    return "data_dir" in identity.read_part(protocol.config_dict(run))
