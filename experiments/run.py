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

import sys

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

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
        _choose_length(config.train, flags.FLAGS["config"].override_values)
        train.train(config, _WORKDIR.value)
    except train.NonFiniteLoss as error:
        _exit(3, error)
    except (ValueError, OSError) as error:
        _exit(2, error)
    except KeyboardInterrupt:
        _exit(130, "interrupted; the same command goes on from the last checkpoint")


def _choose_length(train, overrides: dict) -> None:
    """Makes epochs count where they are given and steps are not."""
    if "train.epochs" in overrides and "train.steps" not in overrides:
        train.steps = None


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; whatever is wrong with them or the config file is one line."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        _exit(1, f"the config has no field {error.args[0]}")
    except (TypeError, ValueError, OSError) as error:
        _exit(1, error)


def _exit(code: int, error) -> None:
    logging.debug("traceback", exc_info=True)
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
