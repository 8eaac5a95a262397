"""Recurrent cells and whole-sequence layers over a matrix parameterization."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn import dtypes
from flax.nnx.nn.recurrent import flip_sequences

from svdrnn import recurrence
from svdrnn.activations import Activation
from svdrnn.matrices import (
    DenseMatrix,
    OrthogonalMatrix,
    SpectralMatrix,
    check_finite,
    check_method,
    check_positive,
    check_real,
)


class TransitionCell(nnx.RNNCellBase):
    """h_t = phi(W h_{t-1} + M x_t + b) with any parameterization of W.

    Drops into `nnx.RNN` and `nnx.Bidirectional`. What the cell computes from its
    parameters it computes at every step; `TransitionRNN` prepares W once a sequence.

    Parameters: those of `weight`; `input_weights` M (n, n_in), LeCun normal times
    `input_scale`; `bias` b (n,), zeros; with modReLU `offset` (n,), zeros.

    Args:
      weight: the square parameterization of W, a module of `svdrnn.matrices`.
      in_features: n_in.
      activation: phi, one of `svdrnn.activations.NAMES`.
      leak: slope of the leaky ReLU left of zero.
      method: how W is applied: `scan`, `wy`, `low_rank`, `dense` or `auto`.
      use_bias: whether there is a b.
      input_scale: factor on the initial M. A transition near the identity sums its
        inputs; over hundreds of steps a small M keeps the first states moderate.
      dtype: of the computation; None takes what inputs and parameters promote to.
      param_dtype: of the parameters.
      precision: of the products in the recurrence; None is JAX's default.
      custom_backward: False leaves differentiation to JAX, which forward mode
        (`jax.jvp`, `jax.hessian`) needs.
      rngs: its `params` stream draws the initial values.

    Raises:
      ValueError: for sizes below 1 and unknown names, at construction; for inputs or
        carries whose last axis does not fit, at the call.
    """

    def __init__(
        self,
        weight: nnx.Module,
        in_features: int,
        hidden_features: int,
        *,
        activation: str = "leaky_relu",
        leak: float = 0.01,
        method: str = "auto",
        use_bias: bool = True,
        input_scale: float = 1.0,
        dtype=None,
        param_dtype=jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        custom_backward: bool = True,
        rngs: nnx.Rngs,
    ):
        check_positive("in_features", in_features)
        check_positive("hidden_features", hidden_features)
        check_method(method)
        input_scale = check_finite("input_scale", input_scale, above=0)
        shape = weight.matrix_shape
        if shape != (hidden_features, hidden_features):
            raise ValueError(
                f"weight must be square of size hidden_features = {hidden_features}, "
                f"got shape {shape}"
            )
        self.activation = Activation(activation, leak)
        self.weight = weight
        n = hidden_features
        draw = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0)
        m = input_scale * draw(rngs.params(), (n, in_features), param_dtype)
        self.input_weights = nnx.Param(m)
        self.bias = nnx.Param(jnp.zeros((n,), param_dtype)) if use_bias else None
        needs_offset = self.activation.needs_offset
        self.offset = nnx.Param(jnp.zeros((n,), param_dtype)) if needs_offset else None
        self.in_features, self.hidden_features = in_features, n
        self.method = method
        self.dtype, self.param_dtype, self.precision = dtype, param_dtype, precision
        self.custom_backward = custom_backward

    # What `method="auto"` means for a single step, where nothing can be prepared.
    one_step_method = "auto"

    @property
    def num_feature_axes(self) -> int:
        return 1

    def initialize_carry(self, input_shape, rngs=None, carry_init=None) -> jax.Array:
        """h_0 for inputs of one step, (..., n_in) -> (..., n): zeros by default.

        Args:
          input_shape: shape of the inputs without their time axis.
          rngs: needed by a `carry_init` that draws random numbers.
          carry_init: an initializer `(key, shape, dtype)`.
        """
        shape = tuple(input_shape[:-1]) + (self.hidden_features,)
        if carry_init is None:
            return jnp.zeros(shape, self.dtype or self.param_dtype)
        if isinstance(rngs, nnx.Rngs):
            rngs = rngs.carry
        if rngs is None:
            raise ValueError("rngs must be given with a carry_init, got None")
        return carry_init(rngs(), shape, self.dtype or self.param_dtype)

    def operands(self, *arrays, one_step: bool = False):
        """(transition, M, b, offset, *arrays), all in the dtype of the computation."""
        method = self.method
        if one_step and method == "auto":
            method = self.one_step_method
        form = self.weight.transition(method, custom_backward=self.custom_backward)
        values = (self.input_weights, self.bias, self.offset)
        values = tuple(None if v is None else v[...] for v in values) + arrays
        dtype = dtypes.canonicalize_dtype(
            jax.tree.leaves(form)[0], *values, dtype=self.dtype
        )
        form = jax.tree.map(lambda leaf: leaf.astype(dtype), form)
        return form, *(None if v is None else jnp.asarray(v, dtype) for v in values)

    def check(self, inputs, carry) -> None:
        """Raises ValueError unless the last axes of inputs and carry fit."""
        check_real("inputs", inputs)
        if inputs.ndim == 0 or inputs.shape[-1] != self.in_features:
            raise ValueError(
                f"inputs must have {self.in_features} features on the last axis, "
                f"got shape {inputs.shape}"
            )
        if carry is not None and carry.shape[-1:] != (self.hidden_features,):
            raise ValueError(
                f"carry must have {self.hidden_features} features on the last axis, "
                f"got shape {carry.shape}"
            )

    def __call__(self, carry: jax.Array, inputs: jax.Array):
        """One step: (h_{t-1} (..., n), x_t (..., n_in)) -> (h_t, h_t)."""
        self.check(inputs, carry)
        form, m, b, offset, h, x = self.operands(carry, inputs, one_step=True)
        z, _ = form.apply(h, self.precision)
        z = z + jnp.matmul(x, m.T, precision=self.precision)
        h = self.activation(z if b is None else z + b, offset)
        return h, h


class SpectralRNNCell(TransitionCell):
    """The Spectral-RNN cell: a `TransitionCell` with W = U Sigma V^T.

    `method="scan"` in `nnx.RNN` is the paper's algorithm (Zhang, Lei and Dhillon,
    2018): one reflector after another at every step. `auto` takes `wy` here,
    because a cell cannot prepare W for the steps to come.

    Args:
      in_features, hidden_features: n_in and n.
      reflectors, radius, center, init: see `SpectralMatrix`.
      **kwargs: see `TransitionCell`.
    """

    one_step_method = "wy"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        reflectors,
        radius: float,
        center: float = 1.0,
        init: str | jax.Array = "random",
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
        **kwargs,
    ):
        check_positive("hidden_features", hidden_features)
        weight = SpectralMatrix(
            hidden_features,
            hidden_features,
            reflectors=reflectors,
            radius=radius,
            center=center,
            init=init,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        super().__init__(
            weight,
            in_features,
            hidden_features,
            param_dtype=param_dtype,
            rngs=rngs,
            **kwargs,
        )


class DenseRNNCell(TransitionCell):
    """The unconstrained RNN cell: a `TransitionCell` whose W is a free matrix.

    Args:
      in_features, hidden_features: n_in and n.
      init: see `DenseMatrix`; `"orthogonal"` or `"identity"` is the IRNN.
      **kwargs: see `TransitionCell`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        init: str | jax.Array = "lecun_normal",
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
        **kwargs,
    ):
        check_positive("hidden_features", hidden_features)
        weight = DenseMatrix(
            hidden_features, init=init, param_dtype=param_dtype, rngs=rngs
        )
        super().__init__(
            weight,
            in_features,
            hidden_features,
            param_dtype=param_dtype,
            rngs=rngs,
            **kwargs,
        )


class OrthogonalRNNCell(TransitionCell):
    """The expRNN or scoRNN cell: a `TransitionCell` with W = f(A) D orthogonal.

    As a cell in `nnx.RNN` it builds W, in O(n^3), at every step; `OrthogonalRNN`
    builds it once a sequence. Both publications use modReLU.

    Args:
      in_features, hidden_features: n_in and n.
      map, negative_fraction, init: see `OrthogonalMatrix`; `map="exponential"` is
        expRNN, `map="cayley"` with some `negative_fraction` scoRNN.
      **kwargs: see `TransitionCell`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        map: str = "exponential",
        negative_fraction: float = 0.0,
        init: str = "henaff",
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
        **kwargs,
    ):
        check_positive("hidden_features", hidden_features)
        weight = OrthogonalMatrix(
            hidden_features,
            map=map,
            negative_fraction=negative_fraction,
            init=init,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        super().__init__(
            weight,
            in_features,
            hidden_features,
            param_dtype=param_dtype,
            rngs=rngs,
            **kwargs,
        )


class TransitionRNN(nnx.Module):
    """A `TransitionCell` over whole sequences: `nnx.RNN` with W prepared once.

    Takes the call arguments of `nnx.RNN` and returns what it returns, so that one
    replaces the other, but the transition is built once a sequence and the recurrence
    has a hand-written backward pass (`svdrnn.recurrence`). Beyond `nnx.RNN`: an
    item of length 0 returns its initial carry; `seq_lengths` works with any number
    of batch axes; `last_only` never stacks the outputs.

    Args:
      cell: the cell, whose parameters are all there are.
      time_major, return_carry, reverse, keep_order: defaults of the call arguments.
      unroll: time steps in one iteration of the compiled loop.
      chunk: with `last_only`, keep one state in `chunk` for the backward pass and
        compute the others again: memory O(chunk + T / chunk), one more forward pass.
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
    ):
        check_positive("unroll", unroll)
        if chunk is not None:
            check_positive("chunk", chunk)
        self.cell = cell
        self.time_major, self.return_carry = time_major, return_carry
        self.reverse, self.keep_order = reverse, keep_order
        self.unroll, self.chunk = unroll, chunk

    def initialize_carry(self, input_shape, rngs=None, carry_init=None) -> jax.Array:
        """h_0 for inputs of one step; see `TransitionCell.initialize_carry`."""
        return self.cell.initialize_carry(input_shape, rngs, carry_init)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_carry: jax.Array | None = None,
        seq_lengths: jax.Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: nnx.Rngs | None = None,
        last_only: bool = False,
        perturbations: jax.Array | None = None,
    ):
        """Runs the recurrence over inputs (*batch, time, n_in).

        Args:
          inputs: batch axes (any number, also none), time, features; with
            `time_major` time comes first.
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
          ValueError: for shapes that do not fit, an empty time axis, and lengths (of
            concrete arrays) outside [0, T].
        """
        del rngs
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order

        inputs = jnp.asarray(inputs)
        self.cell.check(inputs, initial_carry)
        batch, xs = _flatten(inputs, time_major)
        steps = xs.shape[0]
        if steps == 0:
            raise ValueError(f"inputs must have at least one step, got {inputs.shape}")
        n = self.cell.hidden_features
        h0 = self._initial(initial_carry, batch, n)
        lengths = _lengths(seq_lengths, batch, steps)
        if reverse:
            if perturbations is not None:
                raise ValueError("perturbations must be None with reverse=True")
            xs = flip_sequences(xs, lengths, 1, True)
        if perturbations is not None:
            perturbations = self._perturbations(perturbations, batch, steps, time_major)

        form, m, b, offset, xs, h0 = self.cell.operands(xs, h0)
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
        )
        carry = last.reshape(batch + (n,))
        if last_only:
            return carry
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


def _flatten(x, time_major):
    """The batch axes of x, and x as (time, batch, features)."""
    if x.ndim < 2:
        raise ValueError(
            f"inputs must have a time and a feature axis, got shape {x.shape}"
        )
    if not time_major:
        x = jnp.moveaxis(x, -2, 0)
    batch = x.shape[1:-1]
    return batch, x.reshape(x.shape[0], math.prod(batch), x.shape[-1])


def _lengths(seq_lengths, batch, steps):
    """`seq_lengths` checked and flattened to (batch,), or None."""
    if seq_lengths is None:
        return None
    known = not isinstance(seq_lengths, jax.core.Tracer)
    lengths = jnp.asarray(seq_lengths)
    if lengths.shape != batch or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"seq_lengths must be integers of shape {batch}, got {lengths.dtype} of "
            f"shape {lengths.shape}"
        )
    if known and lengths.size:
        low, high = int(np.min(seq_lengths)), int(np.max(seq_lengths))
        if low < 0 or high > steps:
            raise ValueError(
                f"seq_lengths must lie in [0, {steps}], got values from {low} to {high}"
            )
    # Narrow integers would wrap around where they are compared with steps.
    return lengths.reshape(-1).astype(jnp.int32)


class SpectralRNN(TransitionRNN):
    """Spectral-RNN: h_t = phi(U Sigma V^T h_{t-1} + M x_t + b) over whole sequences.

    The singular values of the transition stay in [center - radius, center + radius],
    so ||dh_T/dh_0|| <= (|center| + radius)^T for a 1-Lipschitz phi: gradients cannot
    explode, and with an identity phi not vanish faster than (|center| - radius)^T.

    Cost of a step, per item: 4 n (m1 + m2) flops as diagonal plus low rank, 2 n^2 as a
    dense matrix, whichever `method="auto"` expects to be faster; building it costs
    O(n^2 (m1 + m2)) once a sequence. Source: Zhang, Lei and Dhillon (2018).

    Args:
      in_features, hidden_features: n_in and n.
      reflectors, radius, center, init: see `SpectralMatrix`.
      activation, leak, method, use_bias, input_scale, dtype, param_dtype, precision,
        custom_backward: see `TransitionCell`.
      **layer: `time_major`, `return_carry`, `reverse`, `keep_order`,
        `unroll`, `chunk`: see `TransitionRNN`.
      rngs: its `params` stream draws the initial values.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        reflectors,
        radius: float,
        center: float = 1.0,
        init: str | jax.Array = "random",
        activation: str = "leaky_relu",
        leak: float = 0.01,
        method: str = "auto",
        use_bias: bool = True,
        input_scale: float = 1.0,
        dtype=None,
        param_dtype=jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        custom_backward: bool = True,
        rngs: nnx.Rngs,
        **layer,
    ):
        cell = SpectralRNNCell(
            in_features,
            hidden_features,
            reflectors=reflectors,
            radius=radius,
            center=center,
            init=init,
            activation=activation,
            leak=leak,
            method=method,
            use_bias=use_bias,
            input_scale=input_scale,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            custom_backward=custom_backward,
            rngs=rngs,
        )
        super().__init__(cell, **layer)


class DenseRNN(TransitionRNN):
    """The unconstrained RNN with the same loop, as the baseline of `SpectralRNN`.

    Args:
      in_features, hidden_features: n_in and n.
      init: see `DenseMatrix`; `"orthogonal"` or `"identity"` is the IRNN.
      activation, leak, use_bias, input_scale, dtype, param_dtype, precision,
        custom_backward: see `TransitionCell`.
      **layer: `time_major`, `return_carry`, `reverse`, `keep_order`,
        `unroll`, `chunk`: see `TransitionRNN`.
      rngs: its `params` stream draws the initial values.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        init: str | jax.Array = "lecun_normal",
        activation: str = "leaky_relu",
        leak: float = 0.01,
        use_bias: bool = True,
        input_scale: float = 1.0,
        dtype=None,
        param_dtype=jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        custom_backward: bool = True,
        rngs: nnx.Rngs,
        **layer,
    ):
        cell = DenseRNNCell(
            in_features,
            hidden_features,
            init=init,
            activation=activation,
            leak=leak,
            use_bias=use_bias,
            input_scale=input_scale,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            custom_backward=custom_backward,
            rngs=rngs,
        )
        super().__init__(cell, **layer)


class OrthogonalRNN(TransitionRNN):
    """expRNN or scoRNN over whole sequences: an orthogonal W from a skew-symmetric A.

    W is built once a sequence, in O(n^3); a step costs 2 n^2 flops an item. As with
    `SpectralRNN` gradients cannot explode for a 1-Lipschitz phi.

    Args:
      in_features, hidden_features: n_in and n.
      map, negative_fraction, init: see `OrthogonalMatrix`; `map="exponential"` is
        expRNN, `map="cayley"` with some `negative_fraction` scoRNN.
      activation, leak, use_bias, input_scale, dtype, param_dtype, precision,
        custom_backward: see `TransitionCell`.
      **layer: `time_major`, `return_carry`, `reverse`, `keep_order`,
        `unroll`, `chunk`: see `TransitionRNN`.
      rngs: its `params` stream draws the initial values.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        map: str = "exponential",
        negative_fraction: float = 0.0,
        init: str = "henaff",
        activation: str = "leaky_relu",
        leak: float = 0.01,
        use_bias: bool = True,
        input_scale: float = 1.0,
        dtype=None,
        param_dtype=jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        custom_backward: bool = True,
        rngs: nnx.Rngs,
        **layer,
    ):
        cell = OrthogonalRNNCell(
            in_features,
            hidden_features,
            map=map,
            negative_fraction=negative_fraction,
            init=init,
            activation=activation,
            leak=leak,
            use_bias=use_bias,
            input_scale=input_scale,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            custom_backward=custom_backward,
            rngs=rngs,
        )
        super().__init__(cell, **layer)
