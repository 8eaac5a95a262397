"""What a sweep searches: fields of a config with values or ranges, and its plan."""

import copy
import itertools
import json
import math
import pathlib
import runpy
from collections.abc import Callable
from typing import Any

import optuna
from ml_collections import config_dict
from optuna import distributions

from experiments import commandline
from experiments.runs import identity

Space = dict[str, list | dict]

SEED = "seed"

# They say what is compared and where the data are.
_FIXED = ("task.name", "data_dir")

_RANGE = {"low", "high", "log", "int"}


def load(path: str) -> Any:
    """What get_space() of a Python file returns.

    Raises:
      ValueError: there is no such file or function, or it fails.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"--space must name a Python file, got {path!r}")
    try:
        return runpy.run_path(path)["get_space"]()
    except KeyError as error:
        raise ValueError(f"--space {path}: {error} is missing") from None
    except Exception as error:  # whatever the file does
        raise ValueError(f"--space {path}: {type(error).__name__}: {error}") from None


def check(space: Any, config: Any, sampler: str) -> Space:
    """The space with fields in order and lists for tuples.

    Args:
      space: {field: list of values or {"low", "high", "log", "int"}}.
      config: the config whose fields they are; it is left as it is.
      sampler: "grid" takes lists alone.

    Raises:
      ValueError: a field that the config does not have or that cannot be swept, a
        value of the wrong type, an empty or repeated one, a range that is none.
    """
    if not isinstance(space, dict) or not space:
        raise ValueError(f"--space must give a dict with a field, got {space!r}")
    for name, spec in space.items():
        current = _current(name, config)
        if isinstance(spec, dict):
            _check_range(name, spec, sampler)
            values = _ends(spec)
        else:
            _check_list(name, spec)
            values = spec
        for value in values:
            try:
                configure(config, {name: value})
            except (TypeError, ValueError):
                raise ValueError(
                    f"--space: {name} must be of the type of the config's {current!r},"
                    f" got {value!r}"
                ) from None
    return json.loads(json.dumps({name: space[name] for name in sorted(space)}))


def check_values(space: Space, config: Any, validate: Callable[[Any], None]) -> None:
    """Refuses values that no combination with others makes valid, or reads.

    Raises:
      ValueError: the first such value, with what `validate` says of it.
    """
    listed = {
        name: _ends(spec) if isinstance(spec, dict) else spec
        for name, spec in space.items()
    }
    for name, values in listed.items():
        for value in values:
            points = itertools.product(*(listed | {name: [value]}).values())
            problem = None
            for point in itertools.islice(points, 1000):
                values_of = dict(zip(listed, point, strict=True))
                try:
                    chosen = configure(config, values_of)
                    identity.check_overrides(chosen, {name: value})
                    validate(chosen)
                except ValueError as error:
                    problem = problem or error
                else:
                    break
            else:
                raise ValueError(f"--space: {name}={value!r}: {problem}")


def configure(config: Any, point: dict[str, Any]) -> Any:
    """A copy of the config with the values of a point."""
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict(point)
    commandline.choose_length(changed.train, point)
    return changed


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """The trial's values of all fields but the seed."""
    point = {}
    for name, spec in space.items():
        if name == SEED:
            continue
        if isinstance(spec, list):
            names = [_plain(value) for value in spec]
            chosen = trial.suggest_categorical(name, names)
            point[name] = spec[names.index(chosen)]
        elif spec.get("int"):
            point[name] = trial.suggest_int(
                name, spec["low"], spec["high"], log=spec.get("log", False)
            )
        else:
            point[name] = trial.suggest_float(
                name, spec["low"], spec["high"], log=spec.get("log", False)
            )
    return point


def plan(space: Space, sampler: str, trials: int | None, seed: int) -> list[dict]:
    """What is known of each run before the sweep begins, the same in every worker.

    A run is {"params": what the sampler must take, "seed": the config's or None}.
    Grid and random search look at no results, so that Optuna's samplers draw their
    points here, ahead, and every point is run with every seed; workers that asked
    for points of a grid one by one would now and then take the same one. TPE draws
    when a run begins, and its runs take the seeds in turn: it is never offered the
    luck of a seed as something to optimize.

    Args:
      space: a checked one.
      sampler: "grid", "random" or "tpe".
      trials: runs; None for the whole grid.
      seed: of the sampler.

    Raises:
      ValueError: no number of trials without a grid, or more than the grid has.
    """
    seeds = list(space.get(SEED, [None]))
    searched = {name: spec for name, spec in space.items() if name != SEED}
    if sampler == "grid":
        size = math.prod(map(len, searched.values()))
        if trials is not None and trials > size * len(seeds):
            raise ValueError(
                f"--trials must be at most {size * len(seeds)}, the size of the grid,"
                f" got {trials}"
            )
        values = {n: [_plain(value) for value in spec] for n, spec in searched.items()}
        drawn = _draw(optuna.samplers.GridSampler(values, seed=seed), searched, size)
    else:
        if trials is None:
            raise ValueError(
                f"--trials must be given with --sampler={sampler}, got none"
            )
        if not searched:
            raise ValueError(
                f"--sampler must be grid where only seeds are swept, got {sampler!r}"
            )
        if sampler == "tpe":
            turns = (seeds[i % len(seeds)] for i in range(trials))
            return [{"params": {}, "seed": seed} for seed in turns]
        points = -(-trials // len(seeds))
        drawn = _draw(optuna.samplers.RandomSampler(seed=seed), searched, points)
    runs = [{"params": params, "seed": seed} for params in drawn for seed in seeds]
    return runs[:trials]


def _draw(sampler: optuna.samplers.BaseSampler, space: Space, count: int) -> list[dict]:
    """`count` points in Optuna's representation, from a study in memory."""
    study = optuna.create_study(sampler=sampler)
    asked = [study.ask(_distributions(space)) for _ in range(count)]
    return [trial.params for trial in asked]


def _distributions(space: Space) -> dict[str, distributions.BaseDistribution]:
    found: dict[str, distributions.BaseDistribution] = {}
    for name, spec in space.items():
        if isinstance(spec, list):
            choices = [_plain(value) for value in spec]
            found[name] = distributions.CategoricalDistribution(choices)
        else:
            whole, real = distributions.IntDistribution, distributions.FloatDistribution
            kind: Callable[..., Any] = whole if spec.get("int") else real
            found[name] = kind(spec["low"], spec["high"], log=spec.get("log", False))
    return found


def _plain(value: Any) -> Any:
    """Lists as text: Optuna's choices are single values."""
    return json.dumps(value) if isinstance(value, list) else value


def _ends(spec: dict) -> list:
    """The ends of a range, of the type that it samples."""
    kind = int if spec.get("int") else float
    return [kind(spec["low"]), kind(spec["high"])]


def _current(name: Any, config: Any) -> Any:
    """The config's value of a field that can be swept."""
    node = config
    for part in str(name).split("."):
        if not isinstance(node, config_dict.ConfigDict) or part not in node:
            raise ValueError(f"--space: the config has no field {name!r}")
        node = node[part]
    if isinstance(node, config_dict.ConfigDict):
        raise ValueError(f"--space: {name} is a group of fields, not a field")
    if name in _FIXED:
        raise ValueError(f"--space: {name} is the same in all runs of a sweep")
    return node


def _check_list(name: str, spec: Any) -> None:
    if not isinstance(spec, (list, tuple)) or not spec:
        raise ValueError(
            f"--space: {name} must be a list of values or a range as"
            f' {{"low": ..., "high": ...}}, got {spec!r}'
        )
    try:
        values = [json.loads(json.dumps(value, allow_nan=False)) for value in spec]
    except (TypeError, ValueError):
        values = [{}]
    for i, value in enumerate(values):
        if isinstance(value, dict):
            raise ValueError(f"--space: {name} must hold plain values, got {spec!r}")
        if value in values[:i]:
            raise ValueError(f"--space: {name} lists {value!r} twice")


def _check_range(name: str, spec: dict, sampler: str) -> None:
    if sampler == "grid" or name == SEED:
        where = "in a grid" if sampler == "grid" else "under seed"
        raise ValueError(f"--space: {name} must be a list {where}, got {spec!r}")
    whole = spec.get("int", False)
    allowed = (int,) if whole is True else (int, float)
    numbers: list[Any] = [spec.get("low"), spec.get("high")]
    good = (
        {"low", "high"} <= set(spec) <= _RANGE
        and {type(whole), type(spec.get("log", False))} == {bool}
        and all(type(number) in allowed for number in numbers)
        and all(map(math.isfinite, numbers))
        and numbers[0] < numbers[1]
        and (not spec.get("log") or numbers[0] > 0)
    )
    if not good:
        raise ValueError(
            f'--space: {name} must have numbers "low" < "high", above 0 with "log":'
            f' True and whole with "int": True, and nothing else, got {spec!r}'
        )
