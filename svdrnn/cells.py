"""Recurrent cells: one step h_t = phi(W h_{t-1} + M x_t + b) of a recurrence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from svdrnn import checks, householder, recurrence, transitions
from svdrnn._arguments import argument, arguments, make, module
from svdrnn._flax import canonicalize_dtype
from svdrnn._types import AnyArray, Number
from svdrnn.activations import Activation
from svdrnn.matrices import (
    DenseArguments,
    DenseMatrix,
    Matrix,
    OrthogonalArguments,
    OrthogonalMatrix,
    ParameterArguments,
    SpectralArguments,
    SpectralMatrix,
)

_IN_FEATURES = "n_in, features of x_t."
_HIDDEN_FEATURES = "n, size of the state."


@module
class SizeArguments:
    """The sizes of a layer that makes its own cell."""

    in_features: InitVar[int] = argument(_IN_FEATURES, kw_only=False)
    hidden_features: InitVar[int] = argument(_HIDDEN_FEATURES, kw_only=False)


@module
class CellArguments(ParameterArguments):
    """What every cell is made with, whatever its W."""

    activation: InitVar[str | Callable[[Array], Array]] = argument(
        """phi: one of `svdrnn.activations.NAMES`, or a function that acts on every
        entry alone, as `jax.nn.gelu`.""",
        default="leaky_relu",
    )
    leak: InitVar[Number | None] = argument(
        "slope of the leaky ReLU left of zero, in [0, 1]; None is 0.01. An error with"
        " another activation.",
        default=None,
    )
    use_bias: InitVar[bool] = argument(
        "whether there is a b, started at zero.", default=True
    )
    input_scale: InitVar[Number] = argument(
        """factor on the initial M. A transition near the identity sums its inputs; over
        hundreds of steps a small M keeps the first states moderate.""",
        default=1.0,
    )
    dtype: InitVar[DTypeLike | None] = argument(
        "of the computation; None takes what inputs and parameters promote to.",
        default=None,
    )
    precision: InitVar[jax.lax.PrecisionLike] = argument(
        "of the products in the recurrence; None is JAX's default.", default=None
    )
    custom_backward: InitVar[bool] = argument(
        """False leaves differentiation to JAX, which forward mode (`jax.jvp`,
        `jax.jacfwd`) needs; `jax.hessian` works with both.""",
        default=True,
    )


@module
class MethodArguments:
    """How a W with several forms is applied."""

    method: InitVar[str] = argument(
        """how W is applied: as `low_rank` (diagonal plus low rank) or `dense`, built
        once a sequence; by its factors at every step, one after another (`scan`, the
        paper's algorithm) or in compact WY form (`wy`); or `auto`: in a layer the
        cheaper of the first two, in a cell, which cannot prepare W for the steps to
        come, `wy`. A W without factors has `dense` alone.""",
        default="auto",
    )


class _Kept:
    """What a cell has of its arguments: attributes, not fields."""

    activation: Activation
    method: str
    dtype: DTypeLike | None
    param_dtype: DTypeLike
    precision: jax.lax.PrecisionLike
    custom_backward: bool


@module
class TransitionCell(_Kept, nnx.RNNCellBase, MethodArguments, CellArguments):
    """h_t = phi(W h_{t-1} + M x_t + b) with any parameterization of W.

    Drops into `nnx.RNN` and `nnx.Bidirectional`. What the cell computes from its
    parameters it computes at every step; `TransitionRNN` prepares W once a sequence.

    Parameters: those of `weight`; `input_weights` M (n, n_in), LeCun normal times
    `input_scale`; `bias` b (n,), zeros; with modReLU `offset` (n,), zeros.

    Raises:
      ValueError: for sizes below 1 and unknown names, at construction; for inputs or
        carries whose last axis does not fit, at the call.
    """

    weight: Matrix = argument(
        "the square parameterization of W, a module of `svdrnn.matrices`.",
        kw_only=False,
    )
    in_features: int = argument(_IN_FEATURES, kw_only=False)
    hidden_features: int = argument(
        "n; None takes that of the weight, and another is an error.",
        default=None,
        kw_only=False,
    )

    # What `method="auto"` means for a single step, where nothing can be prepared.
    one_step_method: ClassVar[str] = "auto"

    def __post_init__(self, *values):
        self._set_up(arguments(self, values))

    def _set_up(self, given: Any) -> None:
        """Everything but W."""
        n_out, n_in = self.weight.matrix_shape
        n = n_out if self.hidden_features is None else self.hidden_features
        if (n_out, n_in) != (n, n):
            raise ValueError(
                f"weight must be square of size hidden_features = {n}, got shape"
                f" ({n_out}, {n_in})"
            )
        self.in_features = checks.check_integer("in_features", self.in_features)
        self.hidden_features = n
        self.method = checks.check_name("method", given.method, transitions.METHODS)
        self.activation = Activation(given.activation, given.leak)
        scale = checks.check_finite("input_scale", given.input_scale, above=0)
        draw = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0)
        dtype = given.param_dtype
        m = draw(given.rngs.params(), (n, self.in_features), dtype)
        self.input_weights = nnx.Param(scale * m)
        self.bias = nnx.Param(jnp.zeros((n,), dtype)) if given.use_bias else None
        needs_offset = self.activation.needs_offset
        self.offset = nnx.Param(jnp.zeros((n,), dtype)) if needs_offset else None
        self.dtype, self.param_dtype = given.dtype, dtype
        self.precision = given.precision
        self.custom_backward = given.custom_backward

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
        carry, inputs = jnp.asarray(carry), jnp.asarray(inputs)
        self._check(inputs, carry)
        self._check_batch(inputs, carry)
        h = self.step(carry, inputs, one_step=True).apply(carry, inputs)
        floating = jnp.issubdtype(carry.dtype, jnp.floating)
        return h.astype(carry.dtype) if floating else h, h

    def step(self, *arrays: Array, one_step: bool = False) -> recurrence.Step:
        """One step with W built, in the dtype of the computation.

        Args:
          *arrays: what the step will take, which its dtype depends on.
          one_step: whether it is for this step alone, see `method`.
        """
        form, m, b, offset, *_ = self._operands(*arrays, one_step=one_step)
        form = jax.tree.map(lambda leaf: leaf.astype(m.dtype), form)
        return recurrence.Step(form, m, b, offset, self.activation, self.precision)


@module
class SpectralRNNCell(TransitionCell, SpectralArguments):
    """The Spectral-RNN cell: h_t = phi(U Sigma V^T h_{t-1} + M x_t + b).

    The singular values of the transition stay in [center - radius, center + radius].
    `method="scan"` in `nnx.RNN` is the paper's algorithm (Zhang, Lei and Dhillon,
    2018): one reflector after another at every step. `auto` takes `wy` here, because a
    cell cannot prepare W for the steps to come.

    Parameters: `weight`, a `SpectralMatrix` (`u_vectors` (m1, n), `v_vectors` (m2, n),
    `sigma_raw` (n,)); `input_weights` M (n, n_in), LeCun normal times `input_scale`;
    `bias` b (n,), zeros; with modReLU `offset` (n,), zeros.

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for inputs or carries whose last axis does not fit, at the call.
    """

    weight: SpectralMatrix = field(init=False)
    hidden_features: int = argument(_HIDDEN_FEATURES, kw_only=False)

    one_step_method = "wy"

    def __post_init__(self, *values):
        given = arguments(self, values)
        n = checks.check_integer("hidden_features", self.hidden_features)
        self.hidden_features = n
        self.weight = make(SpectralMatrix, given, n_in=n, n_out=n)
        self._set_up(given)


@module
class DenseRNNCell(TransitionCell, DenseArguments):
    """The unconstrained RNN cell: h_t = phi(W h_{t-1} + M x_t + b) with a free W.

    Parameters: `weight`, a `DenseMatrix` (`w` (n, n)); `input_weights` M (n, n_in),
    LeCun normal times `input_scale`; `bias` b (n,), zeros; with modReLU `offset` (n,).

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for inputs or carries whose last axis does not fit, at the call.
    """

    weight: DenseMatrix = field(init=False)
    hidden_features: int = argument(_HIDDEN_FEATURES, kw_only=False)

    def __post_init__(self, *values):
        given = arguments(self, values)
        n = checks.check_integer("hidden_features", self.hidden_features)
        self.hidden_features = n
        self.weight = make(DenseMatrix, given, n=n)
        self._set_up(given)


@module
class OrthogonalRNNCell(TransitionCell, OrthogonalArguments):
    """The expRNN or scoRNN cell: h_t = phi(f(A) D h_{t-1} + M x_t + b), W orthogonal.

    `map="exponential"` is expRNN, `map="cayley"` with some `negative_fraction` scoRNN;
    both publications use modReLU. As a cell in `nnx.RNN` it builds W, in O(n^3), at
    every step; `OrthogonalRNN` builds it once a sequence.

    Parameters: `weight`, an `OrthogonalMatrix` (`skew_entries` (n (n - 1) / 2,));
    `input_weights` M (n, n_in), LeCun normal times `input_scale`; `bias` b (n,), zeros;
    with modReLU `offset` (n,).

    Raises:
      ValueError: for sizes below 1, unknown names and numbers out of range, at
        construction; for inputs or carries whose last axis does not fit, at the call.
    """

    weight: OrthogonalMatrix = field(init=False)
    hidden_features: int = argument(_HIDDEN_FEATURES, kw_only=False)

    def __post_init__(self, *values):
        given = arguments(self, values)
        n = checks.check_integer("hidden_features", self.hidden_features)
        self.hidden_features = n
        self.weight = make(OrthogonalMatrix, given, n=n)
        self._set_up(given)
