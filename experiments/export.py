"""Writes the model of a run as one file that JAX runs alone.

    python -m experiments.export --workdir=DIR --output=FILE

FILE is a function by jax.export, with the parameters in it: from inputs, as the batches
of the run's task hold them, to the outputs of the model. It takes any batch, and any
number of time steps where the model allows it; the command says which. --streaming
exports one step of a recurrent model instead: (carry, inputs of the step) -> (carry,
outputs), from a carry of zeros. How it is read, without this project:
docs/experiments.md. The run may be going on; --which=last takes its newest checkpoint
instead of the parameters that were best on validation data so far. The config file of
a run of a task or a model of one's own is imported; --config=FILE says where it is, if
not where it was. Exit codes: 0 done, 1 wrong flags, 2 a workdir, a platform or data
that do not fit.
"""

from typing import Any

from absl import flags

from experiments import commandline
from experiments.runs import files

_RUN = commandline.define_of_run()
_OUTPUT = flags.DEFINE_string("output", None, "File to write.", required=True)
_PLATFORMS = flags.DEFINE_list(
    "platforms",
    None,
    "What it is to run on, of cpu, cuda and tpu; default: all of them, or cpu alone"
    " where the model cannot be lowered for one.",
)
_STREAMING = flags.DEFINE_bool(
    "streaming", False, "One step of a recurrent model, with its carry."
)
_COMPILATION_CACHE = commandline.define_compilation_cache()


def main(words: list[str]) -> None:
    """Exports by the flags; whatever is wrong is one line and an exit code."""
    commandline.no_words(words)
    commandline.quiet()

    from experiments.training import compilations, exporting, loading  # --help is quick

    try:
        compilations.keep(_COMPILATION_CACHE.value)
        run = _RUN.arguments()
        output = commandline.output(_OUTPUT.value)
        model, task, config, step = loading.load(**run)
        exported = exporting.export(
            model, task, streaming=_STREAMING.value, platforms=_PLATFORMS.value
        )
        content = exported.serialize()
        with files.replacing(output) as temporary:
            temporary.write_bytes(content)
    except (ValueError, OSError) as error:
        commandline.fail(2, error)
    print(f"{task.name}, {config.model.name}, step {step}")
    print(f"{output}: {len(content) // 1024} KiB for {', '.join(exported.platforms)}")
    print(f"{_shapes(exported.in_avals)} -> {_shapes(exported.out_avals)}")
    if task.sequential and not _STREAMING.value:
        steps = exported.in_avals[0].shape[1]
        fixed = isinstance(steps, int)
        print(f"time steps: {f'{steps}, as in the task' if fixed else 'any number'}")


def _shapes(arrays: Any) -> str:
    """'float32[batch, time, 2]' of arrays."""
    return ", ".join(
        f"{array.dtype}[{', '.join(map(str, array.shape))}]" for array in arrays
    )


if __name__ == "__main__":
    commandline.run(main)
