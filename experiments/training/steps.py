"""One update and one evaluation step, jitted, for any task and model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import svdrnn
from experiments.tasks import base
from experiments.training import devices

Spec = jax.sharding.PartitionSpec


class TrainState(NamedTuple):
    """All that changes from step to step, as a pytree.

    Nothing random is kept: the batch and the dropout key of a step are functions
    of (seed, step).
    """

    params: Any
    opt_state: Any
    step: jax.Array  # updates done
    carry: Any  # hidden state between the batches of a stateful task, else None
    rest: Any  # what the model keeps besides parameters
    first_bad_step: jax.Array  # -1 while losses are finite; then nothing changes


class Settings(NamedTuple):
    """What is the same at every step and differs from run to run, as a pytree.

    An argument of the step and no constant in it, so that runs which differ in nothing
    else share its program.
    """

    dropout_key: jax.Array  # as `jax.random.key_data` gives it
    numbers: Any = None  # of the optimizer, see `optimizers.numbers`


# Where the parts of it lie, where there are several devices: carry with its examples.
LIES = TrainState._make(
    Spec(devices.BATCH) if name == "carry" else Spec() for name in TrainState._fields
)


def place(state: TrainState, spread: devices.Spread) -> TrainState:
    """The state on the devices."""
    carry = spread.split(state.carry)
    return spread.everywhere(state._replace(carry=None))._replace(carry=carry)


def initial_state(
    params: Any, rest: Any, optimizer: optax.GradientTransformation, carry: Any = None
) -> TrainState:
    """The state before the first update; `params` and `rest` are pure dicts."""
    return TrainState(
        params=params,
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        carry=carry,
        rest=rest,
        first_bad_step=jnp.full((), -1, jnp.int32),
    )


def make_train_step(
    graph: Any,
    task: base.Task,
    make_optimizer: Callable[[Any], optax.GradientTransformation],
    spread: devices.Spread = devices.ONE,
) -> Callable[
    [TrainState, Settings, base.Batch], tuple[TrainState, tuple[base.Sums, dict]]
]:
    """One update, jitted: (state, settings, batch) -> (state, (sums, norms)).

    The state's buffers are donated. On several devices each computes the gradient of
    its share of the batch; they are summed once, see `devices.Spread.step`, and divided
    by the whole count.

    `grad_norm` is taken before clipping; `carry_grad_norm` is ||dL/dh_0||, of the mean
    loss with respect to the first hidden state of the batch in every layer (of an LSTM
    also its cell; in both directions where there are two), the "first-layer gradient"
    of the paper's figures; a feed-forward model has none. Once a loss or gradient is
    not finite its step is noted and the state stays as it was.

    Args:
      graph: what `nnx.merge` makes the model of.
      task: whose loss is minimized.
      make_optimizer: makes the optimizer of the numbers of the settings.
      spread: the devices that a batch is split over.
    """

    def total_loss(
        params: Any, carry: Any, state: TrainState, key: jax.Array, batch: base.Batch
    ) -> tuple[jax.Array, tuple[base.Sums, Any, Any]]:
        model = nnx.merge(graph, params, state.rest)
        # A key an example, so that no mask depends on how the batch is split.
        key = jax.random.fold_in(jax.random.wrap_key_data(key), state.step)
        examples = spread.examples(len(batch["inputs"]))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, examples)
        # Constrained kernels are built here, once, and not at every time step.
        baked = svdrnn.bake(model)
        outputs, carry = baked(batch["inputs"], carry, keys=keys, **_lengths(batch))
        sums = task.sums(outputs, batch)
        rest = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        carry = carry if task.stateful else None
        return sums["loss"], (sums, carry, rest)

    def share(
        state: TrainState, settings: Settings, batch: base.Batch
    ) -> tuple[Any, Any]:
        model = nnx.merge(graph, state.params, state.rest)
        first = first_carry(model, state.carry, batch, spread)
        gradient = jax.value_and_grad(total_loss, argnums=(0, 1), has_aux=True)
        (_, (sums, carry, rest)), (grads, carry_grads) = gradient(
            spread.vary(state.params), first, state, settings.dropout_key, batch
        )
        squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(carry_grads)]
        return (sums, grads, squares), (carry, rest)

    def update(
        state: TrainState, settings: Settings, total: Any, kept: Any
    ) -> tuple[TrainState, tuple[base.Sums, dict]]:
        (sums, grads, squares), (carry, rest) = total, kept
        loss = sums["loss"] / sums["count"]
        grads = jax.tree.map(
            lambda leaf: leaf / sums["count"].astype(leaf.dtype), grads
        )
        optimizer = make_optimizer(settings.numbers)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        norms = {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
        }
        if squares:
            norms["carry_grad_norm"] = jnp.sqrt(sum(squares)) / sums["count"]
        new = TrainState(
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            step=state.step + 1,
            carry=carry,
            rest=rest,
            first_bad_step=state.first_bad_step,
        )
        healthy = state.first_bad_step < 0
        finite = jnp.isfinite(loss) & jnp.isfinite(norms["grad_norm"])
        old = state._replace(
            first_bad_step=jnp.where(healthy, state.step + 1, state.first_bad_step)
        )
        state = jax.tree.map(lambda a, b: jnp.where(healthy & finite, a, b), new, old)
        return state, (sums, norms)

    return spread.step(share, update, LIES, (LIES.carry, LIES.rest))


def make_eval_step(
    graph: Any,
    task: base.Task,
    read: Callable[[jax.Array, base.Batch], Any] | None = None,
    spread: devices.Spread = devices.ONE,
) -> Callable[[Any, Any, Any, base.Batch], tuple[Any, Any]]:
    """What `read` makes of one batch: (params, rest, carry, batch) -> (that, carry).

    Jitted. `read` takes outputs and batch, on one device; None: the task's sums, of
    several devices those of each.
    """

    def eval_step(
        params: Any, rest: Any, carry: Any, batch: base.Batch
    ) -> tuple[Any, Any]:
        model = svdrnn.bake(nnx.merge(graph, params, rest))
        first = first_carry(model, carry, batch, spread)
        outputs, carry = model(batch["inputs"], first, **_lengths(batch))
        made = read(outputs, batch) if read else spread.own(task.sums(outputs, batch))
        return made, carry if task.stateful else None

    of_batch = Spec(devices.BATCH)
    return spread.over(eval_step, (Spec(), Spec(), of_batch), of_batch)


def _lengths(batch: base.Batch) -> dict[str, Any]:
    """The argument `lengths`, which a model has to take where the batch has them."""
    return {"lengths": batch["lengths"]} if "lengths" in batch else {}


def first_carry(
    model: Any, carry: Any, batch: base.Batch, spread: devices.Spread
) -> Any:
    """The carry of a batch before its first step.

    For a stateful task it is the carry after the batch before, or zeros where the batch
    says "reset". For other tasks, whose `carry` is None, it is the model's first carry.
    """
    if carry is None:
        return spread.vary(model.initialize_carry(len(batch["inputs"])))
    return jax.tree.map(lambda h: jnp.where(batch["reset"], 0, h), carry)
