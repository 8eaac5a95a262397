"""From `config.train` to an optax optimizer, all of whose parts are optax's own."""

import functools
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from experiments import checks
from svdrnn import projection

# Each scales gradients to steps, before the learning rate.
OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "adam": lambda train: optax.scale_by_adam(),
    "adamw": lambda train: optax.scale_by_adam(),
    "rmsprop": lambda train: optax.scale_by_rms(),
    "sgd": lambda train: optax.trace(train.momentum),
    "lion": lambda train: optax.scale_by_lion(),
}

# Schedules whose learning rate is the same at every step.
CONSTANT = ("constant", "plateau")

# Those whose weight decay does not go through the scaling of gradients.
DECOUPLED = ("adamw", "lion")

# Last names in the path of a parameter that an orthogonal matrix is made from, and of
# all that a constrained one is made from.
ORTHOGONAL = (*projection.REFLECTORS, "skew_entries")
SIGMA = "sigma_raw"
CONSTRAINED = (*ORTHOGONAL, SIGMA)


def check(train: Any) -> None:
    """Raises ValueError for a warm-up that is not one of the cosine schedule."""
    if train.warmup_steps and train.schedule != "cosine":
        raise ValueError(
            "config.train.warmup_steps must be 0 unless config.train.schedule is"
            f" 'cosine', got {train.warmup_steps}"
        )


class Numbers(NamedTuple):
    """The numbers of an optimizer that may be arguments of a program, as a pytree.

    Attributes:
      peaks: the highest learning rate of every part, by the names of `labels`.
      decay_rate: that of the exponential schedule.
      weight_decay: that of the config.
    """

    peaks: dict[str, Any]
    decay_rate: Any
    weight_decay: Any


def numbers(train: Any, restores: int = 0) -> Numbers:
    """The numbers of `config.train`, with learning rates halved `restores` times."""
    # A field that takes None takes whole numbers too, which JAX would bound.
    own = {name: float(rate) for name, rate in train.rates.items() if rate is not None}
    orthogonal = own.pop("reflectors", train.learning_rate)
    peaks = {"rest": train.learning_rate, "orthogonal": orthogonal, **own}
    return Numbers(
        {name: peak * 0.5**restores for name, peak in peaks.items()},
        train.decay_rate,
        train.weight_decay,
    )


def schedule(
    train: Any,
    peak: Any,
    decay_rate: Any,
    *,
    steps: int,
    steps_per_epoch: int | None,
) -> optax.Schedule:
    """The learning rate of update k (from 0).

    constant: peak. exponential: peak * decay_rate ** epoch, in steps of an epoch.
    cosine: linear from 0 to peak over `warmup_steps`, then half a cosine to 0 at
    `steps`. plateau: peak, which the optimizer multiplies by `plateau_scale`.

    Args:
      train: `config.train`; reads schedule and warmup_steps.
      peak: the highest learning rate.
      decay_rate: of the exponential schedule.
      steps: updates in the whole run.
      steps_per_epoch: updates in an epoch; needed by the exponential schedule.

    Raises:
      ValueError: an unknown name, an exponential schedule without an epoch, or a
        warm-up of as many steps as the run or more.
    """
    checks.check_field("train.schedule", train.schedule)
    if train.schedule in CONSTANT:
        return optax.constant_schedule(peak)
    if train.schedule == "exponential":
        if steps_per_epoch is None:
            raise ValueError(
                "config.train.schedule 'exponential' decays once an epoch: set"
                " config.train.steps_per_epoch for a task without epochs"
            )

        def exponential(k: Any) -> jax.Array:
            # Of integers: k / steps_per_epoch, compiled, can be just below a whole one.
            epoch = (jnp.asarray(k) // steps_per_epoch).astype(jnp.float32)
            return peak * decay_rate**epoch

        # Not by optax, whose decay rate must not be an argument of a program.
        return exponential
    if train.warmup_steps >= steps:
        raise ValueError(
            "config.train.warmup_steps must be less than the number of steps,"
            f" {steps}, got {train.warmup_steps}"
        )
    cosine = optax.cosine_decay_schedule(peak, steps - train.warmup_steps)
    if not train.warmup_steps:
        return cosine
    rise = optax.linear_schedule(0.0, peak, train.warmup_steps)
    return optax.join_schedules([rise, cosine], [train.warmup_steps])


def labels(params: Any, parts: Container[str] = ()) -> Any:
    """The tree of `params` with "orthogonal", one of `parts` or "rest" for every array.

    Args:
      params: the parameters of a model.
      parts: those of `config.train.rates`, beside reflectors, that have a learning rate
        of their own. "inputs" are M and b of the layers of a model of sequences, by the
        names that they have here or in flax's cells; "readout" is all of its readout.
    """

    def label(path: Any, _: Any) -> str:
        keys = [entry.key for entry in path]
        if keys[-1] in ORTHOGONAL:
            return "orthogonal"
        part = _part(keys)
        return part if part and part in parts else "rest"

    return jax.tree_util.tree_map_with_path(label, params)


def _part(keys: list[Any]) -> str | None:
    """The part of `config.train.rates` that the parameter at a path belongs to."""
    if keys[-1] == SIGMA:
        return "singular_values"
    of_layer = keys[0] == "layers" and not {"norm", "gates"} & {*keys}  # of its block
    if of_layer and (keys[-1] in ("input_weights", "bias") or "dense_i" in keys):
        return "inputs"
    return "readout" if keys[0] == "readout" else None


def decays(params: Any, constrained: bool) -> Any:
    """The tree of `params` with whether weight decay acts on an array.

    It acts on arrays of two axes or more but for biases, which have two where layers
    are stacked, and not on what constrained matrices are made from unless
    `constrained`: then on that too, the raw singular values with it.
    W does not depend on the length of a reflector, which sets how far a step turns it:
    decay would only raise its learning rate as training goes on.
    """

    def decay(path: Any, param: Any) -> bool:
        name = path[-1].key
        if name in CONSTRAINED:
            return constrained
        return param.ndim > 1 and name != "bias"

    return jax.tree_util.tree_map_with_path(decay, params)


def build(
    train: Any,
    values: Numbers | None = None,
    *,
    steps: int,
    steps_per_epoch: int | None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer, with parts at learning rates of their own.

    Its numbers are `values`, which may be traced; None takes those of `train`.

    Clipping is by the norm of all gradients together; `clip_norm` None or 0 means
    none. `weight_decay` is added to the clipped gradient, or with those in `DECOUPLED`
    to the scaled one, as a multiple of the parameters that `decays` names.
    `rates.reflectors` is that of all that `ORTHOGONAL` names: reflectors and the
    skew-symmetric matrices of exprnn and scornn; the other `rates` are those of what
    `labels` says. `unit_reflectors` scales reflectors to length 1 after every update.
    `ema` keeps an average of what the updates lead to, see `averaged`.

    Returns:
      The optimizer and the schedule of the parameters without a rate of their own,
      without `plateau_scale`.

    Raises:
      ValueError: see `schedule`.
    """
    values = numbers(train) if values is None else values
    of_length = functools.partial(
        schedule, train, steps=steps, steps_per_epoch=steps_per_epoch
    )
    schedules = {
        name: of_length(peak, values.decay_rate) for name, peak in values.peaks.items()
    }
    clip = (
        optax.clip_by_global_norm(float(train.clip_norm)) if train.clip_norm else None
    )
    scaling = [OPTIMIZERS[train.optimizer](train)]
    if train.weight_decay:
        mask = functools.partial(decays, constrained=train.decay_constrained)
        decay = optax.add_decayed_weights(values.weight_decay, mask)
        scaling.insert(train.optimizer in DECOUPLED, decay)
    # Checkpoints hold the states of these in this order: one that is off adds none, nor
    # does a part without a rate of its own.
    optimizer = optax.chain(
        clip or optax.identity(),
        *scaling,
        optax.partition(
            {name: optax.scale_by_learning_rate(s) for name, s in schedules.items()},
            functools.partial(labels, parts=schedules.keys() - {"orthogonal", "rest"}),
        ),
        *([_scale_on_plateau(train)] if train.schedule == "plateau" else []),
        *([projection.unit_reflectors()] if train.unit_reflectors else []),
        *([_average(train.ema)] if train.ema else []),
    )
    return optimizer, schedules["rest"]


# ---- The average of the parameters, kept in the optimizer's state: a checkpoint has
# it, and one without an average is as it was before there were any.


def make_averaged(train: Any) -> Callable[[Any], Any]:
    """A function from a train state to the one to be evaluated.

    After k updates that led to parameters p_1 ... p_k, with `ema` = d, its parameters
    are (1 - d) / (1 - d^k) sum_i d^(k-i) p_i; without `ema` the state is as it was. A
    constrained matrix of averaged parameters keeps its constraint.
    """
    if not train.ema:
        return lambda state: state

    def averaged(state: Any) -> Any:
        nodes = jax.tree.leaves(state.opt_state, is_leaf=_is_average)
        average = next(filter(_is_average, nodes))
        params = optax.tree.bias_correction(average.ema, train.ema, average.count)
        return state._replace(params=params)

    return averaged


def _average(decay: float) -> optax.GradientTransformation:
    """Leaves updates alone and averages the parameters that they lead to."""
    average = optax.ema(decay, debias=False)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _, state = average.update(optax.apply_updates(params, updates), state)
        return updates, state

    return optax.GradientTransformation(average.init, update)


def _is_average(node: Any) -> bool:
    return isinstance(node, optax.EmaState)


# ---- The decay on a plateau: optax counts evaluations and keeps the scale in the
# optimizer's state; updates between them only read it.


def plateau_scale(opt_state: Any) -> Any:
    """What the learning rates are multiplied by now: 1 without a plateau schedule."""
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_plateau)
    scales = (jax.device_get(node.scale) for node in nodes if _is_plateau(node))
    return next(scales, 1.0)


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
