"""Writes what the model of a run predicts on a split, beside the targets.

    python -m experiments.predict --workdir=DIR --split=test --output=FILE

FILE is a NumPy .npz, read by numpy.load(FILE): "predictions" and "targets", one entry
an example or a token of a text in the order of the split, and what else the task gives,
as "log_probabilities" of classes, or of each token of a text. Prints the metrics. The
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

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "What is predicted.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write, .npz.", required=True)
_WHICH = flags.DEFINE_enum("which", "best", ["best", "last"], "Which parameters.")
_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Config file of the run, where the one that it came from is not found.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the data sets; default: that of the run's config."
)
_COMPILATION_CACHE = commandline.define_compilation_cache()


def main(words: list[str]) -> None:
    """Predicts by the flags; whatever is wrong is one line and an exit code."""
    commandline.no_words(words)
    commandline.quiet()

    # Late: --help is quick.
    from experiments.training import compilations, loading, prediction

    try:
        compilations.keep(_COMPILATION_CACHE.value)
        workdir = commandline.folder(_WORKDIR.value)
        output = commandline.output(_OUTPUT.value)
        model, task, config, step = loading.load(
            workdir,
            _WHICH.value,
            data_dir=_DATA_DIR.value,
            config_file=_CONFIG.value,
        )
        arrays, metrics = prediction.predict(model, task, _SPLIT.value)
        _write(output, arrays)
    except (ValueError, OSError) as error:
        commandline.fail(2, error)
    numbers = "  ".join(f"{name} {value:.5g}" for name, value in metrics.items())
    print(f"{task.name}, {config.model.name}, step {step}, {_SPLIT.value}: {numbers}")
    shapes = ", ".join(f"{name} {each.shape}" for name, each in arrays.items())
    print(f"{output}: {shapes}")


def _write(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the file whole or not at all."""
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


if __name__ == "__main__":
    commandline.run(main)
