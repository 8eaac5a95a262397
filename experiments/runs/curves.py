"""The learning curve of a run, drawn from its log alone. No JAX."""

import pathlib
from typing import Any

from matplotlib.figure import Figure

from experiments.runs import logs


def learning_curve(
    metrics: str | pathlib.Path, output: str | pathlib.Path
) -> pathlib.Path:
    """Draws loss and the task's own metric over steps from a metrics.jsonl.

    Training losses are those of single batches. A dashed line marks the loss of
    the model that knows nothing, where the log's "started" event gives one.

    Raises:
      ValueError: the log has no "started" event, no validation line, or one that
        cannot be read.
    """
    curves, events = logs.read_metrics(metrics)
    needed = {"task", "model", "primary", "baseline"}
    whole = (e for e in events if e["event"] == "started" and needed <= e.keys())
    started = next(whole, None)
    if started is None or "valid" not in curves:
        raise ValueError(f"{metrics} has no 'started' event or no validation line yet")
    names = ["loss"]
    if any(
        line.get(started["primary"]) != line.get("loss") for line in curves["valid"]
    ):
        names.append(started["primary"])
    figure = Figure(figsize=(5.5 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        _draw_curves(panel, curves, name)
    if started["baseline"] is not None:
        panels[0].axhline(
            started["baseline"], color="gray", linestyle="--", label="knows nothing"
        )
    panels[0].set_yscale("log")
    for panel in panels:
        panel.legend()
    figure.suptitle(f"{started['task']}, {started['model']}")
    figure.savefig(output, dpi=120)
    return pathlib.Path(output)


def _draw_curves(panel: Any, curves: logs.Curves, name: str) -> None:
    """One panel: the metric over steps, training thin and validation thick."""
    styles: dict[str, dict[str, Any]] = {
        "train": {"linewidth": 0.8, "alpha": 0.6},
        "valid": {"linewidth": 1.8, "marker": "o", "markersize": 3},
    }
    for split, style in styles.items():
        points = [
            (line["step"], line[name])
            for line in curves.get(split, [])
            if line.get(name) is not None
        ]
        if points:
            panel.plot(*zip(*points, strict=True), label=split, **style)
    panel.set_xlabel("step")
    panel.set_ylabel(name)
    panel.grid(alpha=0.3)
