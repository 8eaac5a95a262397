"""Sets of sequences that come with the package aeon, and its own methods on them.

    pip install aeon
    python -m experiments.sets files --data_dir=FOLDER
    python -m experiments.sets peers --data_dir=FOLDER [--results=FOLDER]

`files` writes FOLDER/archives/NAME.npz of every set of the table in docs/results.md,
for --config=configs/arrays.py --config.task.path=archives/NAME.npz, with the archive's
own test split; nothing is downloaded. `peers` trains 1NN-DTW and MiniRocket on the
whole training split of each file (of a series: repeats earlier values), evaluates them
on the test split and records that in sets/peers.json below the results. FOLDER is that
of the environment variable SVDRNN_DATA where it is not named.

Exit codes: 0 done, 1 wrong arguments, 2 no aeon, no data or nowhere to write.
"""

import importlib.metadata
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from experiments import commandline
from experiments.data import archives
from experiments.data import arrays as arrays_files
from experiments.data import files as data_files
from experiments.reproduce.tables import sets
from experiments.runs import files, records

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the data sets.")
_RESULTS = flags.DEFINE_string("results", None, "Folder of the records.")

SEEDS = 3  # of MiniRocket, whose kernels are random
PACKAGES = ("aeon", "numpy", "scikit-learn")


def main(words: list[str]) -> None:
    """Writes the files, or records the other methods."""
    commandline.quiet()
    actions: dict[str, Callable[[], None]] = {"files": _write, "peers": _record}
    if len(words) != 1 or words[0] not in actions:
        commandline.fail(1, f"WORD must be one of files, peers, got {words}")
    if words == ["files"]:
        commandline.refuse_flags("files", ("data_dir",))
    try:
        actions[words[0]]()
    except ModuleNotFoundError as error:
        commandline.fail(2, f"{error}: pip install aeon")
    except (ValueError, OSError) as error:
        commandline.refuse(error)


def _write() -> None:
    import aeon

    root = data_files.data_root(_DATA_DIR.value)
    if root is None:
        raise ValueError("--data_dir must be given, got none")
    shipped = pathlib.Path(aeon.__file__).parent / "datasets" / "data"
    for name in sets.SETS:
        path = root / sets.path(name)
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **_read(shipped, name))
        print(path)


def _read(shipped: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of a set, of its `.ts` files or of the one series in its `.csv`."""
    from aeon.datasets import load_from_ts_file

    series = shipped / name / f"{name}.csv"
    if series.exists():
        values = np.genfromtxt(series, delimiter=",", skip_header=1, usecols=[1])
        return {arrays_files.SERIES: values}
    train, test = (
        load_from_ts_file(str(shipped / name / f"{name}_{split}.ts"))
        for split in ("TRAIN", "TEST")
    )
    return archives.arrays(train, test)


def _record() -> None:
    record: dict[str, Any] = {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
    }
    record["sets"] = {}
    for name, about in sets.SETS.items():
        arrays = arrays_files.read(arrays_files.find(sets.path(name), _DATA_DIR.value))
        if arrays_files.SERIES in arrays:
            record["sets"][name] = _of_series(arrays[arrays_files.SERIES], about)
        else:
            record["sets"][name] = _of_items(arrays, about)
        print(f"{name}: {record['sets'][name]}", flush=True)
    path = pathlib.Path(_RESULTS.value or records.RESULTS) / sets.PEERS
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, record)
    print(path)


def _of_items(arrays: dict[str, np.ndarray], about: sets.Set) -> dict[str, Any]:
    """Sizes and test metrics of a set, of its classes or of its numbers."""
    classes = arrays["train_targets"].dtype.kind != "f"
    # aeon has (items, features, steps). Of unequal lengths zeros fill the rest.
    inputs = {s: arrays[f"{s}_inputs"].transpose(0, 2, 1) for s in ("train", "test")}
    cut: dict[str, Any] = dict(inputs)
    if "train_lengths" in arrays:
        cut = {
            split: [
                item[:, :length]
                for item, length in zip(
                    inputs[split], arrays[f"{split}_lengths"], strict=True
                )
            ]
            for split in inputs
        }
    targets = {split: arrays[f"{split}_targets"] for split in inputs}

    def evaluate(model: Any, inputs: dict[str, Any]) -> float:
        model.fit(inputs["train"], targets["train"])
        predicted = model.predict(inputs["test"])
        if classes:
            return float(np.mean(predicted == targets["test"]))
        return _rmse(predicted, targets["test"])

    nearest, rocket = _models(classes)
    items, steps, features = arrays["train_inputs"].shape
    return {
        "sizes": [items, len(targets["test"]), steps, features],
        "classes": int(targets["train"].max()) + 1 if classes else None,
        sets.NEAREST: _timed(lambda seed: evaluate(nearest(), cut), 1),
        sets.ROCKET: _timed(lambda seed: evaluate(rocket(seed), inputs), SEEDS),
    }


def _models(classes: bool) -> tuple[Callable[[], Any], Callable[[int], Any]]:
    """How 1NN-DTW, and MiniRocket of a seed, are made."""
    if classes:
        from aeon.classification.convolution_based import MiniRocketClassifier as Rocket
        from aeon.classification.distance_based import (
            KNeighborsTimeSeriesClassifier as Neighbors,
        )
    else:
        from aeon.regression.convolution_based import MiniRocketRegressor as Rocket
        from aeon.regression.distance_based import (
            KNeighborsTimeSeriesRegressor as Neighbors,
        )
    return (
        lambda: Neighbors(n_neighbors=1, distance="dtw"),
        lambda seed: Rocket(random_state=seed),
    )


def _of_series(series: np.ndarray, about: sets.Set) -> dict[str, Any]:
    """Sizes and test errors of forecasts that repeat the last value or the last day."""
    horizon, window = (about.changes[f"task.{s}"] for s in ("horizon", "window"))
    test = round(about.changes["task.test_share"] * len(series))
    valid = round(about.changes["task.valid_share"] * len(series))
    begins = np.arange(len(series) - test, len(series) - horizon + 1)
    steps = begins[:, None] + np.arange(horizon)
    targets = series[steps]
    return {
        "sizes": [len(series) - test - valid, test, window, 1],
        "classes": None,
        sets.NAIVE: _timed(lambda seed: _rmse(series[begins - 1][:, None], targets), 1),
        sets.SEASONAL: _timed(lambda seed: _rmse(series[steps - window], targets), 1),
    }


def _timed(evaluate: Callable[[int], float], seeds: int) -> dict[str, Any]:
    began = time.monotonic()
    values = [evaluate(seed) for seed in range(seeds)]
    return {"values": values, "seconds": round(time.monotonic() - began, 1)}


def _rmse(predicted: np.ndarray, targets: np.ndarray) -> float:
    return math.sqrt(np.mean(np.square(predicted - targets)))


if __name__ == "__main__":
    commandline.run(main)
