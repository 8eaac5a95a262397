"""The result of a run in a few lines."""

import pathlib

from experiments.runs import progress


def text(result: dict, workdir: pathlib.Path) -> str:
    """What a run ends with, in a few lines."""
    best = result["best"]
    rows = [
        ("final", result["steps"], result["metrics"]),
        ("best", best["step"], best),
    ]
    lines = [
        f"{result['task']}, {result['model']}: {result['steps']} steps in"
        f" {progress.duration(result['wall_seconds'])} on {result['backend']},"
        f" {result['num_params']} parameters"
        f" ({result['num_independent_params']} independent)"
    ]
    for name, step, metrics in rows:
        for split in ("valid", "test"):
            numbers = "  ".join(
                f"{key} {'not finite' if value is None else format(value, '.5g')}"
                for key, value in metrics[split].items()
            )
            lines.append(f"  {name:<5} step {step:<7} {split:<5}  {numbers}")
    if result["baseline"] is not None:
        lines.append(
            f"  loss of the model that knows nothing: {result['baseline']:.5g}"
        )
    lines.append(f"  learning curve: {workdir / 'learning_curve.png'}")
    return "\n".join(lines)
