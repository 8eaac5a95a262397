"""Figures of a benchmark, from its record alone. No JAX."""

import json
import pathlib
from typing import Any

from matplotlib.figure import Figure


def draw(record: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
    """Draws step times of recurrent layers over n and over T from a benchmark.json.

    Left: over n at the T that most sizes were measured at. Right: over T at the
    smallest n. Both logarithmic, on one device; skipped contenders are left out.
    """
    rows = json.loads(pathlib.Path(record).read_text())["rows"]
    rows = [r for r in rows if r["kind"] == "layer" and "seconds" in r]
    rows = [r for r in rows if r.get("devices", 1) == 1]
    for row in rows:
        row["contender"] = row["contender"].replace(f"m={row['n']}", "m=n")
    steps = [row["steps"] for row in rows]
    common = max(sorted(set(steps)), key=steps.count)
    smallest = min(row["n"] for row in rows)
    figure = Figure(figsize=(12, 5), layout="constrained")
    over_n, over_t = figure.subplots(1, 2)
    _draw_times(over_n, [r for r in rows if r["steps"] == common], "n")
    over_n.set_title(f"T = {common}")
    over_n.set_xlabel("hidden size n")
    _draw_times(over_t, [r for r in rows if r["n"] == smallest], "steps")
    over_t.set_title(f"n = {smallest}")
    over_t.set_xlabel("sequence length T")
    over_t.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(output, dpi=120)
    return pathlib.Path(output)


def _draw_times(panel: Any, rows: list[dict], axis: str) -> None:
    """One panel: milliseconds of each contender over a column of the rows."""
    for name in dict.fromkeys(row["contender"] for row in rows):
        mine = [row for row in rows if row["contender"] == name]
        points = sorted((row[axis], row["seconds"] * 1e3) for row in mine)
        style = "-" if name.startswith("SpectralRNN") else "--"
        panel.plot(*zip(*points, strict=True), style, marker="o", ms=3, label=name)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_ylabel("ms a step (loss and gradient)")
    panel.grid(alpha=0.3, which="both")
