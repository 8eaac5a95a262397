"""What the commands that take a config share: flags, lengths, one-line errors."""

import sys
from typing import NoReturn

from absl import app, logging


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; whatever is wrong with them or the config file is one line."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        fail(1, f"the config has no field {error.args[0]}")
    except (TypeError, ValueError, OSError) as error:
        fail(1, error)


def fail(code: int, error) -> NoReturn:
    """Ends the process with one line on stderr; --verbosity=1 shows the traceback."""
    logging.debug("traceback", exc_info=True)
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(code)


def choose_length(train, overrides: dict) -> None:
    """Makes epochs count where they are given and steps are not."""
    if "train.epochs" in overrides and "train.steps" not in overrides:
        train.steps = None
