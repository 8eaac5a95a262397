"""Figures of a benchmark, from its record alone. No JAX."""

import json
import pathlib
from typing import Any

from experiments.runs import pictures


def draw(record: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
    """Draws step times of recurrent layers over n and over T from a benchmark.json.

    Left: over n at the T that most sizes were measured at. Right: over T at the
    smallest n. Both logarithmic, on one device; skipped contenders are left out.
    """
    rows = json.loads(pathlib.Path(record).read_text())["rows"]
    rows = [r for r in rows if r["kind"] == "layer" and "seconds" in r]
    rows = [r for r in rows if r.get("devices", 1) == 1]
    for row in rows:
        words = row["contender"].split()
        if words[-1] == f"m={row['n']}":
            row["contender"] = " ".join([*words[:-1], "m=n"])
    steps = [t for _, t in {(row["n"], row["steps"]) for row in rows}]
    common = max(sorted(set(steps)), key=steps.count)
    smallest = min(row["n"] for row in rows)
    looks = _looks(rows)
    with pictures.picture(pictures.PAGE, 3.6, output) as figure:
        over_n, over_t = figure.subplots(1, 2, sharey=True)
        _draw_times(over_n, [r for r in rows if r["steps"] == common], "n", looks)
        over_n.set(title=f"T = {common}", xlabel="hidden size n")
        over_n.set_ylabel("ms a step (loss and gradient)")
        _draw_times(over_t, [r for r in rows if r["n"] == smallest], "steps", looks)
        over_t.set(title=f"n = {smallest}", xlabel="sequence length T")
    return pathlib.Path(output)


def _looks(rows: list[dict]) -> dict[str, dict]:
    """A colour for each contender; those of `SpectralRNN` solid, others dashed."""
    names = list(dict.fromkeys(row["contender"] for row in rows))
    looks = {}
    for i, name in enumerate(names):
        around = 2 * (i // len(pictures.PALETTE))
        dashes = pictures.DASHES[around + (not name.startswith("SpectralRNN"))]
        color = pictures.PALETTE[i % len(pictures.PALETTE)]
        looks[name] = {"color": color, "linestyle": dashes}
    return looks


def _draw_times(panel: Any, rows: list[dict], axis: str, looks: dict) -> None:
    """One panel: milliseconds of each contender over a column of the rows."""
    for name in dict.fromkeys(row["contender"] for row in rows):
        of_contender = [row for row in rows if row["contender"] == name]
        points = sorted((row[axis], row["seconds"] * 1e3) for row in of_contender)
        panel.plot(*zip(*points, strict=True), marker="o", label=name, **looks[name])
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
