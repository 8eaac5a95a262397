"""What a run says of itself, at its beginning and of its result, in a few lines."""

import pathlib
from typing import Any

from experiments.data import stand_in
from experiments.runs import identity, progress, records


def beginning(
    config: Any,
    task: Any,
    sizes: dict[str, int],
    lengths: tuple[int, int | None],
    devices: int = 1,
) -> str:
    """What a run begins with: device, data, parameters, steps, as they were resolved.

    Args:
      config: of the run.
      task: built of it.
      sizes: num_params and num_independent_params.
      lengths: steps of the run, and of an epoch or None.
      devices: that a batch is split over.
    """
    steps, epoch = lengths
    length = f"{steps} of batch {config.train.batch_size}"
    if epoch is not None:
        length += f", {steps / epoch:.3g} epochs of {epoch}"
    by = "steps" if config.train.steps is not None else "epochs"
    machine = records.machine()
    split = f", every batch over {devices} devices" if devices > 1 else ""
    data = "stand-in, " if identity.stands_in(identity.to_dict(config)) else ""
    return "\n".join(
        [
            f"{task.name}, {config.model.name}, on {machine['device']}"
            f" ({machine['cores']} cores){split}",
            f"  data: {data}{task.describe()}",
            f"  parameters: {sizes['num_params']}"
            f" ({sizes['num_independent_params']} independent)",
            f"  steps: {length} (by config.train.{by})",
            f"  best step: by validation {task.primary}",
        ]
    )


def text(result: dict, workdir: pathlib.Path) -> str:
    """What a run ends with, in a few lines."""
    best = result["best"]
    rows = [
        ("final", result["steps"], result["metrics"]),
        ("best", best["step"], best),
    ]
    early = ", stopped early," if result.get("stopped_early") else ""
    lines = [
        f"{result['task']}, {result['model']}: {result['steps']} steps{early} in"
        f" {progress.duration(result['wall_seconds'])} on {result['backend']},"
        f" {result['num_params']} parameters"
        f" ({result['num_independent_params']} independent)"
    ]
    if result.get("data") == stand_in.NAME:
        lines.append("  stand-in data: random, so that the numbers mean nothing")
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
