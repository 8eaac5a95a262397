"""The recurrence h_t = phi(W h_{t-1} + M x_t + b) over a whole sequence.

W is the same matrix at every step, so whatever form it is applied in
(`svdrnn.transitions`) is built once a sequence, outside the time loop. Forms with the
pieces of a backward pass have one over time that is written by hand below; the others
are differentiated by JAX. The last state of a linear recurrence needs no loop
(`svdrnn.powers`).

Shapes here are time-major with one batch axis: (time, batch, features).
"""

import dataclasses
import enum
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Shaped

from svdrnn import _platform, checks, householder, powers
from svdrnn._autodiff import forward_mode_explained
from svdrnn._sharding import over_batch, vary_alike
from svdrnn._types import AnyArray
from svdrnn.activations import Activation
from svdrnn.transitions import Dense, Transition, batch_outer

# Up to this many input features M x_t is computed inside the time loop, where it costs
# less than writing and reading a projected (time, batch, n) array.
_PROJECT_IN_LOOP = 2

# On an accelerator so many steps are one iteration of the compiled loop, unless another
# number is asked for: fewer operations a step; the figures: docs/accelerators.md.
_UNROLL = 4


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["transition", "input_weights", "bias", "offset"],
    meta_fields=["activation", "precision"],
)
@dataclasses.dataclass(frozen=True, eq=False)  # a function: hashed as itself
class Step:
    """One step h_t = phi(W h_{t-1} + M x_t + b) of a recurrence whose W is built.

    A pytree, so that it goes through `jax.jit`, `jax.lax.scan` and `jax.export` as an
    argument. Called, it is compiled once for each shape of its arguments.

    Attributes:
      transition: W (n, n) in the form in which it is applied.
      input_weights: M (n, n_in).
      bias: b (n,), or None.
      offset: that of modReLU (n,), or None.
      activation: phi.
      precision: of the products; None is JAX's default.
    """

    transition: Transition
    input_weights: Float[AnyArray, "n n_in"]
    bias: Float[AnyArray, " n"] | None
    offset: Float[AnyArray, " n"] | None
    activation: Activation
    precision: Any = None

    def __call__(
        self,
        carry: Shaped[AnyArray, "*batch n"],
        inputs: Shaped[AnyArray, "*batch n_in"],
    ) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]:
        """(h_{t-1} (..., n), x_t (..., n_in)) -> (h_t, h_t), in the dtype of W.

        Raises:
          ValueError: arguments that are complex or whose shapes do not fit.
        """
        carry, inputs = jnp.asarray(carry), jnp.asarray(inputs)
        m = self.input_weights
        if m.ndim != 2 or m.shape[0] != self.transition.size:
            raise ValueError(
                f"input_weights must have shape ({self.transition.size}, n_in), got"
                f" {m.shape}"
            )
        n, features = m.shape
        _check_shapes(bias=(self.bias, (n,)), offset=(self.offset, (n,)))
        checks.check_real("carry", carry)
        checks.check_real("inputs", inputs)
        if inputs.ndim == 0 or inputs.shape[-1] != features:
            raise ValueError(
                f"inputs must have shape (..., {features}), got {inputs.shape}"
            )
        if carry.shape != (*inputs.shape[:-1], n):
            raise ValueError(
                f"carry must have shape {(*inputs.shape[:-1], n)}, got {carry.shape}"
            )
        h = _one_step(self, carry, inputs)
        return h, h

    def apply(
        self, carry: Shaped[Array, "*batch n"], inputs: Shaped[Array, "*batch n_in"]
    ) -> Float[Array, "*batch n"]:
        """h_t, without checks and not compiled by itself."""
        n = self.input_weights.shape[0]
        dtype = self.input_weights.dtype
        h, x = carry.astype(dtype).reshape(-1, n), inputs.astype(dtype)
        z = self.transition.apply(h, self.precision)[0].reshape(carry.shape)
        z = z + jnp.matmul(x, self.input_weights.T, precision=self.precision)
        if self.bias is not None:
            z = z + self.bias.reshape((1,) * (z.ndim - 1) + self.bias.shape)
        return self.activation(z, self.offset)


@jax.jit
def _one_step(step: Step, carry, inputs):
    return step.apply(carry, inputs)


@dataclasses.dataclass(frozen=True)
class _Static:
    """What a compiled recurrence is specialised to."""

    activation: Activation
    last_only: bool
    chunk: int | None
    unroll: int
    precision: Any
    platform: str  # see `_platform.name`

    @property
    def accelerator(self) -> bool:
        """Whether a step has few operations, and not few passes over its arrays."""
        return self.platform != "cpu"

    @property
    def by_item(self) -> bool:
        """Whether dL/d[M, b] is summed over the batch at the end alone."""
        return self.platform == "gpu"


def recurrence(
    transition: Transition,
    inputs: Float[AnyArray, "time batch n_in"],
    carry: Float[AnyArray, "batch n"],
    *,
    activation: Activation,
    input_weights: Float[AnyArray, "n n_in"],
    bias: Float[AnyArray, " n"] | None = None,
    offset: Float[AnyArray, " n"] | None = None,
    lengths: Integer[AnyArray, " batch"] | None = None,
    last_only: bool = False,
    chunk: int | None = None,
    unroll: int = 1,
    custom_backward: bool = True,
    precision: jax.lax.PrecisionLike = None,
    perturbations: Float[AnyArray, "time batch n"] | None = None,
    activation_every: int = 1,
    output_every: int = 1,
) -> tuple[Float[Array, "outputs batch n"] | None, Float[Array, "batch n"]]:
    """Runs h_t = phi_t(W h_{t-1} + M x_t + b) for t = 1 ... T.

    phi_t is phi, or with `activation_every` k phi where k divides t and the identity
    elsewhere.

    Where only the last state is wanted, or that after every k-th step, of items that
    all have T steps, linear steps are taken at once by powers of W (`svdrnn.powers`):
    the k up to a phi or to an output, or all of them where phi is the identity and the
    last state is wanted alone. That is so where it is cheaper and nothing asks for
    every step: `custom_backward=False`, a form without a backward pass of its own, an
    `activation_every` that does not divide `output_every`, and where phi is the
    identity `chunk` or an `unroll` above 1.

    Memory of the backward pass, of the loop: the T states, (time, batch, n), and as
    diagonal plus low rank on a CPU also C h, (time, batch, k), which there costs less
    to write than to compute again; with `chunk` of about sqrt(T) only O(sqrt(T)) of
    both.

    Args:
      transition: W, of size n, in one of the forms of `svdrnn.transitions`.
      inputs: (time, batch, n_in).
      carry: h_0, (batch, n).
      activation: phi.
      input_weights: M, (n, n_in).
      bias: b, (n,), or None.
      offset: the trained offset of modReLU, (n,); None for every other activation.
      lengths: (batch,) integers from 0 to T, which traced ones are trusted to be: item
        j ends after `lengths[j]` steps, and its last state is h_{lengths[j]}, for
        length 0 its h_0. None: all end after T.
      last_only: give no states but the last. Linear steps may then be taken at once, by
        powers of W, whose entries have to be finite; `unroll=2` takes them one by one.
      chunk: with `last_only`, keep one state in `chunk` and compute the others
        again in the backward pass (one more forward pass of time). Without
        `last_only` the states are returned, hence kept, and `chunk` has no effect
        on the hand-written backward pass.
      unroll: steps of the time loop in one iteration of the compiled loop; 1 is four
        where JAX's default device is a GPU or a TPU.
      custom_backward: use the hand-written backward pass where the form has one.
        False leaves differentiation to JAX, which forward mode (`jax.jvp`,
        `jax.jacfwd`) needs; `jax.hessian`, forward over reverse, works with both.
      precision: of the matrix products inside the loop; None is JAX's default (which
        is full float32 on a CPU, TF32 on recent GPUs, bfloat16 passes on a TPU).
      perturbations: zeros of the shape of all states, added to each h_t; the gradient
        with respect to them is dL/dh_t. Implies plain autodiff.
      activation_every: k, at least 1. Above 1 steps that are not taken at once are
        differentiated by JAX.
      output_every: l, at least 1: of the states only h_l, h_2l ... are given, T // l of
        them.

    Returns:
      `(states, last)`: (T // l, batch, n), None with `last_only`, and (batch, n).

    Raises:
      ValueError: for an `activation_every`, `output_every`, chunk or unroll below 1,
        shapes or dtypes that do not fit, lengths that are known and not in [0, T].
      TypeError: forward mode through the hand-written backward pass.
    """
    _check(
        *(transition.size, inputs, lengths),
        carry=carry,
        input_weights=input_weights,
        bias=bias,
        offset=offset,
        perturbations=perturbations,
    )
    if lengths is not None:
        # Narrow integers would wrap around where they are compared with steps.
        lengths = jnp.asarray(lengths).astype(jnp.int32)
    checks.check_integer("unroll", unroll)
    if chunk is not None:
        checks.check_integer("chunk", chunk)
    every = checks.check_integer("activation_every", activation_every)
    outputs = checks.check_integer("output_every", output_every)
    steps = inputs.shape[0]
    # An identity phi never acts, and no step has to be reached before an output.
    period = every
    if activation.linear:
        period = steps + 1 if last_only else outputs
    way = _choose_way(
        transition,
        inputs,
        activation=activation,
        period=period,
        lengths=lengths,
        only_ends=last_only or outputs % period == 0,
        chunk=chunk,
        unroll=unroll,
        custom_backward=custom_backward,
        perturbations=perturbations,
    )
    iterations = steps // period if way is _Way.AT_ONCE else steps
    if chunk is not None and (not last_only or chunk >= iterations):
        chunk = None
    platform = _platform.name()
    if platform != "cpu" and unroll == 1:
        unroll = _UNROLL
    static = _Static(activation, last_only, chunk, unroll, precision, platform)

    def run(transition, input_weights, bias, offset, inputs, carry, lengths, added):
        if way is _Way.AT_ONCE:
            weights = (transition, input_weights, bias, offset)
            states, last = _at_once(static, period, weights, inputs, carry)
            return _every(states, outputs // period), last
        drive, in_loop = _project(inputs, input_weights, bias, precision)
        operands = ((transition, in_loop, offset), drive, carry)
        weights, drive, carry = vary_alike(operands, lengths, added)
        if way is _Way.BY_JAX:
            weights = _narrowed(weights, carry.dtype)
            every_step = activation.linear or period == 1
            acts = None if every_step else _acts(steps, period)
            states, last = _plain(static, weights, drive, carry, lengths, added, acts)
        else:
            with forward_mode_explained():
                states, last = _recurrence(static, weights, drive, carry, lengths)
        return _every(states, outputs), last

    return over_batch(run, not last_only, inputs, carry)(
        *(transition, input_weights, bias, offset),
        *(inputs, carry, lengths, perturbations),
    )


class _Way(enum.Enum):
    """How the steps are taken; `_choose_way` says when."""

    AT_ONCE = "linear steps at once, by powers of W"
    BY_HAND = "one step after another, with the backward pass by hand"
    BY_JAX = "one step after another, differentiated by JAX"


def _choose_way(
    transition: Transition,
    inputs: AnyArray,
    *,
    activation: Activation,
    period: int,
    lengths: AnyArray | None,
    only_ends: bool,
    chunk: int | None,
    unroll: int,
    custom_backward: bool,
    perturbations: AnyArray | None,
) -> _Way:
    """The way in which a recurrence is run.

    * `AT_ONCE` where all of this holds: no state within a period is wanted, of items
      that all have T steps; steps between two phi are linear, or all are, and then
      neither `chunk` nor `unroll` asks for a loop; the backward pass may be by hand; it
      is cheaper (`powers.cheaper`).
    * `BY_HAND` else, where the backward pass may be by hand and phi acts at every step
      or never.
    * `BY_JAX` else.

    The backward pass may be by hand where the form has one, `custom_backward` is not
    False and no perturbations ask for the gradient of every state.

    Args:
      transition, inputs, activation, lengths, chunk, unroll, custom_backward,
        perturbations: those of `recurrence`.
      period: phi acts after every so many steps; if it is linear, every so many an
        output is wanted, or only the last where that is more than there are.
      only_ends: whether of the states of a period at most the last is wanted.
    """
    by_hand = transition.has_backward and custom_backward and perturbations is None
    if not by_hand:
        return _Way.BY_JAX
    if activation.linear:
        may_skip_steps = chunk is None and unroll == 1
    else:
        may_skip_steps = period > 1
    only_ends &= lengths is None
    if only_ends and may_skip_steps and _cheaper_at_once(transition, inputs, period):
        return _Way.AT_ONCE
    phi_at_some_steps = not activation.linear and period > 1
    return _Way.BY_JAX if phi_at_some_steps else _Way.BY_HAND


def _check(n, inputs, lengths, **arrays):
    """Raises ValueError unless shapes and dtypes fit those of the inputs."""
    if inputs.ndim != 3:
        raise ValueError(
            f"inputs must have shape (time, batch, n_in), got {inputs.shape}"
        )
    time, batch, features = inputs.shape
    shapes = {
        "carry": (batch, n),
        "input_weights": (n, features),
        "bias": (n,),
        "offset": (n,),
        "perturbations": (time, batch, n),
    }
    checks.check_floating("inputs", inputs)
    _check_shapes(**{name: (array, shapes[name]) for name, array in arrays.items()})
    if lengths is not None:
        checks.check_lengths("lengths", lengths, (batch,), time)


def _check_shapes(**arrays):
    """Raises ValueError unless each floating array, if it is there, has its shape."""
    for name, (array, shape) in arrays.items():
        if array is None:
            continue
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
        checks.check_floating(name, array)


def _narrowed(weights, dtype):
    """The weights in the dtype of the states.

    Inside a pass that sums gradients in float32, so that they reach what the weights
    are made of before they are rounded: a sum over many steps overflows float16.
    """
    return jax.tree.map(lambda leaf: leaf.astype(dtype), weights)


def _cheaper_at_once(transition, inputs, period):
    """Whether so many steps are cheaper at once than one after another."""
    steps, batch, features = inputs.shape
    size = min(period, steps)
    return size > 0 and powers.cheaper(
        *(transition.size, features + 1),
        steps=size,
        items=batch * (steps // size),
        multiplications=transition.multiplications,
    )


def _at_once(static, period, weights, inputs, carry):
    """States after every so many steps, by a loop, and the last, by none from there.

    There are no states where `static` says so.
    """
    transition, input_weights, bias, offset = weights
    w = transition.matrix()
    inputs, m = _augmented(inputs, input_weights, bias)
    steps = inputs.shape[0] // period * period
    states = None if static.last_only else carry[None][:0]
    if steps:
        power, columns = powers.block(w, m, period)
        drive = jnp.matmul(
            powers.lagged(inputs[:steps], period),
            columns.T.astype(inputs.dtype),
            precision=static.precision,
        )
        operands = ((Dense(power), None, offset), drive, carry)
        with forward_mode_explained():
            states, carry = _recurrence(static, *vary_alike(operands), None)
    if steps < inputs.shape[0]:
        carry = powers.last_state(w, inputs[steps:], carry, m, static.precision)
    return states, carry


def _every(states, count):
    """Every so many-th of the states, where there are any."""
    return states if states is None or count == 1 else states[count - 1 :: count]


def _acts(steps, period):
    """(time,) flags of the steps after which phi acts."""
    return np.arange(1, steps + 1) % period == 0


def _augmented(inputs, input_weights, bias):
    """[x_t, 1] of every step, and [M, b]."""
    if bias is None:
        bias = jnp.zeros(input_weights.shape[:1], input_weights.dtype)
    ones = jnp.ones(inputs.shape[:-1] + (1,), inputs.dtype)
    augmented = jnp.concatenate([inputs, ones], axis=-1)
    return augmented, jnp.concatenate([input_weights, bias[:, None]], axis=1)


def _project(inputs, input_weights, bias, precision):
    """The drive of every step, and the weights still to be applied inside the loop.

    Few features: the drive is [x_t, 1] and the loop applies [M, b] to it. Many: the
    drive is M x_t + b, one large product before the loop.
    """
    if input_weights.shape[1] <= _PROJECT_IN_LOOP:
        return _augmented(inputs, input_weights, bias)
    projected = jnp.matmul(inputs, input_weights.T, precision=precision)
    if bias is None:
        return projected, None
    # In float32, so that the gradient of a narrow bias is summed in it.
    dtype = jnp.result_type(projected, bias)
    wide = householder.factor_dtype(dtype)
    drive = projected.astype(wide) + bias[None, None].astype(wide)
    return drive.astype(dtype), None


def _step(static, weights, h, x, acts=None):
    """One step for a batch: h (batch, n), x (batch, p) or (batch, n).

    Without `acts`, a flag, phi acts at every step.

    Returns:
      The state, and what the backward pass needs of the step besides it: what the
      transition keeps, and z where the activation's derivative takes it.
    """
    transition, in_loop, offset = weights
    z, kept = transition.apply(h, static.precision)
    if in_loop is None:
        z = z + x
    elif isinstance(in_loop, tuple):
        *columns, bias = in_loop
        for feature, column in zip(x, columns, strict=True):
            z = z + feature[:, None] * column[None]
        z = z + bias[None]
    else:
        # Written out by feature, so that it fuses with what surrounds it.
        for j in range(in_loop.shape[1]):
            z = z + x[:, j : j + 1] * in_loop[None, :, j]
    h = static.activation(z, offset)
    if acts is not None:
        h = jnp.where(acts, h, z)
    if static.accelerator:
        kept = None
    return h, (kept, None if static.activation.reads_output else z)


def _in_columns(static, weights, drive):
    """Weights and drive as `_step` takes them: [M, b] and x, or their columns."""
    transition, in_loop, offset = weights
    if in_loop is None or not static.accelerator:
        return weights, drive
    columns = tuple(in_loop[:, j] for j in range(in_loop.shape[1]))
    features = tuple(drive[..., j] for j in range(drive.shape[-1] - 1))
    return (transition, columns, offset), features


def _states(static, weights, drive, h):
    """All states (time, batch, n) from h_0, and what `_step` keeps of them."""
    weights, drive = _in_columns(static, weights, drive)

    def step(h, x):
        h, kept = _step(static, weights, h, x)
        return h, (h, kept)

    return jax.lax.scan(step, h, drive, unroll=static.unroll)


def _ends(lengths, first, steps):
    """(time, batch) flags of the steps after which each item ends, or None."""
    if lengths is None:
        return None
    t = jnp.arange(1, steps + 1, dtype=lengths.dtype) + first
    return t[:, None] == lengths[None]


def _advance(static, weights, drive, state, ends, acts=None):
    """(h, final) after some steps, where final is the state each item ended in.

    Without lengths (`ends` None) every item ends at the last step: final is h.
    """
    weights, drive = _in_columns(static, weights, drive)

    def step(state, xs):
        h, final = state
        x, ends, acts = xs
        h, _ = _step(static, weights, h, x, acts)
        return (h, h if ends is None else jnp.where(ends[:, None], h, final)), None

    return jax.lax.scan(step, state, (drive, ends, acts), unroll=static.unroll)[0]


def _final(states, carry, lengths):
    """The state each item ended in, picked from all states."""
    if lengths is None:
        return states[-1] if states.shape[0] else carry
    if not states.shape[0]:
        return carry
    index = jnp.maximum(lengths - 1, 0)[None, :, None]
    ended = jnp.take_along_axis(states, index, axis=0)[0]
    return jnp.where((lengths > 0)[:, None], ended, carry)


def _chunks(xs, size):
    """(count, size, ...) whole chunks of the time axis, and the steps left over."""

    def split(x):
        count = x.shape[0] // size
        return x[: count * size].reshape((count, size) + x.shape[1:])

    def rest(x):
        return x[x.shape[0] // size * size :]

    return jax.tree.map(split, xs), jax.tree.map(rest, xs)


# --- plain autodiff -----------------------------------------------------------------


def _plain(static, weights, drive, carry, lengths, perturbations, acts):
    if static.last_only and perturbations is None:
        advance = functools.partial(_advance, static)
        ends = _ends(lengths, 0, drive.shape[0])
        if static.chunk is None:
            return None, advance(weights, drive, (carry, carry), ends, acts)[1]
        advance = jax.checkpoint(advance)
        whole, rest = _chunks((drive, ends, acts), static.chunk)
        state, _ = jax.lax.scan(
            lambda state, xs: (advance(weights, xs[0], state, *xs[1:]), None),
            (carry, carry),
            whole,
        )
        return None, advance(weights, rest[0], state, *rest[1:])[1]

    def step(h, xs):
        x, perturbation, acts = xs
        h, _ = _step(static, weights, h, x, acts)
        h = h if perturbation is None else h + perturbation
        return h, h

    xs = (drive, perturbations, acts)
    _, states = jax.lax.scan(step, carry, xs, unroll=static.unroll)
    return (None if static.last_only else states), _final(states, carry, lengths)


# --- hand-written backward pass -----------------------------------------------------
#
# With z_t = W h_{t-1} + M x_t + b, g_t = dL/dh_t and delta_t = g_t * phi'(z_t):
#
#   g_{t-1} = W^T delta_t  (+ what the loss adds at h_{t-1})
#   dL/dW   = sum_t delta_t h_{t-1}^T,  dL/d[M, b] = sum_t delta_t [x_t, 1]^T
#
# The loop runs from T to 1 and reads h_t at step t, for phi'. The transition's gradient
# of step t + 1 needs the same h_t, so it is added one iteration late: delta_{t+1}
# travels in the carry, and no shifted copy of the states is ever made.
#
# On an accelerator a step of a small n takes as long as it has operations, and there it
# has fewer (the figures: docs/accelerators.md):
# - x_t and [M, b] are cut into columns before the loop and not at every step;
# - C h is computed again, which is one operation, where to keep it is two;
# - what W^T delta has besides products, diag delta, is added at the next step, in the
#   operation that computes delta there;
# - on a GPU dL/d[M, b] is summed for every item, as dL/ddiag is, in that operation too.
#   On a TPU one product is less than to cut x_t into columns for it.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(static, weights, drive, carry, lengths):
    return _forward(static, weights, drive, carry, lengths)[0]


def _forward(static, wide_weights, drive, carry, lengths):
    weights = _narrowed(wide_weights, carry.dtype)
    if static.chunk is None:
        _, (states, kept) = _states(static, weights, drive, carry)
        out = (None if static.last_only else states), _final(states, carry, lengths)
        return out, (wide_weights, drive, carry, lengths, (states, kept))

    def chunk(state, xs):
        return _advance(static, weights, xs[0], state, xs[1]), state[0]

    whole, rest = _chunks((drive, _ends(lengths, 0, drive.shape[0])), static.chunk)
    state, starts = jax.lax.scan(chunk, (carry, carry), whole)
    final = _advance(static, weights, rest[0], state, rest[1])[1]
    # Kept: the state before each whole chunk, and the one before the rest.
    kept = (starts, state[0])
    return (None, final), (wide_weights, drive, carry, lengths, kept)


def _backward(static, residuals, cotangents):
    wide_weights, drive, carry, lengths, states = residuals
    weights = _narrowed(wide_weights, carry.dtype)
    from_states, from_final = cotangents
    ends = _ends(lengths, 0, drive.shape[0])
    state = _begin(static, weights, from_final, carry, lengths)
    back = functools.partial(_backward_steps, static, weights, from_final)
    if static.chunk is None:
        state, d_drive = back(state, (states, drive, from_states, ends))
    else:
        starts, rest_start = states
        whole, rest = _chunks((drive, ends), static.chunk)

        def chunk(state, xs):
            start, (drive, ends) = xs
            _, states = _states(static, weights, drive, start)
            return back(state, (states, drive, None, ends))

        state, d_rest = chunk(state, (rest_start, rest))
        state, d_whole = jax.lax.scan(chunk, state, (starts, whole), reverse=True)
        # Named, since -1 is not told from a batch of no items.
        steps = d_whole.shape[0] * d_whole.shape[1]
        d_whole = d_whole.reshape((steps,) + d_rest.shape[1:])
        d_drive = jnp.concatenate([d_whole, d_rest])
    d_weights, g = _end(static, weights, state, from_final, carry, lengths)
    d_weights = jax.tree.map(
        lambda total, leaf: total.astype(leaf.dtype), d_weights, wide_weights
    )
    return d_weights, d_drive, g, None


def _begin(static, weights, from_final, carry, lengths):
    """(g, delta, (kept, aux), totals) before the last step has been looked at."""
    transition, in_loop, offset = weights
    batch = carry.shape[0]
    # Sums over the whole sequence are kept in float32 at least.
    dtype = householder.factor_dtype(carry.dtype)
    delta = jnp.zeros_like(carry)
    _, kept = transition.apply(delta, static.precision)
    _, aux = transition.pull_back(delta, static.precision)
    if static.accelerator:
        kept = None
    zeros = (
        transition.zero_gradient(batch, dtype),
        None if in_loop is None else _zero_in_loop(static, in_loop, batch, dtype),
        None if offset is None else jnp.zeros(carry.shape, dtype),
    )
    totals = vary_alike(zeros, carry)
    g = from_final if lengths is None else delta
    return g, delta, (kept, aux), totals


def _backward_steps(static, weights, from_final, state, xs):
    """Steps back through `xs` = (states, drive, cotangents of states, ends)."""
    transition, in_loop, offset = weights

    def step(state, xs):
        g, delta, later, (d_transition, d_in_loop, d_offset) = state
        (h, (kept, z)), x, from_state, ends = xs
        if static.accelerator:
            g = transition.completed(g, delta)
        if from_state is not None:
            g = g + from_state
        if ends is not None:
            g = g + jnp.where(ends[:, None], from_final, jnp.zeros_like(from_final))
        d_transition = transition.accumulate(
            d_transition, h, later[0], delta, later[1], static.precision
        )
        delta = static.activation.pull_back(g, h, z)
        whole = not static.accelerator
        g, aux = transition.pull_back(delta, static.precision, whole=whole)
        d_x = delta
        if in_loop is not None:
            d_in_loop = _add_in_loop(static, d_in_loop, x, delta)
            d_x = jnp.matmul(delta, in_loop, precision=static.precision)
        if offset is not None:
            d_offset += (jnp.sign(h) * delta).astype(d_offset.dtype)
        return (g, delta, (kept, aux), (d_transition, d_in_loop, d_offset)), d_x

    return jax.lax.scan(step, state, xs, reverse=True, unroll=static.unroll)


def _zero_in_loop(static, in_loop, batch, dtype):
    """The gradient to [M, b] before the first step, (p, n) or a column an item."""
    if not static.by_item:
        return jnp.zeros(in_loop.T.shape, dtype)
    n, features = in_loop.shape
    return (jnp.zeros((batch, n), dtype),) * features


def _add_in_loop(static, total, x, delta):
    """That gradient, with the part of a step: delta x^T."""
    if not static.by_item:
        return total + batch_outer(x, delta, total.dtype, static.precision)
    *columns, bias = total
    return (
        *(
            column + (x[:, j : j + 1] * delta).astype(column.dtype)
            for j, column in enumerate(columns)
        ),
        bias + delta.astype(bias.dtype),
    )


def _end(static, weights, state, from_final, carry, lengths):
    """The gradients to the weights, as they were summed, and to the carry."""
    transition, in_loop, offset = weights
    g, delta, later, (d_transition, d_in_loop, d_offset) = state
    if static.accelerator:
        g = transition.completed(g, delta)
    if static.by_item and in_loop is not None:
        d_in_loop = jnp.stack([column.sum(0) for column in d_in_loop])
    d_transition = transition.accumulate(
        d_transition, carry, later[0], delta, later[1], static.precision
    )
    if lengths is not None:
        g = g + jnp.where((lengths == 0)[:, None], from_final, jnp.zeros_like(g))
    d_weights = (
        transition.finish(d_transition),
        None if in_loop is None else d_in_loop.T,
        None if offset is None else d_offset.sum(0),
    )
    return d_weights, g


_recurrence.defvjp(_forward, _backward)
