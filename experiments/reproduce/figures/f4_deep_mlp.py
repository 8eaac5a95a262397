"""F4, deep and residual networks of whole digits: accuracy over epochs and over depth.

`cpu` has 10 epochs at 40 x 32 instead of 50; 2 at four of the eight depths instead of
20.
"""

from typing import TYPE_CHECKING, Any

from experiments.reproduce import estimates, grids, panels, protocol
from experiments.runs import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = {"smoke": 1, "cpu": 2, "full": 5}
SHAPE = {"smoke": (4, 8), "cpu": (40, 32), "full": (40, 32)}  # layers, hidden
WIDTH = {"smoke": 8, "cpu": 128, "full": 128}
DEPTHS = {
    "smoke": (6,),
    "cpu": (30, 50, 70, 100),
    "full": (30, 40, 50, 60, 70, 80, 90, 100),
}
EPOCHS = {"smoke": (None, None), "cpu": (10, 2), "full": (50, 20)}
FAILS = ((35, "MLP"), (70, "ResNet"))  # beyond this depth, in the paper


def runs(scale: str) -> list[protocol.Run]:
    """Runs of one shape, and of every depth."""
    layers, hidden = SHAPE[scale]
    epochs, epochs_of_depths = EPOCHS[scale]
    settings = [(layers, hidden, epochs, model) for model in protocol.FEEDFORWARD]
    settings += [
        (depth, WIDTH[scale], epochs_of_depths, model)
        for depth in DEPTHS[scale]
        for model in (("spectral_mlp",) if scale == "smoke" else protocol.FEEDFORWARD)
    ]
    return [
        _run(scale, name, *setting, seed)
        for name in reversed(protocol.PROTOCOLS)
        for setting in settings
        if setting[-1] in protocol.models(name, scale, protocol.FEEDFORWARD)
        for seed in range(SEEDS[scale])
    ]


def _run(
    scale: str,
    name: str,
    layers: int,
    hidden: int,
    epochs: int | None,
    model: str,
    seed: int,
) -> protocol.Run:
    folder = f"{scale}/F4" + ("_paper" if name == "paper" else "")
    changes = {
        "seed": seed,
        "model.layers": layers,
        "model.hidden": hidden,
        "train.epochs": epochs,
        **(
            protocol.paper(model)
            if name == "paper"
            else grids.chosen("deep_mlp_grid", model)
        ),
    }
    place = f"{folder}/{layers}x{hidden}_{model}_seed{seed}"
    return protocol.Run(place, f"deep_mlp:{model}", changes, protocol=name)


def draw(records: list[dict], scale: str) -> "Figure":
    """Accuracy over epochs at one shape, and test accuracy over depth."""
    groups = panels.by_protocol(records)
    figure = pictures.figure(pictures.PAGE, 2.6 * len(groups) + 0.3)
    grid = figure.subplots(len(groups), 2, squeeze=False)
    for row, (name, of_protocol) in zip(grid, groups.items(), strict=True):
        _draw_row(row, name, of_protocol, scale)
    for column in grid.T:
        panels.same_limits(column)
    for panel in grid.flat:
        panels.not_run(panel)
    return figure


def _draw_row(row: Any, name: str, records: list[dict], scale: str) -> None:
    """A protocol: left over epochs, right over depth."""
    left, right = row
    shape = SHAPE[scale]
    epoch = estimates.epoch_steps(records[0]["config"])

    def fits(record: dict) -> bool:
        model = record["config"]["model"]
        return (model["layers"], model["hidden"]) == shape

    one = [record for record in records if fits(record)]
    depths = [record for record in records if not fits(record)]
    series = panels.by_model(one)
    panels.curves(left, series, "valid", "accuracy", log=False, unit=epoch)
    iterations = panels.iterations(one)
    left.set_title(f"{name}, {shape[0]} layers of {shape[1]} units, {iterations}")
    panels.label(left, "epoch", "validation accuracy")
    panels.over(right, panels.by_model(depths), _point)
    widths = sorted({record["config"]["model"]["hidden"] for record in depths})
    shown = ", ".join(map(str, widths))
    iterations = panels.iterations(depths)
    right.set_title(f"{name}, layers of {shown} units, {iterations}")
    panels.label(right, "hidden layers", "test accuracy")
    if scale != "smoke":
        _mark_failures(right)


def _mark_failures(panel: Any) -> None:
    """Dotted lines where networks fail in the paper, named above the panel."""
    for depth, _ in FAILS:
        panel.axvline(depth, color="gray", linestyle=":", linewidth=1)
    names = [f"{model} fails\nin the paper" for _, model in FAILS]
    top = panel.secondary_xaxis("top")  # outside, where no line can cross the names
    top.set_xticks([depth for depth, _ in FAILS], labels=names)
    top.tick_params(length=0, labelcolor="dimgray")
    top.spines["top"].set_visible(False)


def _point(record: dict) -> tuple[float, float | None]:
    return record["config"]["model"]["layers"], panels.final(record, "accuracy")


FIGURE = protocol.Figure(
    "F4",
    "F4: deep and residual networks of whole MNIST digits",
    runs,
    draw,
    caption=(
        "Left accuracy on validation data over epochs at one shape, right test accuracy"
        " over depth at one width, by each protocol; dotted, the depths beyond which"
        " networks fail in the paper."
    ),
)
