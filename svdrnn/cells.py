"""Recurrent cells: one step h_t = phi(W h_{t-1} + M x_t + b) of a recurrence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Shaped

from svdrnn import _programs, checks, householder, initializers, recurrence, transitions
from svdrnn._flax import canonicalize_dtype, signature_of_init
from svdrnn._types import AnyArray, Number
from svdrnn.activations import Activation
from svdrnn.matrices import DenseMatrix, Matrix, OrthogonalMatrix, SpectralMatrix
from svdrnn.spectral import Reflectors


@functools.partial(jax.jit, static_argnums=(1, 3))
def _first_arrays(key, shape, scale, dtype):
    """M, and zeros for b and for the offset, in one program."""
    m = initializers.input_weights(key, shape, scale, dtype)
    zeros = jnp.zeros(shape[:1], dtype)
    return m, zeros, jnp.copy(zeros)


@signature_of_init
class TransitionCell(nnx.RNNCellBase):
    """h_t = phi(W h_{t-1} + M x_t + b) with any parameterization of W.

    Drops into `nnx.RNN` and `nnx.Bidirectional`. What the cell computes from its
    parameters it computes at every step; `TransitionRNN` prepares W once a sequence.

    Parameters: those of `weight`; `input_weights` M (n, n_in), LeCun normal times
    `input_scale`; `bias` b (n,), zeros; with modReLU `offset` (n,), zeros.

    Args:
      weight: the square parameterization of W, a module of `svdrnn.matrices`.
      in_features: n_in, the number of features of x_t.
      hidden_features: n, the size of the state. None takes that of the weight, and any
        other is an error.
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

    Raises:
      ValueError: for sizes below 1 and unknown names, at construction; for inputs or
        carries whose last axis does not fit, at the call.
    """

    # What `method="auto"` means for a single step, where nothing can be prepared.
    one_step_method: ClassVar[str] = "auto"

    def __init__(
        self,
        weight: Matrix,
        in_features: int,
        hidden_features: int | None = None,
        *,
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
    ):
        self.weight = weight
        n_out, n_in = weight.matrix_shape
        n = n_out if hidden_features is None else hidden_features
        if (n_out, n_in) != (n, n):
            raise ValueError(
                f"weight must be square of size hidden_features = {n}, got shape"
                f" ({n_out}, {n_in})"
            )
        self.in_features = checks.check_integer("in_features", in_features)
        self.hidden_features = n
        self.method = checks.check_name("method", method, transitions.METHODS)
        if isinstance(activation, nnx.Pytree):  # its parameters would never train
            raise ValueError(
                "activation must be a name or a function without parameters, got"
                f" {type(activation).__name__}"
            )
        self.activation = Activation(activation, leak)
        scale = checks.check_finite("input_scale", input_scale, above=0)
        m, bias, offset = _first_arrays(
            rngs.params(), (n, self.in_features), scale, jnp.dtype(param_dtype)
        )
        self.input_weights = nnx.Param(m)
        self.bias = nnx.Param(bias) if use_bias else None
        self.offset = nnx.Param(offset) if self.activation.needs_offset else None
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.custom_backward = custom_backward

    @property
    def num_feature_axes(self) -> int:
        """The number of axes of one input: 1."""
        return 1

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
        shape = tuple(input_shape[:-1]) + (self.hidden_features,)
        dtype = self.dtype or self.param_dtype
        if carry_init is None:
            return jnp.zeros(shape, dtype)
        if isinstance(rngs, nnx.Rngs):
            rngs = rngs.carry
        if rngs is None:
            raise ValueError("rngs must be given with a carry_init, got None")
        return carry_init(rngs(), shape, dtype)

    def _operands(self, *arrays: Array, one_step: bool = False) -> tuple:
        """(transition, M, b, offset, *arrays) in the dtype of the computation.

        The transition of a narrow computation stays in float32: `recurrence` rounds it,
        and gradients to it only after what they are multiplied with.
        """
        method = self.method
        if one_step and method == "auto":
            method = self.one_step_method
        form = self.weight.transition(method, custom_backward=self.custom_backward)
        params = (self.input_weights, self.bias, self.offset)
        values = tuple(None if v is None else v[...] for v in params) + arrays
        own = jax.tree.leaves(nnx.state(self.weight, nnx.Param))
        dtype = canonicalize_dtype(*own, *values, dtype=self.dtype)
        form_dtype = householder.factor_dtype(dtype)
        form = jax.tree.map(lambda leaf: leaf.astype(form_dtype), form)
        return form, *(None if v is None else jnp.asarray(v, dtype) for v in values)

    def _check(self, inputs: Array, carry: Array | None) -> None:
        """Raises ValueError unless both are real and fit on their last axis."""
        checks.check_real("inputs", inputs)
        if inputs.ndim == 0 or inputs.shape[-1] != self.in_features:
            raise ValueError(
                f"inputs must have {self.in_features} features on the last axis, got"
                f" shape {inputs.shape}"
            )
        if carry is None:
            return
        checks.check_real("carry", carry)
        if carry.shape[-1:] != (self.hidden_features,):
            raise ValueError(
                f"carry must have {self.hidden_features} features on the last axis, got"
                f" shape {carry.shape}"
            )

    def _check_batch(self, inputs: Array, carry: Array) -> None:
        if carry.shape[:-1] != inputs.shape[:-1]:
            raise ValueError(
                f"carry must have the batch axes of inputs, {inputs.shape[:-1]}, got"
                f" {carry.shape[:-1]}"
            )

    def __call__(
        self,
        carry: Shaped[AnyArray, "*batch n"],
        inputs: Shaped[AnyArray, "*batch n_in"],
    ) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]:
        """One step: (h_{t-1} (..., n), x_t (..., n_in)) -> (h_t, h_t).

        The output is in the dtype of the computation, and the carry in that of the
        carry that came in, if floating: a loop takes no carry that changes its dtype.
        """
        return _programs.in_one(TransitionCell._advance, self, carry, inputs)

    def _advance(self, carry: ArrayLike, inputs: ArrayLike) -> tuple[Array, Array]:
        carry, inputs = jnp.asarray(carry), jnp.asarray(inputs)
        self._check(inputs, carry)
        self._check_batch(inputs, carry)
        h = self._step(carry, inputs, one_step=True).apply(carry, inputs)
        floating = jnp.issubdtype(carry.dtype, jnp.floating)
        return h.astype(carry.dtype) if floating else h, h

    def step(self, *arrays: Array, one_step: bool = False) -> recurrence.Step:
        """One step with W built, in the dtype of the computation.

        Args:
          *arrays: what the step will take, which its dtype depends on.
          one_step: whether it is for this step alone, see `method`.
        """
        step = TransitionCell._step
        return _programs.in_one(step, self, *arrays, one_step=one_step)

    def _step(self, *arrays: Array, one_step: bool = False) -> recurrence.Step:
        form, m, b, offset, *_ = self._operands(*arrays, one_step=one_step)
        form = jax.tree.map(lambda leaf: leaf.astype(m.dtype), form)
        return recurrence.Step(form, m, b, offset, self.activation, self.precision)


@signature_of_init
class SpectralRNNCell(TransitionCell):
    """The Spectral-RNN cell: h_t = phi(U Sigma V^T h_{t-1} + M x_t + b).

    The singular values of the transition stay in [center - radius, center + radius].
    `method="scan"` in `nnx.RNN` is the paper's algorithm (Zhang, Lei and Dhillon,
    2018): one reflector after another at every step. `auto` takes `wy` here, because a
    cell cannot prepare W for the steps to come.

    Parameters: `weight`, a `SpectralMatrix` (`u_vectors` (m1, n), `v_vectors` (m2, n),
    `sigma_raw` (n,)); `input_weights` M (n, n_in), LeCun normal times `input_scale`;
    `bias` b (n,), zeros; with modReLU `offset` (n,), zeros.

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

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for inputs or carries whose last axis does not fit, at the call.
    """

    weight: SpectralMatrix

    one_step_method = "wy"

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
    ):
        n = checks.check_integer("hidden_features", hidden_features)
        weight = SpectralMatrix(
            n,
            n,
            reflectors=reflectors,
            radius=radius,
            center=center,
            init=init,
            init_sigma=init_sigma,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        super().__init__(
            weight,
            in_features,
            n,
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


@signature_of_init
class DenseRNNCell(TransitionCell):
    """The unconstrained RNN cell: h_t = phi(W h_{t-1} + M x_t + b) with a free W.

    Parameters: `weight`, a `DenseMatrix` (`w` (n, n)); `input_weights` M (n, n_in),
    LeCun normal times `input_scale`; `bias` b (n,), zeros; with modReLU `offset` (n,).

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
      method: how W is applied. `low_rank` (diagonal plus low rank) and `dense` are
        built once a sequence. `scan` (one reflector after another, the paper's
        algorithm) and `wy` (in compact WY form) apply the factors at every step. `auto`
        takes the cheaper of the first two in a layer, and `wy` in a cell, which cannot
        prepare W for the steps to come. A W without factors has `dense` alone.

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for inputs or carries whose last axis does not fit, at the call.
    """

    weight: DenseMatrix

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
        method: str = "auto",
    ):
        n = checks.check_integer("hidden_features", hidden_features)
        weight = DenseMatrix(
            n,
            init=init,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        super().__init__(
            weight,
            in_features,
            n,
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


@signature_of_init
class OrthogonalRNNCell(TransitionCell):
    """The expRNN or scoRNN cell: h_t = phi(f(A) D h_{t-1} + M x_t + b), W orthogonal.

    `map="exponential"` is expRNN, `map="cayley"` with some `negative_fraction` scoRNN;
    both publications use modReLU. As a cell in `nnx.RNN` it builds W, in O(n^3), at
    every step; `OrthogonalRNN` builds it once a sequence.

    Parameters: `weight`, an `OrthogonalMatrix` (`skew_entries` (n (n - 1) / 2,));
    `input_weights` M (n, n_in), LeCun normal times `input_scale`; `bias` b (n,), zeros;
    with modReLU `offset` (n,).

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
      method: how W is applied. `low_rank` (diagonal plus low rank) and `dense` are
        built once a sequence. `scan` (one reflector after another, the paper's
        algorithm) and `wy` (in compact WY form) apply the factors at every step. `auto`
        takes the cheaper of the first two in a layer, and `wy` in a cell, which cannot
        prepare W for the steps to come. A W without factors has `dense` alone.

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for inputs or carries whose last axis does not fit, at the call.
    """

    weight: OrthogonalMatrix

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
        method: str = "auto",
    ):
        n = checks.check_integer("hidden_features", hidden_features)
        weight = OrthogonalMatrix(
            n,
            map=map,
            negative_fraction=negative_fraction,
            init=init,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        super().__init__(
            weight,
            in_features,
            n,
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
