"""A model as one file that JAX runs alone: its function by `jax.export`."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx

import svdrnn
from experiments.tasks import base
from svdrnn import checks

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    model: Any,
    task: base.Task,
    *,
    streaming: bool = False,
    platforms: Sequence[str] | None = None,
) -> jax.export.Exported:
    """The function of a model for its task, with the parameters in it.

    It takes what `task.prepare` takes, (batch, time, ...) or without a time axis
    (batch, ...), for any batch, and gives what `task.finish` makes of the model's
    outputs. Where the task's sequences have lengths of their own, those, (batch,)
    int32, are a second argument. Any number of time steps is taken where the model can
    be traced for it, else that of the task's own batches: `in_avals` of what is
    returned say which.

    Args:
      model: see `loading.load`.
      task: of the model, with its data.
      streaming: one step instead, (carry, inputs of the step) -> (carry, outputs); the
        first carry is zeros.
      platforms: those of `PLATFORMS` that it is to run on. None are all, or where the
        model cannot be lowered for one of them, the CPU alone.

    Raises:
      ValueError: an unknown platform, one that the model cannot be lowered for, or
        `streaming` of a model or of inputs that do not go step by step.
    """
    if platforms is not None:
        for platform in platforms or ("",):
            checks.check_name("platforms", platform, PLATFORMS)
    if streaming and not task.sequential:
        raise ValueError(
            f"streaming must be False for {task.name}, whose inputs have no time axis,"
            " got True"
        )
    if streaming and not task.by_steps:
        raise ValueError(
            f"streaming must be False for {task.name} whose missing values are filled"
            " by steps before them, as by config.task.fill 'previous', got True"
        )
    example = next(iter(task.eval_batches("valid")))
    inputs = jnp.asarray(example["inputs"])
    batch, time = jax.export.symbolic_shape("batch, time")
    if streaming:
        carry = jax.eval_shape(lambda: model.initialize_carry(1, streaming=True))
        first = jax.tree.map(lambda x: _resized(x, batch), (carry, inputs[:, 0]))
        return _export(_step(model, task), first, platforms)
    function = _whole(model, task)
    lengths = [jax.ShapeDtypeStruct((batch,), jnp.int32)] * ("lengths" in example)
    if task.sequential:
        # Whatever keeps a model from any number of steps: it has the task's.
        with contextlib.suppress(Exception):
            free = _resized(inputs, batch, time)
            return _export(function, (free, *lengths), platforms)
    return _export(function, (_resized(inputs, batch), *lengths), platforms)


def _resized(x: Any, *sizes: Any) -> jax.ShapeDtypeStruct:
    """An array like x with other sizes of its first axes."""
    return jax.ShapeDtypeStruct((*sizes, *x.shape[len(sizes) :]), x.dtype)


def _whole(model: Any, task: base.Task) -> Callable[..., jax.Array]:
    """Raw inputs, and lengths where the task has them -> outputs."""
    # Taken apart and put together again where it is traced, as flax asks for.
    graph, state = nnx.split(svdrnn.bake(model))
    arrays = nnx.to_pure_dict(state)

    def whole(raw: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        of_items = {} if lengths is None else {"lengths": lengths}
        outputs, _ = nnx.merge(graph, arrays)(task.prepare(raw), **of_items)
        return task.finish(outputs)

    return whole


def _step(
    model: Any, task: base.Task
) -> Callable[[Any, jax.Array], tuple[Any, jax.Array]]:
    """(carry, raw inputs of a step) -> (carry, outputs)."""
    advance = model.stream()

    def step(carry: Any, raw: jax.Array) -> tuple[Any, jax.Array]:
        # The task prepares sequences: here one of a single step.
        carry, outputs = advance(carry, task.prepare(raw[:, None])[:, 0])
        return carry, task.finish(outputs)

    return step


def _export(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    platforms: Sequence[str] | None,
) -> jax.export.Exported:
    """The exported function for the platforms, see `export`."""
    lowered = jax.jit(function)
    if platforms is None:
        with contextlib.suppress(Exception):  # whatever keeps it from one of them
            return jax.export.export(lowered, platforms=PLATFORMS)(*arguments)
        return jax.export.export(lowered, platforms=("cpu",))(*arguments)
    try:
        return jax.export.export(lowered, platforms=platforms)(*arguments)
    except Exception as error:  # of many kinds
        reason = str(error).split("\n")[0]
        raise ValueError(
            "platforms must be such as the model can be lowered for, got"
            f" {', '.join(platforms)}: {reason}"
        ) from error
