"""What the commands share: flags, help, one-line errors."""

import contextlib
import itertools
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, NoReturn

from absl import app, flags, logging

from configs import common
from experiments.runs import files, signals, streams

flags.disclaim_key_flags()  # --help shows those of below as the calling command's


def run(main: Callable[[list[str]], None], *, resumes: bool = False) -> None:
    """Parses the flags and calls `main` with the words beside them.

    A command line that is wrong ends the process with one line and the exit code 1, a
    signal with one line and 128 + its number. Nobody has to read what is printed.

    Args:
      main: takes the words of the command line that are no flags.
      resumes: whether the same command goes on with what was done.
    """
    goes_on = "; the same command goes on" if resumes else ""
    streams.free()
    # Files are all that is drawn; a notebook's backend may not be installed here.
    os.environ["MPLBACKEND"] = "agg"
    signals.exit_at_once(goes_on)
    try:
        app.run(lambda argv: main(argv[1:]), flags_parser=parse_flags)
    except signals.Stopped as stopped:
        fail(stopped.code, f"{stopped}{goes_on}")


HELP = {"help", "h", "?", "helpshort", "helpfull", "helpxml"}  # absl's flags of it


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; whatever is wrong with them or the config file is one line."""
    _apply_verbosity(argv)
    try:
        _check_config_words(argv)
        with _silent():
            return flags.FLAGS(argv)
    except SystemExit as end:
        if end.code and not HELP & {word.lstrip("-") for word in argv}:
            fail(1, f"--config: the file ended the process with {end.code!r}")
        sys.exit(0)  # after the help
    except flags.Error as error:
        head, traceback, rest = str(error).partition(": Error whilst parsing config")
        if traceback:  # of a config file: the last line says what it was
            fail(1, f"{head}: {rest.splitlines()[-1]}")
        text = " ".join(head.split())
        if boolean := re.match("flag --(.*?)=(.*): [(]'Non-boolean argument", text):
            text = f"--{boolean[1]} must be True or False, got {boolean[2]!r}"
        fail(1, text)
    except (AttributeError, KeyError) as error:
        fail(1, f"the config has no field {_message(error)}")
    except (TypeError, ValueError, OSError) as error:
        below = [field for field in _fields(argv) if _below_a_value(field)]
        if isinstance(error, TypeError) and below:
            fail(1, f"the config has no field {', '.join(below)}")
        fail(1, error)
    except Exception as error:  # whatever a config file does
        fail(1, f"--config: {type(error).__name__}: {error}")


def _apply_verbosity(argv: list[str]) -> None:
    """Sets --verbosity, which may stand behind a --config whose file fails."""
    for word, following in itertools.pairwise([*argv, ""]):
        name, _, value = word.partition("=")
        value = value or following
        if name in ("--verbosity", "-verbosity", "--v", "-v"):
            if re.fullmatch("-?[0-9]+", value):
                logging.set_verbosity(int(value))


def _check_config_words(argv: list[str]) -> None:
    """Raises ValueError where --config names no file, or a field has no name."""
    for word, following in itertools.pairwise([*argv, ""]):
        name, _, value = word.partition("=")
        if name in ("--config", "-config"):
            value = value or following
            path = value.partition(":")[0]
            if path and not _is_file(path):
                raise ValueError(
                    f"--config must be a Python file with get_config(), got {path!r}"
                )
    for field in _fields(argv):
        if not all(map(str.isidentifier, field.split("."))):
            raise ValueError(f"the config has no field {field!r}")


def _fields(argv: list[str]) -> list[str]:
    """The fields of the config that the command line sets."""
    names = (word.partition("=")[0] for word in argv)
    matches = (re.match("--?config[.](.*)", name, re.DOTALL) for name in names)
    return [match[1] for match in matches if match]


def _below_a_value(field: str) -> bool:
    """Whether a field is looked for in one that is no group of fields, as "seed.x"."""
    group, _, name = field.partition(".")
    groups = {key.partition(".")[0] for key in common.FIELDS if "." in key}
    return "." in name or bool(name) and group not in groups


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Leaves out what ml_collections logs of a config file before it is an error."""
    logger = logging.get_absl_logger()
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _is_file(path: str) -> bool:
    try:
        return pathlib.Path(path).is_file()
    except OSError:  # a name that is too long
        return False


def _message(error: Any) -> str:
    """The message of ml_collections, whose errors hold others, in one line."""
    while isinstance(error, Exception):
        error = error.args[0] if error.args else ""
    return "; ".join(str(error).splitlines())


def quiet() -> None:
    """Leaves out what is less than a warning, unless --verbosity is given."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)


def folder(text: str, flag: str = "--workdir") -> pathlib.Path:
    """A path of the command line, with ~ for the home folder.

    Raises:
      ValueError: it is empty, as of a variable that is not set, or in a home folder
        that is not known.
    """
    try:
        path = pathlib.Path(text).expanduser()
    except RuntimeError:
        path = None
    if not text or path is None:
        raise ValueError(f"{flag} must be a path, got {text!r}")
    return path


def output(text: str) -> pathlib.Path:
    """The file that --output names, which may be there.

    Raises:
      ValueError: it is a folder or no file of another kind, or there is no folder that
        it could be in.
    """
    path = folder(text, "--output")
    if not path.parent.is_dir():
        raise ValueError(
            f"--output must be a file in a folder that is there, got {path}: there is"
            f" no folder {path.parent}"
        )
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "device"
        raise ValueError(f"--output must be a file, got the {kind} {path}")
    return path


class OfRun(NamedTuple):
    """The flags of commands that read a run, see `define_of_run`."""

    workdir: flags.FlagHolder
    which: flags.FlagHolder
    config: flags.FlagHolder
    data_dir: flags.FlagHolder

    def arguments(self) -> dict[str, Any]:
        """What they say, by the names of the arguments of `experiments.load`.

        Raises:
          ValueError: see `folder`.
        """
        return {
            "workdir": folder(self.workdir.value),
            "which": self.which.value,
            "data_dir": self.data_dir.value,
            "config_file": self.config.value,
        }


def define_of_run() -> OfRun:
    """The flags by which a command names a run and its parameters."""
    return OfRun(
        flags.DEFINE_string("workdir", None, "Folder of the run.", required=True),
        flags.DEFINE_enum(
            "which",
            "best",
            ["best", "last"],
            "Parameters: best on validation data, or last.",
        ),
        flags.DEFINE_string(
            "config",
            None,
            "Config file of the run, where the one that it came from is not found.",
        ),
        flags.DEFINE_string(
            "data_dir",
            None,
            "Folder of the data sets; default: that of the run's config.",
        ),
    )


def define_compilation_cache() -> flags.FlagHolder:
    """The flag of commands that compile, for `compilations.keep`."""
    return flags.DEFINE_string(
        "compilation_cache",
        None,
        "Folder in which compiled programs are kept from run to run, or none; default:"
        " JAX_COMPILATION_CACHE_DIR, else svdrnn/compilations in the user's cache"
        " folder.",
    )


def refuse_flags(reader: str, read: Collection[str]) -> None:
    """Ends the process where a flag of the command is set that is not read.

    Args:
      reader: what does not read it, as the line begins.
      read: the names of those that it reads.
    """
    flag_values = flags.FLAGS
    own = [flag.name for flag in flag_values.get_key_flags_for_module(sys.argv[0])]
    foreign = [
        f"--{name}"
        for name in sorted(own)
        if flag_values[name].present and name not in read
    ]
    if foreign:
        fail(1, f"{reader} does not read {', '.join(foreign)}")


def no_words(words: list[str]) -> None:
    """Ends the process where words stand beside the flags of a command without any."""
    if words:
        fail(1, f"unknown arguments: {shlex.join(words)}")


def fail(code: int, error: Any) -> NoReturn:
    """Ends the process with one line on stderr; --verbosity=1 shows the traceback.

    Indented lines may stand behind it; other ends of lines belong to values.
    """
    logging.debug("traceback", exc_info=True)
    error = re.sub("\r?\n(?!  )", r"\\n", str(error).rstrip())
    lines = "\n".join(map(_shortened, f"error: {error}".split("\n")))
    print(lines, file=sys.stderr, flush=True)
    sys.exit(code)


def _shortened(line: str, most: int = 500) -> str:
    """A line without its middle where it is long: values may be of any length."""
    if len(line) <= most:
        return line
    return f"{line[: most - 105]} ... {line[-100:]}"


def refuse(error: ValueError | OSError) -> NoReturn:
    """As `fail`: 4 where a workdir cannot be written, 2 where a value is wrong."""
    fail(4 if isinstance(error, files.Unwritable) else 2, error)


def config_file() -> str:
    """--config as it was given: a file, with `:argument` where it has one."""
    flag: Any = flags.FLAGS["config"]
    return flag.config_filename


def overrides() -> dict[str, Any]:
    """{field: value} of what the command line sets in the config of --config."""
    flag: Any = flags.FLAGS["config"]
    return flag.override_values


def choose_length(train: Any, overrides: dict[str, Any]) -> None:
    """Makes epochs count where they are given and steps are not.

    Raises:
      ValueError: both are given.
    """
    both = [overrides.get(f"train.{name}") for name in ("steps", "epochs")]
    if None not in both:
        raise ValueError(
            "config.train.steps and config.train.epochs must not both be given, got"
            f" {both[0]} and {both[1]}"
        )
    if "train.epochs" in overrides and "train.steps" not in overrides:
        train.steps = None
