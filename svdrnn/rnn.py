"""Recurrent layers: a cell over whole sequences, with W prepared once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Literal, TypedDict, Unpack, overload

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from svdrnn import checks, recurrence
from svdrnn._arguments import argument, arguments, make, module
from svdrnn._flax import flip_sequences
from svdrnn._types import AnyArray
from svdrnn.cells import (
    CellArguments,
    DenseRNNCell,
    MethodArguments,
    OrthogonalRNNCell,
    SizeArguments,
    SpectralRNNCell,
    TransitionCell,
)
from svdrnn.matrices import DenseArguments, OrthogonalArguments, SpectralArguments


class _CallOptions(TypedDict, total=False):
    """The call arguments of a layer besides those that decide what it returns."""

    initial_carry: Array | None
    seq_lengths: ArrayLike | None
    time_major: bool | None
    reverse: bool | None
    keep_order: bool | None
    rngs: nnx.Rngs | nnx.RngStream | None
    perturbations: Array | None


@module
class TransitionRNN(nnx.Module):
    """A `TransitionCell` over whole sequences: `nnx.RNN` with W prepared once.

    Takes the call arguments of `nnx.RNN` and returns what it returns, so that one
    replaces the other, but the transition is built once a sequence and the recurrence
    has a hand-written backward pass (`svdrnn.recurrence`). Beyond `nnx.RNN`: an item
    of length 0 returns its initial carry; `seq_lengths` works with any number of batch
    axes; `last_only` never stacks the outputs, and with an identity activation takes
    log2(T) products of matrices instead of T steps where that is cheaper
    (`svdrnn.powers`).

    Raises:
      ValueError: for an `unroll` or a `chunk` below 1.
    """

    cell: TransitionCell = argument(
        "the cell, whose parameters are all there are.", kw_only=False
    )
    time_major: bool = argument(
        "default of the call: whether time is the first axis.", default=False
    )
    return_carry: bool = argument(
        "default of the call: also return the state each item ended in.", default=False
    )
    reverse: bool = argument(
        "default of the call: run from the last step to the first.", default=False
    )
    keep_order: bool = argument(
        "default of the call: with `reverse`, outputs in the order of the inputs.",
        default=False,
    )
    unroll: int = argument(
        "time steps in one iteration of the compiled loop; above 1 there is a loop.",
        default=1,
    )
    chunk: int | None = argument(
        """with `last_only`, keep one state in `chunk` for the backward pass and compute
        the others again: memory O(chunk + T / chunk), one more forward pass.""",
        default=None,
    )

    activation_every: int = argument(
        """k: phi acts after every k-th step of a call, and steps between are linear.
        Above 1 it is an error with an identity phi.""",
        default=1,
    )

    def __post_init__(self, *values):
        del values
        self.unroll = checks.check_integer("unroll", self.unroll)
        every = checks.check_integer("activation_every", self.activation_every)
        if every > 1 and self.cell.activation.linear:
            raise ValueError(
                "activation_every must be 1 with an identity activation, which is"
                f" linear at every step, got {every}"
            )
        if self.chunk is not None:
            self.chunk = checks.check_integer("chunk", self.chunk)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Callable[..., Array] | None = None,
    ) -> Float[Array, "*batch n"]:
        """h_0 for inputs of one step, (..., n_in) -> (..., n): zeros by default.

        Args:
          input_shape: shape of the inputs without their time axis.
          rngs: needed by a `carry_init` that draws random numbers.
          carry_init: an initializer `(key, shape, dtype)`.

        Raises:
          ValueError: a `carry_init` without `rngs`.
        """
        return self.cell.initialize_carry(input_shape, rngs, carry_init)

    def prepare(
        self, batch_shape: tuple[int, ...] = ()
    ) -> tuple[recurrence.Step, Float[Array, "*batch n"]]:
        """A step and a first carry, for inputs that come one at a time.

        `step(carry, x_t)` is `(h_t, h_t)`, with W built once, here. It keeps the values
        that the parameters have now, and the layer's options of a call do not matter to
        it: it goes forward in time.

        Args:
          batch_shape: of the inputs, without their features.

        Returns:
          The step, for carries (*batch, n) and inputs (*batch, n_in), and zeros
          (*batch, n).

        Raises:
          ValueError: `activation_every` is not 1: a step does not know its number.
        """
        if self.activation_every != 1:
            raise ValueError(
                "activation_every must be 1 for steps one at a time, got"
                f" {self.activation_every}"
            )
        carry = self.initialize_carry((*batch_shape, self.cell.in_features))
        return self.cell.step(carry), carry

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        return_carry: Literal[True],
        last_only: Literal[False] = False,
        **options: Unpack[_CallOptions],
    ) -> tuple[Array, Array]: ...

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        return_carry: Literal[False] | None = None,
        last_only: bool = False,
        **options: Unpack[_CallOptions],
    ) -> Array: ...

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        return_carry: bool | None = None,
        last_only: Literal[True],
        **options: Unpack[_CallOptions],
    ) -> Array: ...

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: Float[AnyArray, "*batch n"] | None = None,
        seq_lengths: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        last_only: bool = False,
        perturbations: Float[AnyArray, "..."] | None = None,
    ) -> Array | tuple[Array, Array]:
        """Runs the recurrence over inputs (*batch, time, n_in).

        Args:
          inputs: batch axes (any number, also none), time, features; with
            `time_major` time comes first. No step at all gives no outputs, and the
            initial carry.
          initial_carry: h_0, (*batch, n); zeros where None.
          seq_lengths: (*batch,) integers from 0 to T. They decide the carry that is
            returned and what `reverse` flips; outputs behind an item's end are not
            masked.
          return_carry: also return the state each item ended in.
          time_major: whether time is the first axis of inputs and outputs.
          reverse: run from the last step (of each item) to the first.
          keep_order: with `reverse`, give the outputs in the order of the inputs.
          rngs: taken for the sake of `nnx.RNN`; nothing here is random.
          last_only: return only the state each item ended in, (*batch, n).
          perturbations: zeros of the outputs' shape, added to the states: the gradient
            with respect to them is dL/dh_t. Not together with `reverse`.

        Returns:
          Outputs h_1 ... h_T (*batch, time, n); `(carry, outputs)` with
          `return_carry`; with `last_only` the carry alone.

        Raises:
          ValueError: for shapes that do not fit, and for lengths outside [0, T] where
            their values are known (outside of `jit`; a traced one counts as the nearest
            bound).
          TypeError: for forward mode (`jax.jvp`) without `custom_backward=False`.
        """
        del rngs
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order

        inputs = jnp.asarray(inputs)
        if initial_carry is not None:
            initial_carry = jnp.asarray(initial_carry)
        self.cell._check(inputs, initial_carry)
        batch, xs = _flatten(inputs, time_major)
        steps = xs.shape[0]
        n = self.cell.hidden_features
        h0 = self._initial(initial_carry, batch, n)
        lengths = _lengths(seq_lengths, batch, steps)
        if reverse:
            if perturbations is not None:
                raise ValueError("perturbations must be None with reverse=True")
            xs = flip_sequences(xs, lengths, 1, True)
        if perturbations is not None:
            perturbations = self._perturbations(perturbations, batch, steps, time_major)

        form, m, b, offset, xs, h0 = self.cell._operands(xs, h0)
        if perturbations is not None:
            perturbations = perturbations.astype(h0.dtype)
        states, last = recurrence.recurrence(
            form,
            xs,
            h0,
            activation=self.cell.activation,
            input_weights=m,
            bias=b,
            offset=offset,
            lengths=lengths,
            last_only=last_only,
            chunk=self.chunk,
            unroll=self.unroll,
            custom_backward=self.cell.custom_backward,
            precision=self.cell.precision,
            perturbations=perturbations,
            activation_every=self.activation_every,
        )
        carry = last.reshape(batch + (n,))
        if last_only:
            return carry
        assert states is not None  # without last_only they are kept
        if reverse and keep_order:
            states = flip_sequences(states, lengths, 1, True)
        outputs = states.reshape((steps,) + batch + (n,))
        if not time_major:
            outputs = jnp.moveaxis(outputs, 0, len(batch))
        return (carry, outputs) if return_carry else outputs

    def _initial(self, carry, batch, n):
        if carry is None:
            carry = self.cell.initialize_carry(batch + (self.cell.in_features,))
        elif carry.shape != batch + (n,):
            raise ValueError(
                f"initial_carry must have shape {batch + (n,)}, got {carry.shape}"
            )
        return carry.reshape(math.prod(batch), n)

    def _perturbations(self, perturbations, batch, steps, time_major):
        n = self.cell.hidden_features
        shape = (steps,) + batch + (n,) if time_major else batch + (steps, n)
        if perturbations.shape != shape:
            raise ValueError(
                f"perturbations must have shape {shape}, got {perturbations.shape}"
            )
        return _flatten(perturbations, time_major)[1]


def _flatten(
    x: Array, time_major: bool
) -> tuple[tuple[int, ...], Float[Array, "time batch features"]]:
    """The batch axes of x, and x as (time, batch, features)."""
    if x.ndim < 2:
        raise ValueError(
            f"inputs must have a time and a feature axis, got shape {x.shape}"
        )
    if not time_major:
        x = jnp.moveaxis(x, -2, 0)
    batch = x.shape[1:-1]
    return batch, x.reshape(x.shape[0], math.prod(batch), x.shape[-1])


def _lengths(
    seq_lengths: ArrayLike | None, batch: tuple[int, ...], steps: int
) -> Integer[Array, " items"] | None:
    """`seq_lengths` checked and flattened to (batch,), or None."""
    if seq_lengths is None:
        return None
    lengths = jnp.asarray(seq_lengths)
    if lengths.shape != batch or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"seq_lengths must be integers of shape {batch}, got {lengths.dtype} of "
            f"shape {lengths.shape}"
        )
    if not checks.is_traced(seq_lengths) and lengths.size:
        known = np.asarray(seq_lengths)  # what jax.numpy gives is traced under `jit`
        low, high = int(known.min()), int(known.max())
        if low < 0 or high > steps:
            raise ValueError(
                f"seq_lengths must lie in [0, {steps}], got values from {low} to {high}"
            )
    # Narrow integers would wrap around where they are compared with steps. A traced
    # length that is out of bounds counts as the bound, as it does in `nnx.RNN`.
    return jnp.clip(lengths.reshape(-1).astype(jnp.int32), 0, steps)


@module
class SpectralRNN(
    TransitionRNN, MethodArguments, CellArguments, SpectralArguments, SizeArguments
):
    """Spectral-RNN: h_t = phi(U Sigma V^T h_{t-1} + M x_t + b) over whole sequences.

    The singular values of the transition stay in [center - radius, center + radius],
    so ||dh_T/dh_0|| <= (|center| + radius)^T for a 1-Lipschitz phi: gradients cannot
    explode, and with an identity phi not vanish faster than (|center| - radius)^T.
    Takes the call arguments of `nnx.RNN` and returns what it returns.

    Parameters, those of `cell`: `weight`, a `SpectralMatrix` (`u_vectors` (m1, n),
    `v_vectors` (m2, n), `sigma_raw` (n,)); `input_weights` M (n, n_in), `bias` b (n,),
    with modReLU `offset` (n,).

    Cost of a step, per item: 4 n (m1 + m2) flops as diagonal plus low rank, 2 n^2 as a
    dense matrix, whichever `method="auto"` expects to be faster; building it costs
    O(n^2 (m1 + m2)) once a sequence. Source: Zhang, Lei and Dhillon (2018).

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for what does not fit, at the call.
    """

    cell: SpectralRNNCell = field(init=False)

    def __post_init__(self, *values):
        self.cell = make(SpectralRNNCell, arguments(self, values))
        super().__post_init__()


@module
class DenseRNN(TransitionRNN, CellArguments, DenseArguments, SizeArguments):
    """The unconstrained RNN with the same loop, as the baseline of `SpectralRNN`.

    h_t = phi(W h_{t-1} + M x_t + b) with a free W; an orthogonal or identity `init`
    makes it the IRNN. Takes the call arguments of `nnx.RNN` and returns what it
    returns. A step costs 2 n^2 flops an item.

    Parameters, those of `cell`: `weight`, a `DenseMatrix` (`w` (n, n));
    `input_weights` M (n, n_in), `bias` b (n,), with modReLU `offset` (n,).

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for what does not fit, at the call.
    """

    cell: DenseRNNCell = field(init=False)

    def __post_init__(self, *values):
        self.cell = make(DenseRNNCell, arguments(self, values))
        super().__post_init__()


@module
class OrthogonalRNN(TransitionRNN, CellArguments, OrthogonalArguments, SizeArguments):
    """expRNN or scoRNN over whole sequences: an orthogonal W from a skew-symmetric A.

    h_t = phi(f(A) D h_{t-1} + M x_t + b); `map="exponential"` is expRNN,
    `map="cayley"` with some `negative_fraction` scoRNN. W is built once a sequence, in
    O(n^3); a step costs 2 n^2 flops an item. As with `SpectralRNN` gradients cannot
    explode for a 1-Lipschitz phi. Takes the call arguments of `nnx.RNN` and returns
    what it returns.

    Parameters, those of `cell`: `weight`, an `OrthogonalMatrix` (`skew_entries`
    (n (n - 1) / 2,)); `input_weights` M (n, n_in), `bias` b (n,), with modReLU
    `offset` (n,).

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for what does not fit, at the call.
    """

    cell: OrthogonalRNNCell = field(init=False)

    def __post_init__(self, *values):
        self.cell = make(OrthogonalRNNCell, arguments(self, values))
        super().__post_init__()
