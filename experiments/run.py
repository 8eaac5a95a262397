"""Trains what a config file says.

    python -m experiments.run --config=configs/addition.py --workdir=DIR

Any field of the config can be given as --config.FIELD=VALUE, for instance
--config.train.steps=500 or --config.model.hidden=64; a field that the config does not
have, or that its task, model or schedule does not read, is an error. What follows a
colon in --config goes to the file's get_config, as that in
--config=configs/pixel_mnist.py:permuted.

The same command on the same workdir goes on from the last checkpoint. Exit codes:
0 done, 1 wrong flags, 2 a config, data or workdir that does not fit, 3 a loss that
is not finite, 4 a workdir that cannot be written, 128 + N stopped by the signal N
(SIGHUP 129, SIGINT 130, SIGUSR1 138, SIGTERM 143), with the step saved.
--verbosity=1 shows where an error was raised.
"""

from absl import flags
from ml_collections import config_flags

from experiments import commandline
from experiments.runs import identity

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with get_config(), as in configs/."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: config, metrics, checkpoints and result go there. New, empty,"
    " or that of the same config, which is then resumed.",
    required=True,
)
flags.mark_flag_as_required("config")


def main(words: list[str]) -> None:
    """Trains by the flags; whatever is wrong is one line and an exit code."""
    commandline.no_words(words)
    commandline.quiet()

    from experiments.training import loop  # --help and typing errors are quick

    try:
        config = _CONFIG.value
        overrides = commandline.overrides()
        commandline.choose_length(config.train, overrides)
        identity.check_overrides(config, overrides)
        loop.train(config, commandline.folder(_WORKDIR.value))
    except loop.NonFiniteLoss as error:
        commandline.fail(3, error)
    except (ValueError, OSError) as error:
        commandline.refuse(error)


if __name__ == "__main__":
    commandline.run(main, resumes=True)
