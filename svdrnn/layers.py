"""Feed-forward layers with a spectral weight matrix."""

from __future__ import annotations

from dataclasses import InitVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from svdrnn import checks, householder, spectral, transitions
from svdrnn._arguments import argument, arguments, make, module
from svdrnn._flax import canonicalize_dtype
from svdrnn.matrices import ParameterArguments, SpectralArguments, SpectralMatrix


@module
class SpectralLinear(nnx.Module, ParameterArguments, SpectralArguments):
    """y = W x + b with W = U Sigma V^T, any shape, singular values in an interval.

    Parameters: those of `weight`, a `SpectralMatrix` (out_features, in_features), and
    `bias` (out_features,).

    Cost: an item takes 4 (m1 n_out + m2 n_in) flops by the factors, 2 n_in n_out by W;
    building W takes about 4 min(n_in, n_out)^2 max(n_in, n_out) a call.

    Raises:
      ValueError: for sizes, counts, radius, center, init or method out of range, a
        given matrix with a singular value not strictly inside the interval; at the
        call, inputs that are complex or whose last axis is not `in_features`.
    """

    in_features: int = argument("n_in, columns of W.", kw_only=False)
    out_features: int = argument("n_out, rows of W.", kw_only=False)
    use_bias: InitVar[bool] = argument(
        "whether there is a b, started at zero.", default=True
    )
    method: str = argument(
        """`scan` or `wy` apply the factors, `low_rank` (of a square W) a diagonal plus
        a product of two thin matrices, `dense` builds W; `auto` takes `wy` where
        `transitions.prefers_low_rank` says so of the shorter side, else `dense`.""",
        default="auto",
    )
    dtype: DTypeLike | None = argument(
        "of the computation; None takes what inputs and parameters promote to.",
        default=None,
    )
    custom_backward: bool = argument(
        "False leaves differentiation to JAX, which forward mode (`jax.jvp`) needs.",
        default=True,
    )

    def __post_init__(self, *values):
        given = arguments(self, values)
        self.in_features = checks.check_integer("in_features", self.in_features)
        self.out_features = checks.check_integer("out_features", self.out_features)
        checks.check_name("method", self.method, transitions.METHODS)
        n_in, n_out = self.in_features, self.out_features
        if self.method == "low_rank" and n_in != n_out:
            raise ValueError(
                "method must not be low_rank unless W is square, got shape"
                f" ({n_out}, {n_in})"
            )
        self.weight = make(SpectralMatrix, given, n_in=n_in, n_out=n_out)
        zeros = jnp.zeros((n_out,), given.param_dtype)
        self.bias = nnx.Param(zeros) if given.use_bias else None

    def __call__(self, inputs: ArrayLike | list) -> Float[Array, "*batch n_out"]:
        """(..., in_features) -> (..., out_features)."""
        inputs = jnp.asarray(inputs)
        checks.check_real("inputs", inputs)
        if inputs.ndim == 0 or inputs.shape[-1] != self.in_features:
            raise ValueError(
                f"inputs must have shape (..., {self.in_features}), got {inputs.shape}"
            )
        bias = None if self.bias is None else self.bias[...]
        vectors = self.weight.u_vectors[...]
        dtype = canonicalize_dtype(inputs, vectors, bias, dtype=self.dtype)
        # Rounded to the dtype of the computation before and after, not in between.
        wide = householder.factor_dtype(dtype, vectors.dtype)
        svd = self.weight.svd(wide)
        outputs = self._product(svd, inputs.astype(dtype), wide).astype(dtype)
        if bias is None:
            return outputs
        bias = bias.astype(dtype)
        return outputs + bias.reshape((1,) * (outputs.ndim - 1) + bias.shape)

    def _product(self, svd, x, wide):
        method = self.method
        if method == "auto":
            reflectors = svd.u_vectors.shape[0] + svd.v_vectors.shape[0]
            few = transitions.prefers_low_rank(min(svd.shape), reflectors)
            method = "wy" if few else "dense"
        if method == "low_rank":
            form = transitions.from_svd(svd, method)
            items = x.astype(wide).reshape(-1, self.in_features)
            return form.apply(items, None)[0].reshape(x.shape)
        if method == "dense":
            w = spectral.materialize(svd, custom_backward=self.custom_backward)
            return jnp.matmul(x, w.astype(x.dtype).T)
        return spectral.apply(svd, x.astype(wide), method=method)
