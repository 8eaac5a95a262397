"""What the commands share: flags, help, one-line errors."""

import ast
import contextlib
import itertools
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags, logging

from experiments.runs import files, signals


def run(
    main: Callable[[list[str]], None], *, usage: int = 1, resumes: bool = False
) -> None:
    """Parses the flags and calls `main` with the words beside them.

    A signal ends the process with one line and the exit code 128 + its number.

    Args:
      main: takes the words of the command line that are no flags.
      usage: exit code of a command line that is wrong.
      resumes: whether the same command goes on with what was done.
    """
    goes_on = "; the same command goes on" if resumes else ""
    signals.exit_at_once(goes_on)

    def parse(argv: list[str]) -> list[str]:
        return parse_flags(argv, usage)

    try:
        app.run(lambda argv: main(argv[1:]), flags_parser=parse)
    except signals.Stopped as stopped:
        fail(stopped.code, f"{stopped}{goes_on}")


def parse_flags(argv: list[str], usage: int = 1) -> list[str]:
    """Parses flags; whatever is wrong with them or the config file is one line."""
    try:
        _check_config_file(argv)
        return flags.FLAGS(argv)
    except SystemExit:  # after the help
        sys.exit(0)
    except flags.Error as error:
        head, traceback, rest = str(error).partition(": Error whilst parsing config")
        if traceback:  # of a config file: the last line says what it was
            fail(usage, f"{head}: {rest.splitlines()[-1]}")
        fail(usage, " ".join(head.split()))
    except (AttributeError, KeyError) as error:
        fail(usage, f"the config has no field {_unquoted(str(error.args[0]))}")
    except (TypeError, ValueError, OSError) as error:
        fail(usage, error)


def _check_config_file(argv: list[str]) -> None:
    """Raises ValueError where --config names no file."""
    for word, following in itertools.pairwise([*argv, ""]):
        name, _, value = word.partition("=")
        if name in ("--config", "-config"):
            value = value or following
            path = value.partition(":")[0]
            if path and not pathlib.Path(path).is_file():
                raise ValueError(
                    f"--config must be a Python file with get_config(), got {path!r}"
                )


def _unquoted(text: str) -> str:
    """The message of ml_collections, which it quotes twice, in one line."""
    with contextlib.suppress(ValueError, SyntaxError):
        text = str(ast.literal_eval(text))
    return "; ".join(text.splitlines())


def quiet() -> None:
    """Leaves out what is less than a warning, unless --verbosity is given."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)


def folder(text: str) -> pathlib.Path:
    """A path of the command line, with ~ for the home folder.

    Raises:
      ValueError: a home folder that is not known.
    """
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"--workdir must be a path, got {text!r}") from None


def no_words(words: list[str]) -> None:
    """Ends the process where words stand beside the flags of a command without any."""
    if words:
        fail(1, f"unknown arguments: {' '.join(words)}")


def fail(code: int, error: Any) -> NoReturn:
    """Ends the process with one line on stderr; --verbosity=1 shows the traceback."""
    logging.debug("traceback", exc_info=True)
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(code)


def refuse(error: ValueError | OSError) -> NoReturn:
    """As `fail`: 4 where a workdir cannot be written, 2 where a value is wrong."""
    fail(4 if isinstance(error, files.Unwritable) else 2, error)


def overrides() -> dict[str, Any]:
    """{field: value} of what the command line sets in the config of --config."""
    flag: Any = flags.FLAGS["config"]
    return flag.override_values


def choose_length(train: Any, overrides: dict[str, Any]) -> None:
    """Makes epochs count where they are given and steps are not."""
    if "train.epochs" in overrides and "train.steps" not in overrides:
        train.steps = None
