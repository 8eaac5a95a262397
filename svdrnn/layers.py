"""Feed-forward layers with a spectral weight matrix."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from svdrnn import _programs, checks, householder, spectral, transitions
from svdrnn._flax import canonicalize_dtype, signature_of_init
from svdrnn._types import Number
from svdrnn.matrices import SpectralMatrix
from svdrnn.spectral import Reflectors


@signature_of_init
class SpectralLinear(nnx.Module):
    """y = W x + b with W = U Sigma V^T, any shape, singular values in an interval.

    Parameters: those of `weight`, a `SpectralMatrix` (out_features, in_features), and
    `bias` (out_features,).

    Cost: an item takes 4 (m1 n_out + m2 n_in) flops by the factors, 2 n_in n_out by W;
    building W takes about 4 min(n_in, n_out)^2 max(n_in, n_out) a call.

    Args:
      in_features: n_in, the number of columns of W.
      out_features: n_out, the number of rows of W.
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
      use_bias: whether there is a b, which starts at zero.
      method: how W is applied. `scan` and `wy` apply the factors, `low_rank` (of a
        square W) a diagonal plus a product of two thin matrices, and `dense` builds W.
        `auto` takes `wy` where `transitions.prefers_low_rank` says so of the shorter
        side, else `dense`.
      dtype: the dtype of the computation; None takes what inputs and parameters promote
        to.
      custom_backward: False leaves differentiation to JAX, which forward mode
        (`jax.jvp`, `jax.jacfwd`) needs; `jax.hessian` works with both.

    Raises:
      ValueError: for sizes, counts, radius, center, init or method out of range, a
        given matrix with a singular value not strictly inside the interval; at the
        call, inputs that are complex or whose last axis is not `in_features`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        reflectors: Reflectors,
        radius: Number,
        center: Number = 1.0,
        init: str | ArrayLike = "random",
        init_sigma: ArrayLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        use_bias: bool = True,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        custom_backward: bool = True,
    ):
        self.in_features = checks.check_integer("in_features", in_features)
        self.out_features = checks.check_integer("out_features", out_features)
        self.method = checks.check_name("method", method, transitions.METHODS)
        n_in, n_out = self.in_features, self.out_features
        if method == "low_rank" and n_in != n_out:
            raise ValueError(
                "method must not be low_rank unless W is square, got shape"
                f" ({n_out}, {n_in})"
            )
        self.dtype = dtype
        self.custom_backward = custom_backward
        self.weight = SpectralMatrix(
            n_in,
            n_out,
            reflectors=reflectors,
            radius=radius,
            center=center,
            init=init,
            init_sigma=init_sigma,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        # Of numpy's zeros, which no program has to make.
        zeros = jnp.asarray(np.zeros((n_out,), jnp.dtype(param_dtype)))
        self.bias = nnx.Param(zeros) if use_bias else None

    def __call__(self, inputs: ArrayLike | list) -> Float[Array, "*batch n_out"]:
        """(..., in_features) -> (..., out_features)."""
        if isinstance(inputs, list):
            inputs = jnp.asarray(inputs)
        return _programs.in_one(SpectralLinear._outputs, self, inputs)

    def _outputs(self, inputs: ArrayLike) -> Array:
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
