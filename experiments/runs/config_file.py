"""The file that the config of a run came from, known to its folder. No JAX of our own.

A task or a model of one's own is registered by the config file of its runs. So that
such a run can be opened by any command, `config_file.json` says where the file is, and
the file is imported when the run is opened: then, and for no run of our tasks and
models.
"""

import hashlib
import importlib.machinery
import importlib.util
import os
import pathlib
import sys
from typing import Any

from absl import logging

from experiments import models, tasks
from experiments.runs import files, identity

NAME = "config_file.json"

_REGISTRIES: dict[str, Any] = {"task.name": tasks, "model.name": models}

# {(field, name): file} of what was registered here, not by the user's own code.
_imported: dict[tuple[str, str], str] = {}


def keep(workdir: pathlib.Path, config_file: str, config: dict) -> None:
    """Writes into the folder of a run where its config file is.

    Args:
      workdir: folder of the run.
      config_file: its path, with `:argument` where it has one.
      config: what the file gave, as plain values.

    Raises:
      files.Unwritable: it cannot be written.
    """
    name, colon, argument = config_file.partition(":")
    path = pathlib.Path(name).resolve()
    try:
        relative = os.path.relpath(path, workdir.resolve())
    except ValueError:  # on another drive
        relative = str(path)
    content = {
        "path": str(path),
        "from_workdir": relative,
        "argument": argument if colon else None,
        "sha256": _digest(str(path)),
        "registers": [
            field
            for field, value in _names(config).items()
            if _REGISTRIES[field].is_own(value)
        ],
    }
    files.write_json(workdir / NAME, content)


def register(
    workdir: pathlib.Path, config: dict, config_file: str | None = None
) -> None:
    """Imports the config file of a run, where its task or model is one's own.

    What the user's own code has registered before is left as it is.

    Args:
      workdir: folder of the run.
      config: the content of its config.json.
      config_file: as in `keep`, in the place of what the folder knows.

    Raises:
      ValueError: the file is not known or gone, fails, or does not register them; or
        there is nothing to register and a file is given.
    """
    kept = _read(workdir)
    wanted = _names(config)
    if config_file is None:
        needed = [
            f"config.{field} {name!r}"
            for field, name in wanted.items()
            if _is_needed(workdir, kept, field, name)
        ]
        if not needed:
            return
        path, *arguments = _find(workdir, kept, " and ".join(needed))
    else:
        path, *arguments = config_file.split(":", 1)
    path = str(pathlib.Path(path).resolve())
    _import(path, arguments)
    for field, name in wanted.items():
        registry = _REGISTRIES[field]
        if not registry.is_known(name):
            raise ValueError(
                f"--config must register config.{field} {name!r} of {workdir}, got"
                f" {path}, which does not"
            )
        if registry.is_own(name):
            _imported[field, name] = path
    own = [name for field, name in wanted.items() if _REGISTRIES[field].is_own(name)]
    if config_file is not None and not own:
        raise ValueError(
            f"--config must be left out of {workdir}, a run of a task and a model that"
            f" need no file, got {config_file}"
        )


def _names(config: dict) -> dict[str, str]:
    """The task and the model of a config, which may be damaged."""
    flat = identity.flatten(config)
    return {field: str(flat.get(field)) for field in _REGISTRIES}


def _is_needed(workdir: pathlib.Path, kept: dict | None, field: str, name: str) -> bool:
    """Whether the config file has to be imported for the name in a field."""
    registry = _REGISTRIES[field]
    if not registry.is_known(name):
        return True
    if kept is None or field not in kept["registers"]:
        return False  # ours, or of before, and registered by the user's own code
    by = _imported.get((field, name))  # None: by that code, if it is not ours
    other = by is not None and by not in _places(workdir, kept)
    return other or not registry.is_own(name)


def _read(workdir: pathlib.Path) -> dict | None:
    """What `keep` wrote; None where there is nothing, as in folders of before.

    Raises:
      ValueError: it is damaged.
    """
    path = workdir / NAME
    if not path.exists():
        return None
    kept = files.read_object(path)
    texts = [kept.get(name) for name in ("path", "from_workdir", "sha256")]
    good = all(isinstance(text, str) for text in texts)
    good = good and isinstance(kept.get("argument"), str | None)
    if not (good and isinstance(kept.get("registers"), list)):
        raise ValueError(f"{path} must say where the config file is, got {kept}")
    return kept


def _places(workdir: pathlib.Path, kept: dict) -> list[str]:
    """Where the file may be: where it was, and where it is if both were moved."""
    beside = (workdir.resolve() / kept["from_workdir"]).resolve()
    return [kept["path"], str(beside)]


def _find(workdir: pathlib.Path, kept: dict | None, what: str) -> list[str]:
    """The file and its argument, if it has one; one that changed is a warning.

    Raises:
      ValueError: there is none; `what` is what it has to register.
    """
    needed = f"--config (config_file in Python) must be the file that registers {what}"
    if kept is None:
        raise ValueError(f"{needed}, got none, and {workdir} does not know it")
    places = _places(workdir, kept)
    there = [place for place in places if os.path.isfile(place)]
    if not there:
        gone = " nor ".join(dict.fromkeys(places))
        raise ValueError(f"{needed}, got none, and it is no longer at {gone}")
    same = [place for place in there if _digest(place) == kept["sha256"]]
    if not same:
        logging.warning(
            "%s has changed since the run %s; --config names another", there[0], workdir
        )
    argument = [] if kept["argument"] is None else [kept["argument"]]
    return [(same or there)[0], *argument]


def _import(path: str, arguments: list[str]) -> None:
    """Imports a config file and calls its get_config, as the run's command did.

    Raises:
      ValueError: there is no such file, or it fails.
    """
    if not os.path.isfile(path):
        raise ValueError(f"--config must be a Python file, got {path!r}")
    name = f"config_{_digest(path)[:8]}"
    try:
        loader = importlib.machinery.SourceFileLoader(name, path)
        spec = importlib.util.spec_from_loader(name, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses look for their names
        loader.exec_module(module)
        module.get_config(*arguments)
    except (Exception, SystemExit) as error:  # whatever the file does
        raise ValueError(f"--config {path}: {type(error).__name__}: {error}") from error


def _digest(path: str) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
