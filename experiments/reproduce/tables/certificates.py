"""The certificates of recorded runs of configs/certificate.py. No JAX."""

import pathlib
from typing import Any

from experiments.reproduce import markdown, protocol, status

_ROWS = "784 steps, an activation every 28"

RUNS = {
    "28 steps": protocol.Run("certificate/pixel_mnist_28", "certificate", {}),
    "784 steps": protocol.Run("certificate/pixel_mnist_784", "certificate:784", {}),
    _ROWS: protocol.Run("certificate/pixel_mnist_784_rows", "certificate:rows", {}),
    f"{_ROWS}, seed 1": protocol.Run(
        "certificate/pixel_mnist_784_rows_seed1", "certificate:rows", {"seed": 1}
    ),
    f"{_ROWS}, n = 24": protocol.Run(
        "certificate/pixel_mnist_784_rows_24", "certificate:rows", {"model.hidden": 24}
    ),
    f"{_ROWS}, n = 24, seed 1": protocol.Run(
        "certificate/pixel_mnist_784_rows_24_seed1",
        "certificate:rows",
        {"model.hidden": 24, "seed": 1},
    ),
    "28 steps, random labels": protocol.Run(
        "certificate/random_labels_28", "certificate:random_labels", {}
    ),
}


def table(results: pathlib.Path) -> str:
    """Errors and bounds of the classifiers as they were trained, and rounded."""
    rows = []
    for title, run in RUNS.items():
        record = status.usable(run, results)
        if not record or not record["result"]:
            rows.append([title, *["not run"] * 8])
            continue
        size = record["result"]["num_independent_params"]
        trained = record.get("certificate")
        rounded = record.get("certificate_rounded")
        bits = f"{rounded['bits'] / size:.1f}" if rounded else ""
        rows.append(
            [title, f"{size:,}", *_cells(trained), bits, *_cells(rounded)],
        )
    errors = ["training error", "test error"]
    columns = ["run", "parameters", *errors, "certificate", "bits a parameter"]
    return markdown.table([*columns, *errors, "certificate, rounded"], rows)


def _cells(values: dict[str, Any] | None) -> list[str]:
    if values is None:
        return [""] * 3
    names = ("training_error", "test_error", "bound")
    return [f"{values[name]:.3f}" for name in names]
