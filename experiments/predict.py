"""Writes what the model of a run predicts on a split, beside the targets.

    python -m experiments.predict --workdir=DIR --split=test --output=FILE
    python -m experiments.predict --workdir=DIR --input=NEW --output=FILE

FILE is a NumPy .npz, read by numpy.load(FILE): "predictions" and "targets", one entry
an example or a token of a text in the order of the split, and what else the task gives,
as "log_probabilities" of classes, or of each token of a text. Prints the metrics.
--input predicts sequences of a file of its own instead, with a run of configs/arrays.py
(docs/own_data.md): there are targets and metrics where that file has targets. The
run may be going on; --which=last takes its newest checkpoint instead of the parameters
that were best on validation data so far. The config file of a run of a task or a model
of one's own is imported; --config=FILE says where it is, if not where it was. Exit
codes: 0 done, 1 wrong flags, 2 a workdir or data that do not fit.
"""

import pathlib

import numpy as np
from absl import flags

from experiments import commandline
from experiments.runs import files

_RUN = commandline.define_of_run()
_SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "What is predicted.")
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "File of new sequences to predict, .npz or .npy, in place of a split.",
)
_OUTPUT = flags.DEFINE_string("output", None, "File to write, .npz.", required=True)
_COMPILATION_CACHE = commandline.define_compilation_cache()


def main(words: list[str]) -> None:
    """Predicts by the flags; whatever is wrong is one line and an exit code."""
    commandline.no_words(words)
    commandline.quiet()

    # Late: --help is quick.
    from experiments.training import compilations, loading, prediction

    try:
        compilations.keep(_COMPILATION_CACHE.value)
        run = _RUN.arguments()
        new = _input()
        output = commandline.output(_OUTPUT.value)
        model, task, config, step = loading.load(**run)
        if new is None:
            arrays, metrics = prediction.predict(model, task, _SPLIT.value)
        else:
            arrays, metrics = prediction.predict_file(model, task, new)
        _write(output, arrays)
    except (ValueError, OSError) as error:
        commandline.fail(2, error)
    numbers = "  ".join(f"{name} {value:.5g}" for name, value in metrics.items())
    what = _SPLIT.value if new is None else new
    end = f": {numbers}" if numbers else ""
    print(f"{task.name}, {config.model.name}, step {step}, {what}{end}")
    shapes = ", ".join(f"{name} {each.shape}" for name, each in arrays.items())
    print(f"{output}: {shapes}")


def _input() -> pathlib.Path | None:
    """The file of new sequences, if one is named.

    Raises:
      ValueError: there is none.
    """
    if _INPUT.value is None:
        return None
    if flags.FLAGS["split"].present:
        commandline.fail(
            1, f"--split must be left out with --input, got {_SPLIT.value}"
        )
    path = commandline.folder(_INPUT.value, "--input")
    if not _INPUT.value or not path.exists():
        raise ValueError(f"--input must be a file, got {_INPUT.value!r}: nothing there")
    return path


def _write(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the file whole or not at all."""
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


if __name__ == "__main__":
    commandline.run(main)
