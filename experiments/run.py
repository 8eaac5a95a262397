"""Trains what a config file says.

    python -m experiments.run --config=configs/addition.py --workdir=DIR

Any field of the config can be given as --config.FIELD=VALUE, for instance
--config.train.steps=500 or --config.model.reflectors="(8, 16)"; a field that the
config does not have is an error. What follows a colon in --config goes to the
file's get_config: --config=configs/pixel_mnist.py:permuted.

The same command on the same workdir goes on from the last checkpoint. Exit codes:
0 done, 1 wrong flags, 2 a config, data or workdir that does not fit, 3 a loss that
is not finite. --verbosity=1 shows where an error was raised.
"""

from absl import app, flags, logging
from ml_collections import config_flags

from experiments import commandline

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with get_config(), as in configs/."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: config, metrics, checkpoints and result go there. New, empty,"
    " or that of the same config, which is then resumed.",
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)

    from experiments import train  # after the flags: --help and typing errors are quick

    try:
        config = _CONFIG.value
        overrides = flags.FLAGS["config"].override_values
        commandline.choose_length(config.train, overrides)
        train.train(config, _WORKDIR.value)
    except train.NonFiniteLoss as error:
        commandline.fail(3, error)
    except (ValueError, OSError) as error:
        commandline.fail(2, error)
    except KeyboardInterrupt:
        commandline.fail(
            130, "interrupted; the same command goes on from the last checkpoint"
        )


if __name__ == "__main__":
    app.run(main, flags_parser=commandline.parse_flags)
