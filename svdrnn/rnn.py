"""Recurrent layers: a cell over whole sequences, with W prepared once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Integer

from svdrnn import _programs, checks, recurrence
from svdrnn._flax import flip_sequences, signature_of_init
from svdrnn._types import AnyArray, Number
from svdrnn.cells import (
    DenseRNNCell,
    OrthogonalRNNCell,
    SpectralRNNCell,
    TransitionCell,
)
from svdrnn.spectral import Reflectors


class _CallOptions(TypedDict, total=False):
    """The call arguments of a layer besides those that decide what it returns."""

    initial_carry: Array | None
    seq_lengths: ArrayLike | None
    time_major: bool | None
    reverse: bool | None
    keep_order: bool | None
    rngs: nnx.Rngs | nnx.RngStream | None
    perturbations: Array | None


@signature_of_init
class TransitionRNN(nnx.Module):
    """A `TransitionCell` over whole sequences: `nnx.RNN` with W prepared once.

    Takes the call arguments of `nnx.RNN` and returns what it returns, so that one
    replaces the other, but the transition is built once a sequence and the recurrence
    has a hand-written backward pass (`svdrnn.recurrence`). Beyond `nnx.RNN`: an item
    of length 0 returns its initial carry; `seq_lengths` works with any number of batch
    axes; `last_only` never stacks the outputs, and with an identity activation takes
    log2(T) products of matrices instead of T steps where that is cheaper
    (`svdrnn.powers`). Its result is then finite where the entries of W^T are, whatever
    the inputs: with singular values above 1, T can be too large for that.

    Args:
      cell: the cell, whose parameters are all that there are.
      time_major: default of the call: whether time is the first axis.
      return_carry: default of the call: whether the state that each item ended in is
        returned too.
      reverse: default of the call: whether to run from the last step to the first.
      keep_order: default of the call: whether, with `reverse`, outputs have the order
        of the inputs.
      unroll: time steps in one iteration of the compiled loop; 1 is four where JAX's
        default device is a GPU or a TPU. Above 1 there is a loop also where linear
        steps could be taken at once.
      chunk: with `last_only`, keep one state in `chunk` for the backward pass and
        compute the others again: memory O(chunk + T / chunk), for one more forward
        pass. None keeps all.
      activation_every: k, where phi acts after every k-th step of a call and the steps
        between are linear. It must be 1 with an identity phi.
      output_every: l, where the outputs of a call are the states h_l, h_2l ... alone,
        T // l of them; the carry is h_T all the same.

    Raises:
      ValueError: for an `unroll`, a `chunk` or an `output_every` below 1.
    """

    def __init__(
        self,
        cell: TransitionCell,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        chunk: int | None = None,
        activation_every: int = 1,
        output_every: int = 1,
    ):
        self.cell = cell
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.unroll = checks.check_integer("unroll", unroll)
        every = checks.check_integer("activation_every", activation_every)
        if every > 1 and cell.activation.linear:
            raise ValueError(
                "activation_every must be 1 with an identity activation, which is"
                f" linear at every step, got {every}"
            )
        self.activation_every = every
        self.output_every = checks.check_integer("output_every", output_every)
        self.chunk = None if chunk is None else checks.check_integer("chunk", chunk)

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
        it: it goes forward in time and gives every state.

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
          perturbations: zeros of the shape of all T states, added to them: the gradient
            with respect to them is dL/dh_t. Not together with `reverse`.

        Returns:
          Outputs h_1 ... h_T (*batch, time, n), or of these what `output_every` says;
          `(carry, outputs)` with `return_carry`; with `last_only` the carry alone.

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

        if seq_lengths is not None:
            xp = jnp if checks.is_traced(seq_lengths) else np
            lengths = seq_lengths = xp.asarray(seq_lengths)
            shape = np.shape(inputs)
            if len(shape) > 1:
                time = 0 if time_major else len(shape) - 2
                batch = shape[:time] + shape[time + 1 : -1]
                checks.check_lengths("seq_lengths", lengths, batch, shape[time])
        arrays = (inputs, initial_carry, seq_lengths, perturbations)
        return _programs.in_one(
            TransitionRNN._outputs,
            self,
            *(jnp.asarray(a) if isinstance(a, list | tuple) else a for a in arrays),
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
            last_only=last_only,
        )

    def _outputs(
        self,
        inputs: ArrayLike,
        initial_carry: ArrayLike | None,
        seq_lengths: ArrayLike | None,
        perturbations: Array | None,
        *,
        return_carry: bool,
        time_major: bool,
        reverse: bool,
        keep_order: bool,
        last_only: bool,
    ) -> Array | tuple[Array, Array]:
        inputs = jnp.asarray(inputs)
        carry0 = None if initial_carry is None else jnp.asarray(initial_carry)
        self.cell._check(inputs, carry0)
        batch, xs = _flatten(inputs, time_major)
        steps = xs.shape[0]
        n = self.cell.hidden_features
        h0 = self._initial(carry0, batch, n)
        lengths = _lengths(seq_lengths, steps)
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
            output_every=self.output_every,
        )
        carry = last.reshape(batch + (n,))
        if last_only:
            return carry
        assert states is not None  # without last_only they are kept
        if reverse and keep_order:
            given = None if lengths is None else lengths // self.output_every
            states = flip_sequences(states, given, 1, True)
        outputs = states.reshape(states.shape[:1] + batch + (n,))
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
    seq_lengths: ArrayLike | None, steps: int
) -> Integer[Array, " items"] | None:
    """`seq_lengths` flattened to (batch,), or None."""
    if seq_lengths is None:
        return None
    # Narrow integers would wrap around where they are compared with steps. A traced
    # length that is out of bounds counts as the bound, as it does in `nnx.RNN`.
    lengths = jnp.asarray(seq_lengths).reshape(-1).astype(jnp.int32)
    return jnp.clip(lengths, 0, steps)


@signature_of_init
class SpectralRNN(TransitionRNN):
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

    Args:
      in_features: n_in, the number of features of x_t.
      hidden_features: n, the size of the state.
      reflectors: the number of reflectors, m1 of U and m2 of V. One number counts for
        both and is capped at min(n_out, n_in), which already reaches every matrix. A
        pair (m1, m2) is taken literally. None means that cap.
      radius: r >= 0, how far a singular value may be from the center; 0 freezes all of
        them (oRNN).
      center: sigma*, the middle of the interval. With 0, which is meant for residual
        branches, sigma_raw starts at N(0, 1) instead of 0.
      init: the first W. `"random"`: rows N(0, 1/n), independent for U and V.
        `"identity"`: equal rows, so that W = center * I; W must be square with m1 = m2.
        `"henaff"` or `"cayley"`: W = center * R with R a rotation of planes of two
        coordinates by random angles, see `initializers.rotation_angles`; W must be
        square with n reflectors on each side. Or a matrix (n_out, n_in), which needs
        min(n_out, n_in) reflectors on each side.
      init_sigma: the first singular values, strictly inside the interval: one number,
        or several that are taken in turn, so that (0.3, 1) lets every second direction
        forget. None puts all of them at the center (see there). It must be None where
        `init` is a matrix, which brings its own.
      param_dtype: the dtype of the parameters.
      rngs: its `params` stream draws the initial values.
      activation: the phi, one of `svdrnn.activations.NAMES` or a function that acts on
        every entry alone, such as `jax.nn.gelu`.
      leak: the slope of the leaky ReLU left of zero, in [0, 1]; None is 0.01. It must
        be None with another activation.
      use_bias: whether there is a b, which starts at zero.
      input_scale: factor on the initial M. A transition near the identity sums its
        inputs; over hundreds of steps a small M keeps the first states moderate.
      dtype: the dtype of the computation; None takes what inputs and parameters promote
        to.
      precision: the precision of the products in the recurrence; None is JAX's default.
      custom_backward: False leaves differentiation to JAX, which forward mode
        (`jax.jvp`, `jax.jacfwd`) needs; `jax.hessian` works with both.
      method: how W is applied. `low_rank` (diagonal plus low rank) and `dense` are
        built once a sequence. `scan` (one reflector after another, the paper's
        algorithm) and `wy` (in compact WY form) apply the factors at every step. `auto`
        takes the cheaper of the first two in a layer, and `wy` in a cell, which cannot
        prepare W for the steps to come. A W without factors has `dense` alone.
      time_major: default of the call: whether time is the first axis.
      return_carry: default of the call: whether the state that each item ended in is
        returned too.
      reverse: default of the call: whether to run from the last step to the first.
      keep_order: default of the call: whether, with `reverse`, outputs have the order
        of the inputs.
      unroll: time steps in one iteration of the compiled loop; 1 is four where JAX's
        default device is a GPU or a TPU. Above 1 there is a loop also where linear
        steps could be taken at once.
      chunk: with `last_only`, keep one state in `chunk` for the backward pass and
        compute the others again: memory O(chunk + T / chunk), for one more forward
        pass. None keeps all.
      activation_every: k, where phi acts after every k-th step of a call and the steps
        between are linear. It must be 1 with an identity phi.
      output_every: l, where the outputs of a call are the states h_l, h_2l ... alone,
        T // l of them; the carry is h_T all the same.

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for what does not fit, at the call.
    """

    cell: SpectralRNNCell

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        reflectors: Reflectors,
        radius: Number,
        center: Number = 1.0,
        init: str | ArrayLike = "random",
        init_sigma: ArrayLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        activation: str | Callable[[Array], Array] = "leaky_relu",
        leak: Number | None = None,
        use_bias: bool = True,
        input_scale: Number = 1.0,
        dtype: DTypeLike | None = None,
        precision: jax.lax.PrecisionLike = None,
        custom_backward: bool = True,
        method: str = "auto",
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        chunk: int | None = None,
        activation_every: int = 1,
        output_every: int = 1,
    ):
        cell = SpectralRNNCell(
            in_features,
            hidden_features,
            reflectors=reflectors,
            radius=radius,
            center=center,
            init=init,
            init_sigma=init_sigma,
            param_dtype=param_dtype,
            rngs=rngs,
            activation=activation,
            leak=leak,
            use_bias=use_bias,
            input_scale=input_scale,
            dtype=dtype,
            precision=precision,
            custom_backward=custom_backward,
            method=method,
        )
        super().__init__(
            cell,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            chunk=chunk,
            activation_every=activation_every,
            output_every=output_every,
        )


@signature_of_init
class DenseRNN(TransitionRNN):
    """The unconstrained RNN with the same loop, as the baseline of `SpectralRNN`.

    h_t = phi(W h_{t-1} + M x_t + b) with a free W; an orthogonal or identity `init`
    makes it the IRNN. Takes the call arguments of `nnx.RNN` and returns what it
    returns. A step costs 2 n^2 flops an item.

    Parameters, those of `cell`: `weight`, a `DenseMatrix` (`w` (n, n));
    `input_weights` M (n, n_in), `bias` b (n,), with modReLU `offset` (n,).

    Args:
      in_features: n_in, the number of features of x_t.
      hidden_features: n, the size of the state.
      init: the first W: `"lecun_normal"`, `"orthogonal"`, `"identity"` or an (n, n)
        matrix. An orthogonal or identity start makes the model the IRNN.
      param_dtype: the dtype of the parameters.
      rngs: its `params` stream draws the initial values.
      activation: the phi, one of `svdrnn.activations.NAMES` or a function that acts on
        every entry alone, such as `jax.nn.gelu`.
      leak: the slope of the leaky ReLU left of zero, in [0, 1]; None is 0.01. It must
        be None with another activation.
      use_bias: whether there is a b, which starts at zero.
      input_scale: factor on the initial M. A transition near the identity sums its
        inputs; over hundreds of steps a small M keeps the first states moderate.
      dtype: the dtype of the computation; None takes what inputs and parameters promote
        to.
      precision: the precision of the products in the recurrence; None is JAX's default.
      custom_backward: False leaves differentiation to JAX, which forward mode
        (`jax.jvp`, `jax.jacfwd`) needs; `jax.hessian` works with both.
      time_major: default of the call: whether time is the first axis.
      return_carry: default of the call: whether the state that each item ended in is
        returned too.
      reverse: default of the call: whether to run from the last step to the first.
      keep_order: default of the call: whether, with `reverse`, outputs have the order
        of the inputs.
      unroll: time steps in one iteration of the compiled loop; 1 is four where JAX's
        default device is a GPU or a TPU. Above 1 there is a loop also where linear
        steps could be taken at once.
      chunk: with `last_only`, keep one state in `chunk` for the backward pass and
        compute the others again: memory O(chunk + T / chunk), for one more forward
        pass. None keeps all.
      activation_every: k, where phi acts after every k-th step of a call and the steps
        between are linear. It must be 1 with an identity phi.
      output_every: l, where the outputs of a call are the states h_l, h_2l ... alone,
        T // l of them; the carry is h_T all the same.

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for what does not fit, at the call.
    """

    cell: DenseRNNCell

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        init: str | ArrayLike = "lecun_normal",
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        activation: str | Callable[[Array], Array] = "leaky_relu",
        leak: Number | None = None,
        use_bias: bool = True,
        input_scale: Number = 1.0,
        dtype: DTypeLike | None = None,
        precision: jax.lax.PrecisionLike = None,
        custom_backward: bool = True,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        chunk: int | None = None,
        activation_every: int = 1,
        output_every: int = 1,
    ):
        cell = DenseRNNCell(
            in_features,
            hidden_features,
            init=init,
            param_dtype=param_dtype,
            rngs=rngs,
            activation=activation,
            leak=leak,
            use_bias=use_bias,
            input_scale=input_scale,
            dtype=dtype,
            precision=precision,
            custom_backward=custom_backward,
        )
        super().__init__(
            cell,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            chunk=chunk,
            activation_every=activation_every,
            output_every=output_every,
        )


@signature_of_init
class OrthogonalRNN(TransitionRNN):
    """expRNN or scoRNN over whole sequences: an orthogonal W from a skew-symmetric A.

    h_t = phi(f(A) D h_{t-1} + M x_t + b); `map="exponential"` is expRNN,
    `map="cayley"` with some `negative_fraction` scoRNN. W is built once a sequence, in
    O(n^3); a step costs 2 n^2 flops an item. As with `SpectralRNN` gradients cannot
    explode for a 1-Lipschitz phi. Takes the call arguments of `nnx.RNN` and returns
    what it returns.

    Parameters, those of `cell`: `weight`, an `OrthogonalMatrix` (`skew_entries`
    (n (n - 1) / 2,)); `input_weights` M (n, n_in), `bias` b (n,), with modReLU
    `offset` (n,).

    Args:
      in_features: n_in, the number of features of x_t.
      hidden_features: n, the size of the state.
      map: `"exponential"` (expRNN) or `"cayley"` (scoRNN).
      negative_fraction: the share of -1 in D, in [0, 1]; their number is rounded.
      init: W D at the start. `"henaff"` or `"cayley"`: a rotation of planes of two
        coordinates by random angles, see `initializers.rotation_angles`. `"identity"`:
        A = 0. Under the Cayley map an angle t needs an entry -tan(t / 2): Henaff's
        angles near pi give large ones, which move slowly.
      param_dtype: the dtype of the parameters.
      rngs: its `params` stream draws the initial values.
      activation: the phi, one of `svdrnn.activations.NAMES` or a function that acts on
        every entry alone, such as `jax.nn.gelu`.
      leak: the slope of the leaky ReLU left of zero, in [0, 1]; None is 0.01. It must
        be None with another activation.
      use_bias: whether there is a b, which starts at zero.
      input_scale: factor on the initial M. A transition near the identity sums its
        inputs; over hundreds of steps a small M keeps the first states moderate.
      dtype: the dtype of the computation; None takes what inputs and parameters promote
        to.
      precision: the precision of the products in the recurrence; None is JAX's default.
      custom_backward: False leaves differentiation to JAX, which forward mode
        (`jax.jvp`, `jax.jacfwd`) needs; `jax.hessian` works with both.
      time_major: default of the call: whether time is the first axis.
      return_carry: default of the call: whether the state that each item ended in is
        returned too.
      reverse: default of the call: whether to run from the last step to the first.
      keep_order: default of the call: whether, with `reverse`, outputs have the order
        of the inputs.
      unroll: time steps in one iteration of the compiled loop; 1 is four where JAX's
        default device is a GPU or a TPU. Above 1 there is a loop also where linear
        steps could be taken at once.
      chunk: with `last_only`, keep one state in `chunk` for the backward pass and
        compute the others again: memory O(chunk + T / chunk), for one more forward
        pass. None keeps all.
      activation_every: k, where phi acts after every k-th step of a call and the steps
        between are linear. It must be 1 with an identity phi.
      output_every: l, where the outputs of a call are the states h_l, h_2l ... alone,
        T // l of them; the carry is h_T all the same.

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for what does not fit, at the call.
    """

    cell: OrthogonalRNNCell

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        map: str = "exponential",
        negative_fraction: Number = 0.0,
        init: str = "henaff",
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        activation: str | Callable[[Array], Array] = "leaky_relu",
        leak: Number | None = None,
        use_bias: bool = True,
        input_scale: Number = 1.0,
        dtype: DTypeLike | None = None,
        precision: jax.lax.PrecisionLike = None,
        custom_backward: bool = True,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        chunk: int | None = None,
        activation_every: int = 1,
        output_every: int = 1,
    ):
        cell = OrthogonalRNNCell(
            in_features,
            hidden_features,
            map=map,
            negative_fraction=negative_fraction,
            init=init,
            param_dtype=param_dtype,
            rngs=rngs,
            activation=activation,
            leak=leak,
            use_bias=use_bias,
            input_scale=input_scale,
            dtype=dtype,
            precision=precision,
            custom_backward=custom_backward,
        )
        super().__init__(
            cell,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            chunk=chunk,
            activation_every=activation_every,
            output_every=output_every,
        )
