"""F5, the certificate of generalization and the measured gap over the radius.

Classifiers of pixel MNIST at 28, 112 and 784 steps, of two sizes, trained for large
margins (configs/certificate.py); at 28 steps also with random labels, the control:
their certificate may not be below 0.9. `cpu` has four of the six radii, one seed, and
10 epochs at 784 steps instead of 50.
"""

from typing import TYPE_CHECKING, Any

from experiments.reproduce import panels, protocol
from experiments.runs import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = {"smoke": 1, "cpu": 1, "full": 3}
LENGTHS = {"smoke": (28,), "cpu": (28, 112, 784), "full": (28, 112, 784)}
RADII = {
    "smoke": (0.01,),
    "cpu": (0.001, 0.01, 0.1, 0.3),
    "full": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
}
SIZES = {"smoke": ((16, 2),), "cpu": ((16, 2), (32, 4)), "full": ((16, 2), (32, 4))}
CONTROL = 28, 16  # steps and units of the runs with random labels
GUESSING = 0.9

# What the three lengths change in the shipped config besides size and radius.
SETTINGS: dict[int, tuple[str, dict[str, Any]]] = {
    28: ("certificate", {}),
    # Of 1e-2 and 3e-3 the better on validation data, n = 16 and r = 0.01.
    112: (
        "certificate",
        {
            "task.steps": 112,
            "model.input_scale": 0.1,
            "train.learning_rate": 3e-3,
        },
    ),
    784: ("certificate:784", {}),
}
SHORTER: dict[tuple[str, int], dict[str, Any]] = {("cpu", 784): {"train.epochs": 10}}

# Shipped runs that are among these, by steps, units, radius and labels.
SHIPPED = {
    (28, 16, 0.01, "digits"): "certificate/pixel_mnist_28",
    (28, 16, 0.01, "random"): "certificate/random_labels_28",
}

COLORS = {16: pictures.BLUE, 32: pictures.RED}


def runs(scale: str) -> list[protocol.Run]:
    """A run for every length, size, radius and seed, and the control."""
    settings = [
        (steps, *size, radius, labels)
        for steps in LENGTHS[scale]
        for size in SIZES[scale]
        for labels in ("digits", "random")
        for radius in RADII[scale]
        if labels == "digits" or (steps, size[0]) == CONTROL
    ]
    return [
        _run(scale, *setting, seed)
        for setting in settings
        for seed in range(SEEDS[scale])
    ]


def _run(
    scale: str,
    steps: int,
    hidden: int,
    reflectors: int,
    radius: float,
    labels: str,
    seed: int,
) -> protocol.Run:
    config, changes = SETTINGS[steps]
    changes = changes | SHORTER.get((scale, steps), {})
    changes |= {
        "seed": seed,
        "model.hidden": hidden,
        "model.reflectors": reflectors,
        "model.radius": radius,
    }
    name = f"{scale}/F5/S{steps}_n{hidden}_r{radius:g}"
    if labels == "random":
        config, name = "certificate:random_labels", f"{name}_random"
    name = f"{name}_seed{seed}"
    if scale == "cpu" and seed == 0:
        name = SHIPPED.get((steps, hidden, radius, labels), name)
    return protocol.Run(name, config, changes, certificate=True)


def draw(records: list[dict], scale: str) -> "Figure":
    """Certificate, test error and gap over the radius, a column for each length."""
    figure = pictures.figure(pictures.PAGE, 5.4)
    columns = LENGTHS[scale]
    grid = figure.subplots(3, len(columns), squeeze=False, sharex=True, sharey="row")
    values = {"certificate": _bound, "test error": _error, "test − training": _gap}
    for column, steps in zip(grid.T, columns, strict=True):
        of_length = [r for r in records if r["config"]["task"]["steps"] == steps]
        series, looks = _series(of_length)
        for panel, value in zip(column, values.values(), strict=True):
            panels.over(panel, series, value, looks=looks)
            panel.set_xscale("log")
            panel.set_xlim(RADII[scale][0] / 1.5, RADII[scale][-1] * 1.5)
        for panel in column[:2]:
            if of_length:
                look = {"color": "gray", "linestyle": "--", "linewidth": 1}
                panel.axhline(GUESSING, label="guessing", **look)
        column[0].set_title(f"T = {steps}")
        column[-1].set_xlabel("radius r")
    for panel, name in zip(grid[:, 0], values, strict=True):
        panel.set_ylabel(name)
    for panel in grid.flat:
        panels.not_run(panel)
    figure.align_ylabels(grid)
    return figure


def _series(records: list[dict]) -> tuple[panels.Series, panels.Styles]:
    """A series for each size and kind of labels; a colour for each size."""
    series: panels.Series = {}
    looks: panels.Styles = {}
    for record in records:
        model = record["config"]["model"]
        label = f"n = {model['hidden']}, m = {model['reflectors']}"
        look = {"color": COLORS.get(model["hidden"], pictures.GREEN), "linestyle": "-"}
        if record["config"]["task"]["name"] == "random_labels":
            look = {"color": pictures.GRAY, "linestyle": ":"}
            label = f"{label}, random labels"
        series.setdefault(label, []).append(record)
        looks[label] = look
    return series, looks


def _bound(record: dict) -> tuple[float, float | None]:
    return _at(record, "bound")


def _error(record: dict) -> tuple[float, float | None]:
    return _at(record, "test_error")


def _gap(record: dict) -> tuple[float, float | None]:
    radius, training = _at(record, "training_error")
    test = _at(record, "test_error")[1]
    return radius, None if test is None or training is None else test - training


def _at(record: dict, name: str) -> tuple[float, float | None]:
    """The radius, and a number of the certificate; None where the run diverged."""
    values = record.get("certificate")
    return record["config"]["model"]["radius"], values and values[name]


FIGURE = protocol.Figure(
    "F5",
    "F5: certificate of generalization and measured gap, pixel MNIST",
    runs,
    draw,
    caption=(
        "Above the certificate, a bound on the error that fails with probability 0.05,"
        " from 55,000 training images; then the test error, and what it exceeds the"
        " training error by. With random labels nothing can be learned, and the"
        " certificate may not be below guessing."
    ),
)
