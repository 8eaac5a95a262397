"""What a sweep is: its options checked, its folder and database made or joined."""

import pathlib
from typing import Any, NamedTuple

import optuna

from experiments.runs import files, identity, origin
from experiments.sweep import contact
from experiments.sweep import space as spaces
from experiments.sweep import storage as storages


class Options(NamedTuple):
    """The flags of `experiments.sweep`, which says what they mean."""

    sampler: str = "grid"
    trials: int | None = None
    seed: int = 0
    pruner: str = "none"
    pruner_startup: int = 5
    pruner_warmup: int = 0
    storage: str | None = None
    study: str | None = None
    heartbeat: int = 15
    grace: int = 60
    max_retries: int = 3
    max_outage: int = storages.MAX_OUTAGE
    config_file: str | None = None


class Sweep(NamedTuple):
    """What a worker knows of its sweep."""

    config: Any
    space: spaces.Space
    plan: list[dict]  # of every run, see `spaces.plan`
    metric: str
    workdir: pathlib.Path
    options: Options
    storage: contact.Storage
    study: optuna.Study


def prepare(config: Any, space: Any, workdir: pathlib.Path, options: Options) -> Sweep:
    """Checks everything, then makes the sweep, or joins it where it is known.

    Args:
      config: the base of all runs.
      space: what get_space() gives.
      workdir: folder of the sweep; made where there is none.
      options: those in which a known sweep must not differ are sampler, seed,
        pruner and its settings, storage and study.

    Raises:
      ValueError: an option, the space or the config does not fit, or the folder or
        the database holds another sweep.
      contact.DatabaseAway: the database stayed away.
    """
    from experiments.training import fields  # with JAX, which the summary does without

    space = spaces.check(space, config, options.sampler)
    plan = spaces.plan(space, options.sampler, options.trials, options.seed)
    spaces.check_values(space, config, fields.check)
    if options.grace <= options.heartbeat:
        raise ValueError(
            f"--grace must be more than --heartbeat, {options.heartbeat}, got"
            f" {options.grace}"
        )
    names = ("sampler", "seed", "pruner", "pruner_startup", "pruner_warmup")
    content = {"config": identity.to_dict(config), "space": space}
    content["settings"] = origin.settings()
    content |= {name: getattr(options, name) for name in names}
    place = storages.place(workdir, options.storage, options.study)
    kept = storages.read(workdir)
    if kept is None:
        judged = _judge(config, space)
        workdir.mkdir(parents=True, exist_ok=True)
    else:
        _check_same(f"--workdir {workdir}", kept, content | place)
        judged = {name: kept[name] for name in ("metric", "higher_is_better")}
    storage = storages.connect(
        *(workdir, options.storage, options.heartbeat, options.grace),
        max_outage=options.max_outage,
    )
    study = optuna.create_study(
        storage=storage,
        study_name=place["study"],
        direction="maximize" if judged["higher_is_better"] else "minimize",
        pruner=_pruner(options, config),
        load_if_exists=True,
    )
    if "sweep" in study.user_attrs:
        where = f"--study {place['study']}"
        earlier = study.user_attrs["sweep"]
        files.check_form(earlier, storages.KEPT, where)
        _check_same(where, earlier, content)
        if changed := origin.notice(earlier, content):
            print(changed)
    else:
        study.set_user_attr("sweep", content | judged)
    if kept is None:
        files.write_json(workdir / "sweep.json", content | judged | place)
    return Sweep(
        config, space, plan, judged["metric"], workdir, options, storage, study
    )


def _judge(config: Any, space: spaces.Space) -> dict:
    """The metric of the sweep and its direction, from the task with its data."""
    from experiments import tasks

    task = tasks.build(spaces.configure(config, next(spaces.points(space))))
    return {"metric": task.primary, "higher_is_better": task.higher_is_better}


def _check_same(where: str, kept: dict, content: dict) -> None:
    """Raises ValueError where the sweep that is kept there is another."""
    # Whole configs: what the base does not read, some run of the space may.
    old, new = (identity.completed(sweep["config"]) for sweep in (kept, content))
    changed = identity.changes(old, new)
    changed += identity.other_data(kept["config"], content["config"])
    changed += [
        f"--{name}: {kept.get(name)!r} -> {value!r}"
        for name, value in content.items()
        if name not in ("config", "settings") and kept.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{where} holds another sweep; name another or go back to these values"
            " (old -> new):\n  " + "\n  ".join(changed)
        )
    origin.check_streams(where, kept.get("settings"), content["settings"])


def _pruner(options: Options, config: Any) -> optuna.pruners.BasePruner:
    if options.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=options.pruner_startup,
            n_warmup_steps=options.pruner_warmup,
        )
    if options.pruner == "hyperband":  # the first completed run gives the longest
        return optuna.pruners.HyperbandPruner(
            min_resource=max(options.pruner_warmup, config.train.eval_every)
        )
    return optuna.pruners.NopPruner()
