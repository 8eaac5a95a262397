"""From `config.train` to an optax optimizer."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import config_dict
from optax import contrib

from experiments import checks
from svdrnn import projection

SCHEDULES = ("constant", "exponential", "cosine", "plateau")

# Last names in the path of a parameter that an orthogonal matrix is made from.
ORTHOGONAL = (*projection.REFLECTORS, "skew_entries")


def check(train: Any) -> None:
    """Raises ValueError where a field of `config.train` that is read here does not fit.

    A warm-up is for the cosine schedule alone.
    """
    section = checks.Section("config.train", train)
    section.number("learning_rate", above=0)
    section.number("reflector_learning_rate", above=0, optional=True)
    section.name("schedule", SCHEDULES)
    section.integer("warmup_steps", least=0)
    if train.warmup_steps and train.schedule != "cosine":
        raise ValueError(
            "config.train.warmup_steps must be 0 unless config.train.schedule is"
            f" 'cosine', got {train.warmup_steps}"
        )
    section.number("decay_rate", above=0, most=1)
    section.number("plateau_factor", above=0, below=1)
    section.integer("plateau_patience")
    section.number("clip_norm", least=0, optional=True)


def slowed(train: Any, times: int) -> Any:
    """`config.train` with the learning rates, as floats, halved so many times."""
    values = train.to_dict()
    for name in ("learning_rate", "reflector_learning_rate"):
        if values[name] is not None:
            values[name] = float(values[name]) * 0.5**times
    return config_dict.ConfigDict(values)


def schedule(
    train: Any, peak: float, *, steps: int, steps_per_epoch: int | None
) -> optax.Schedule:
    """The learning rate of update k (from 0).

    constant: peak. exponential: peak * decay_rate ** epoch, in steps of an epoch.
    cosine: linear from 0 to peak over `warmup_steps`, then half a cosine to 0 at
    `steps`. plateau: peak, which the optimizer multiplies by `plateau_scale`.

    Args:
      train: `config.train`; reads schedule, decay_rate and warmup_steps.
      peak: the highest learning rate.
      steps: updates in the whole run.
      steps_per_epoch: updates in an epoch; needed by the exponential schedule.

    Raises:
      ValueError: an unknown name, an exponential schedule without an epoch, or a
        warm-up of as many steps as the run or more.
    """
    if train.schedule in ("constant", "plateau"):
        return optax.constant_schedule(peak)
    if train.schedule == "exponential":
        if steps_per_epoch is None:
            raise ValueError(
                "config.train.schedule 'exponential' decays once an epoch: set"
                " config.train.steps_per_epoch for a task without epochs"
            )
        return optax.exponential_decay(
            peak, steps_per_epoch, train.decay_rate, staircase=True
        )
    if train.schedule == "cosine":
        if train.warmup_steps >= steps:
            raise ValueError(
                "config.train.warmup_steps must be less than the number of steps,"
                f" {steps}, got {train.warmup_steps}"
            )
        return optax.warmup_cosine_decay_schedule(
            0.0 if train.warmup_steps else peak, peak, train.warmup_steps, steps
        )
    raise ValueError(
        f"config.train.schedule must be one of {', '.join(SCHEDULES)}, got"
        f" {train.schedule!r}"
    )


def labels(params: Any) -> Any:
    """The tree of `params` with "orthogonal" or "rest" for every array."""

    def label(path: Any, _: Any) -> str:
        return "orthogonal" if path[-1].key in ORTHOGONAL else "rest"

    return jax.tree_util.tree_map_with_path(label, params)


def build(
    train: Any, *, steps: int, steps_per_epoch: int | None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Clipped Adam, with the orthogonal part at a learning rate of its own.

    Clipping is by the norm of all gradients together; `clip_norm` None or 0 means
    none. `reflector_learning_rate` is that of all that `ORTHOGONAL` names: reflectors
    and the skew-symmetric matrices of exprnn and scornn; None means the same rate for
    all. `unit_reflectors` scales reflectors to length 1 after every update.

    Returns:
      The optimizer and the schedule of the parameters outside the orthogonal part,
      without `plateau_scale`.

    Raises:
      ValueError: see `schedule`.
    """
    from_peak = functools.partial(
        schedule, train, steps=steps, steps_per_epoch=steps_per_epoch
    )
    rest = orthogonal = from_peak(train.learning_rate)
    if train.reflector_learning_rate is not None:
        orthogonal = from_peak(train.reflector_learning_rate)
    clip = (
        optax.clip_by_global_norm(float(train.clip_norm)) if train.clip_norm else None
    )
    optimizer = optax.chain(
        clip or optax.identity(),
        optax.scale_by_adam(),
        optax.partition(
            {
                "orthogonal": optax.scale_by_learning_rate(orthogonal),
                "rest": optax.scale_by_learning_rate(rest),
            },
            labels,
        ),
        *([_scale_on_plateau(train)] if train.schedule == "plateau" else []),
        *([projection.unit_reflectors()] if train.unit_reflectors else []),
    )
    return optimizer, rest


# ---- The decay on a plateau: optax counts evaluations and keeps the scale in the
# optimizer's state; updates between them only read it.


def plateau_scale(opt_state: Any) -> Any:
    """What the learning rates are multiplied by now: 1 without a plateau schedule."""
    found = jax.tree.leaves(opt_state, is_leaf=_is_plateau)
    return next((node.scale for node in found if _is_plateau(node)), 1.0)


def make_observe(train: Any) -> Callable[[Any, float], Any]:
    """A function (optimizer state, validation loss) -> optimizer state.

    After `plateau_patience` losses in a row that were not below the best so far,
    by one part in 10,000 at least, the scale is multiplied by `plateau_factor`.
    Under another schedule nothing changes.
    """
    if train.schedule != "plateau":
        return lambda opt_state, loss: opt_state
    update = _reduce_on_plateau(train).update
    count = jax.jit(lambda node, loss: update((), node, value=loss)[1])

    def observe(opt_state: Any, loss: float) -> Any:
        return jax.tree.map(
            lambda node: count(node, loss) if _is_plateau(node) else node,
            opt_state,
            is_leaf=_is_plateau,
        )

    return observe


def _scale_on_plateau(train: Any) -> optax.GradientTransformation:
    """Multiplies updates by the scale of the state and leaves the state as it is."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return optax.tree.scale(state.scale, updates), state

    return optax.GradientTransformation(_reduce_on_plateau(train).init, update)


def _reduce_on_plateau(train: Any) -> optax.GradientTransformationExtraArgs:
    return contrib.reduce_on_plateau(train.plateau_factor, train.plateau_patience)


def _is_plateau(node: Any) -> bool:
    return isinstance(node, contrib.ReduceLROnPlateauState)
