"""What a sweep searches: fields of a config with values or ranges, and its plan.

A field has a list of values, a range {"low", "high", "log", "int"}, or one of both for
each value of another field: {"by": FIELD, VALUE: list or range, ...}. Where the other
field has a value that is not named, the field is not searched and stays the config's.
"""

import copy
import itertools
import json
import math
import pathlib
import random
import runpy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
from ml_collections import config_dict

from experiments import commandline
from experiments.runs import identity

Space = dict[str, list | dict]

SEED = "seed"
FOLD = "task.fold"

# The fields in which runs of one point differ, and what their values are called.
AVERAGED = {SEED: "seeds", FOLD: "folds"}

# They say what is compared and where the data are.
_FIXED = ("task.name", "data_dir")

_MOST = 1000  # points that are looked at for one that is valid

_RANGE = {"low", "high", "log", "int"}
_BY = "by"


def load(path: str) -> Any:
    """What get_space() of a Python file returns.

    Raises:
      ValueError: there is no such file or function, or it fails.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"--space must name a Python file, got {path!r}")
    try:
        get_space = runpy.run_path(path).get("get_space")
        if get_space is not None:
            return get_space()
    except (Exception, SystemExit) as error:  # whatever the file does
        raise ValueError(f"--space {path}: {type(error).__name__}: {error}") from error
    raise ValueError(f"--space {path}: 'get_space' is missing")


def check(space: Any, config: Any, sampler: str) -> Space:
    """The space with fields in order and lists for tuples.

    Args:
      space: {field: what is said above}.
      config: the config whose fields they are; it is left as it is.
      sampler: "grid" takes lists alone; folds want it.

    Raises:
      ValueError: a field that the config does not have or that cannot be swept, a
        value of the wrong type, an empty or repeated one, a range that is none; folds
        of another sampler than "grid".
    """
    if not isinstance(space, dict) or not space:
        raise ValueError(f"--space must give a dict with a field, got {space!r}")
    if FOLD in space and sampler != "grid":  # it would take each point on one fold
        raise ValueError(f"--sampler must be grid where {FOLD} is swept, got {sampler}")
    for name, spec in space.items():
        _current(name, config)
        if _depends(spec):
            _check_depending(name, spec, space)
            for value in spec.keys() - {_BY}:
                _check_spec(name, spec[value], config, sampler)
        else:
            _check_spec(name, spec, config, sampler)
    return json.loads(json.dumps({name: space[name] for name in sorted(space)}))


def _check_spec(name: str, spec: Any, config: Any, sampler: str) -> None:
    """Raises ValueError unless it is a list or a range that fits the field."""
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
                f"--space: {name} must be of the type of the config's"
                f" {_current(name, config)!r}, got {value!r}"
            ) from None


def check_values(space: Space, config: Any, validate: Callable[[Any], None]) -> None:
    """Refuses values that no combination with others makes valid, or reads.

    Raises:
      ValueError: the first such value, with what `validate` says of it.
    """
    for name, condition, spec in _flat(space):
        for value in _values(spec):
            fixed = space | {name: [value]}
            if condition is not None:
                fixed |= {condition[0]: [condition[1]]}
            problem = None
            for values_of in _some(fixed):
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


def _some(space: Space) -> Iterator[dict[str, Any]]:
    """All points up to a number, and where there may be more, as many at random."""
    first = list(itertools.islice(points(space), _MOST))
    yield from first
    if len(first) == _MOST:  # in these the first fields may have one value alone
        chance = random.Random(0)
        for _ in range(_MOST):
            yield next(points(space, lambda values: chance.sample(values, len(values))))


def configure(config: Any, point: dict[str, Any]) -> Any:
    """A copy of the config with the values of a point."""
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict(point)
    commandline.choose_length(changed.train, point)
    return changed


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """The trial's values of all fields but the seed."""
    point: dict[str, Any] = {}
    for name, condition, spec in _flat(space):
        if name == SEED or not _met(condition, point):
            continue
        named = _named(name, condition)
        if isinstance(spec, list):
            names = [_plain(value) for value in spec]
            chosen = trial.suggest_categorical(named, names)
            point[name] = spec[names.index(chosen)]
        elif spec.get("int"):
            point[name] = trial.suggest_int(
                named, spec["low"], spec["high"], log=spec.get("log", False)
            )
        else:
            point[name] = trial.suggest_float(
                named, spec["low"], spec["high"], log=spec.get("log", False)
            )
    return point


def ranges(spec: list | dict) -> list[dict]:
    """The ranges of a field; of one that depends on another, those of every value."""
    if isinstance(spec, dict) and _BY in spec:
        specs = [part for name, part in spec.items() if name != _BY]
    else:
        specs = [spec]
    return [part for part in specs if isinstance(part, dict)]


# ---- Fields that depend on another. To Optuna, which wants the same choices under a
# name at all times, each of their lists and ranges is a parameter of its own.

Condition = tuple[str, Any] | None  # a field and its value


def points(
    space: Space, order: Callable[[list], list] = list
) -> Iterator[dict[str, Any]]:
    """Every point of lists and of the ends of ranges, the last field's values first.

    `order` puts the values of a field in order, each time.
    """

    def extend(point: dict[str, Any], rest: list) -> Iterator[dict[str, Any]]:
        if not rest:
            yield point
            return
        (name, condition, spec), *others = rest
        if not _met(condition, point):
            yield from extend(point, others)
            return
        for value in order(_values(spec)):
            yield from extend(point | {name: value}, others)

    yield from extend({}, _flat(space))


def field_values(params: dict[str, Any]) -> dict[str, Any]:
    """{field: value} of a trial's parameters."""
    return {name.partition(_IF)[0]: value for name, value in params.items()}


_IF = " if "


def _named(name: str, condition: Condition) -> str:
    """The name of a parameter of Optuna."""
    return name if condition is None else f"{name}{_IF}{condition[0]}={condition[1]}"


def _flat(space: Space) -> list[tuple[str, Condition, list | dict]]:
    """(field, on what it depends, list or range), what others depend on first."""
    parameters: list[tuple[str, Condition, list | dict]] = [
        (name, None, spec) for name, spec in space.items() if not _depends(spec)
    ]
    for name, spec in space.items():
        if isinstance(spec, dict) and _depends(spec):
            other = spec[_BY]
            parameters += [
                (name, (other, value), spec[_key(value)])
                for value in _values(space[other])
                if _key(value) in spec
            ]
    return parameters


def _depends(spec: Any) -> bool:
    return isinstance(spec, dict) and _BY in spec


def _met(condition: Condition, point: dict[str, Any]) -> bool:
    return condition is None or point[condition[0]] == condition[1]


def _key(value: Any) -> str:
    """A value as JSON has it for a key."""
    return value if isinstance(value, str) else json.dumps(value)


def _values(spec: list | dict) -> list:
    return _ends(spec) if isinstance(spec, dict) else spec


def _check_depending(name: str, spec: dict, space: dict) -> None:
    """Raises ValueError unless it depends on values that another field lists."""
    other = spec[_BY]
    listed = space.get(other) if isinstance(other, str) else None
    if name == SEED or SEED == other or not isinstance(listed, (list, tuple)):
        raise ValueError(
            f'--space: {name} must be "by" a field that has a list there, and neither'
            f" the seed, got {other!r}"
        )
    keys = [_key(value) for value in listed]
    for value in spec.keys() - {_BY}:
        if isinstance(value, tuple) or _key(value) not in keys:
            raise ValueError(
                f"--space: {name} must name values of {other}, {', '.join(keys)}, got"
                f" {value!r}"
            )
    if len(spec) == 1:
        raise ValueError(f"--space: {name} must have values by {other}, got none")


# ---- The plan.


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
        grid = list(points(searched))
        size = len(grid)
        if trials is not None and trials > size * len(seeds):
            raise ValueError(
                f"--trials must be at most {size * len(seeds)}, the size of the grid,"
                f" got {trials}"
            )
        drawn = _draw_grid(searched, grid, seed)
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
        count = -(-trials // len(seeds))
        drawn = _draw(optuna.samplers.RandomSampler(seed=seed), searched, count)
    runs = [{"params": params, "seed": seed} for params in drawn for seed in seeds]
    return runs[:trials]


def _draw_grid(space: Space, grid: list[dict], seed: int) -> list[dict]:
    """All points in random order, as parameters of Optuna."""
    if not any(map(_depends, space.values())):
        values = {n: [_plain(value) for value in spec] for n, spec in space.items()}
        sampler = optuna.samplers.GridSampler(values, seed=seed)
        return _draw(sampler, space, len(grid))
    params = [
        {
            _named(name, condition): _plain(point[name])
            for name, condition, _ in _flat(space)
            if _met(condition, point)
        }
        for point in grid
    ]
    order = np.random.default_rng(seed).permutation(len(params))
    return [params[i] for i in order]


def _draw(sampler: optuna.samplers.BaseSampler, space: Space, count: int) -> list[dict]:
    """`count` points as parameters of Optuna, from a study in memory."""
    study = optuna.create_study(sampler=sampler)
    trials = [study.ask() for _ in range(count)]
    for trial in trials:
        suggest(trial, space)
    return [trial.params for trial in trials]


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
