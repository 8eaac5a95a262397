"""The table of sets of sequences: networks of equal size beside other methods. No JAX.

The networks have some 3,000 independent parameters each and as many trials, of seed 0.
The setting that was best on validation data, `CHOSEN`, has runs of two more seeds. The
seed is also the fold of the training split that is the validation part, a quarter of
it; of a series that is the day before the test part. The test part is the archive's.

The data, and the other methods, are those of `python -m experiments.sets`. The runs are
not among those of `all`, and are the same at every scale.
"""

import pathlib
import statistics
from typing import Any, NamedTuple

from experiments.reproduce import markdown, panels, protocol, status
from experiments.runs import files, progress
from experiments.tasks import scoring

MODELS = ("spectral", "exprnn", "lstm", "gru")
SEEDS = 3
STEPS = 400  # at most, of a run
PEERS = "sets/peers.json"  # below the records
NEAREST, ROCKET = "1NN-DTW", "MiniRocket"
NAIVE, SEASONAL = "naive", "seasonal naive"  # the last value; that a day before

RMSE = scoring.Metric("rmse", higher_is_better=False, digits=4, words="RMSE {}")
ACCURACY = scoring.ACCURACY._replace(digits=3)

SETTINGS: dict[str, dict[str, Any]] = {
    f"0.01_{pool}": {"train.learning_rate": 0.01, "model.pool": pool}
    for pool in ("last", "mean")
}


class Set(NamedTuple):
    """A row of the table.

    hidden: units of each of `MODELS`, which make their sizes equal.
    metric: by which runs are compared.
    changes: of all runs, besides.
    folds: into which the training items are divided; None of a series.
    """

    hidden: tuple[int, ...]
    metric: scoring.Metric = ACCURACY
    changes: dict[str, Any] = {}
    folds: int | None = 4


SETS = {
    "BasicMotions": Set((74, 68, 24, 28)),
    "ItalyPowerDemand": Set((88, 74, 26, 30)),
    "GunPoint": Set((88, 74, 26, 30)),
    "ArrowHead": Set((85, 73, 26, 30)),
    "OSULeaf": Set((79, 70, 26, 29)),
    "JapaneseVowels": Set((59, 59, 21, 24)),
    "Covid3Month": Set((90, 75, 26, 30), RMSE),
    "solar": Set(
        (69, 65, 25, 29),
        RMSE,
        # Half-hours: a day is read, the next six hours are predicted.
        {
            **{"task.window": 48, "task.horizon": 12},
            **{"task.valid_share": 1 / 6, "task.test_share": 1 / 6},
        },
        folds=None,
    ),
}

# Which setting of each of `MODELS` was chosen, by validation data.
CHOSEN: dict[str, tuple[str, ...]] = {
    "BasicMotions": ("0.01_mean", "0.01_last", "0.01_last", "0.01_mean"),
    "ItalyPowerDemand": ("0.01_last", "0.01_last", "0.01_last", "0.01_last"),
    "GunPoint": ("0.01_mean", "0.01_mean", "0.01_last", "0.01_mean"),
    "ArrowHead": ("0.01_last", "0.01_last", "0.01_mean", "0.01_mean"),
    "OSULeaf": ("0.01_mean", "0.01_last", "0.01_mean", "0.01_mean"),
    "JapaneseVowels": ("0.01_mean", "0.01_mean", "0.01_last", "0.01_last"),
    "Covid3Month": ("0.01_mean", "0.01_mean", "0.01_mean", "0.01_mean"),
    "solar": ("0.01_last", "0.01_last", "0.01_last", "0.01_last"),
}


def path(name: str) -> str:
    """Where the arrays of a set are, below the folder of the data."""
    return f"archives/{name}.npz"


def run(name: str, model: str, setting: str, seed: int) -> protocol.Run:
    """The run of a set by a model with one of `SETTINGS`."""
    about = SETS[name]
    folds = (
        {} if about.folds is None else {"task.folds": about.folds, "task.fold": seed}
    )
    changes = {
        "seed": seed,
        "task.path": path(name),
        **folds,
        **about.changes,
        "model.name": model,
        "model.hidden": about.hidden[MODELS.index(model)],
        **SETTINGS[setting],
        "train.epochs": None,
        "train.steps": STEPS,
        **{"train.log_every": 50, "train.eval_every": 25, "train.patience": 8},
        "train.checkpoint_every": STEPS,
        "train.devices": 1,  # the same digits on any number of cores
    }
    return protocol.Run(f"sets/{name}/{model}_{setting}_seed{seed}", "arrays", changes)


def runs(scale: str) -> list[protocol.Run]:
    """The trials of every set, then those of other seeds."""
    trials = [
        run(name, model, setting, 0)
        for name in SETS
        for model in MODELS
        for setting in SETTINGS
    ]
    others = [
        run(name, model, setting, seed)
        for seed in range(1, SEEDS)
        for name, settings in CHOSEN.items()
        for model, setting in zip(MODELS, settings, strict=True)
    ]
    return trials + others


def chosen(name: str, model: str, results: pathlib.Path) -> str | None:
    """The setting that is best on validation data, by the metric and then by the loss.

    Each at the best step of its run, as a sweep compares runs. None where a trial is
    not recorded.

    Raises:
      ValueError: a record cannot be used.
    """
    metric = SETS[name].metric
    sign = -1 if metric.higher_is_better else 1
    values = {}
    for setting in SETTINGS:
        record = status.usable(run(name, model, setting, 0), results)
        if record is None:
            return None
        if record["result"]:  # else it diverged
            valid = record["result"]["best"]["valid"]
            values[setting] = (sign * valid[metric.name], valid["loss"])
    return min(values, key=values.__getitem__) if values else None


def table(results: pathlib.Path, scale: str) -> str:
    """A row for each set: the test metric of every model and of the other methods."""
    peers = _peers(results)
    rows, records = [], []
    for name, about in SETS.items():
        peer = peers["sets"].get(name, {})
        cells: list[tuple[str, float | None]] = []
        for index, model in enumerate(MODELS):
            finished = _finished(name, index, model, results)
            records += finished
            values = [record["result"]["best"]["test"] for record in finished]
            text, mean = _cell([value[about.metric.name] for value in values], about)
            if 0 < len(values) < SEEDS:
                text += f", {len(values)} of {SEEDS} seeds"
            cells.append((text, mean))
        for method in (NEAREST, ROCKET) if about.folds else (NAIVE, SEASONAL):
            values = peer.get(method, {}).get("values", [])
            cells.append(_cell(values, about))
        known = [value for _, value in cells if value is not None]
        best = about.metric.best(known) if known else None
        texts = [
            f"**{text}**" if value is not None and value == best else text
            for text, value in cells
        ]
        rows.append([name, _sizes(peer), about.metric.name, *texts])
    head = ["set", "train / test, T × features", "metric"]
    head += [*MODELS, f"{NEAREST} or {NAIVE}", f"{ROCKET} or {SEASONAL}"]
    return f"{markdown.wrapped(_about(records, peers))}\n\n{markdown.table(head, rows)}"


def _finished(
    name: str, index: int, model: str, results: pathlib.Path
) -> list[dict[str, Any]]:
    """The records of the chosen setting that did not diverge."""
    if name not in CHOSEN:
        return []
    runs = [run(name, model, CHOSEN[name][index], seed) for seed in range(SEEDS)]
    records = [status.usable(one, results) for one in runs]
    return [record for record in records if record and record["result"]]


def _peers(results: pathlib.Path) -> dict[str, Any]:
    path = results / PEERS
    if not path.exists():
        return {"sets": {}, "versions": {}}
    return files.read_object(path)


def _cell(values: list[float], about: Set) -> tuple[str, float | None]:
    """The mean with the range of values that differ; and the mean as it is printed."""
    if not values:
        return "not run", None
    text = about.metric.number(statistics.fmean(values))
    mean = float(text)
    low, high = (about.metric.number(end(values)) for end in (min, max))
    if low != high:
        text += f" ({low}–{high})"
    return text, mean


def _sizes(peer: dict[str, Any]) -> str:
    if not peer:
        return ""
    train, test, steps, features = peer["sizes"]
    classes = f", {peer['classes']} classes" if peer["classes"] else ""
    return f"{train} / {test}, {steps} × {features}{classes}"


def _about(records: list[dict[str, Any]], peers: dict[str, Any]) -> str:
    """Sizes, times and machines of the runs that are shown."""
    if not records:
        return "No run is recorded."
    results = [record["result"] for record in records]
    sizes = [result["num_independent_params"] for result in results]
    seconds = [result["wall_seconds"] for result in results]
    versions = ", ".join(f"{n} {version}" for n, version in peers["versions"].items())
    return (
        f"Networks of {min(sizes):,} to {max(sizes):,} independent parameters, mean and"
        f" range of {SEEDS} seeds, {progress.duration(min(seconds))} to"
        f" {progress.duration(max(seconds))} a run, on {panels.machines(records)};"
        f" the other methods by {versions or 'aeon: not run'}."
    )


FIGURE = protocol.Figure("sets", "sets of sequences", runs, table=table)
