"""Feed-forward layers with a spectral weight matrix."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes

from svdrnn import spectral
from svdrnn.matrices import SpectralMatrix, check_method


class SpectralLinear(nnx.Module):
    """y = W x + b with W = U Sigma V^T, any shape, singular values in an interval.

    Args:
      in_features, out_features: W is (out_features, in_features).
      reflectors, radius, center, init: see `SpectralMatrix`.
      use_bias: whether there is a b, started at zero.
      method: `scan`, `wy` or `low_rank` apply the factors, `dense` builds W;
        `auto` builds W where the reflectors are many enough for that to pay
        (`low_rank` here is another name for `wy`).
      dtype: of the computation; None takes what inputs and parameters promote to.
      param_dtype: of the parameters.
      custom_backward: False leaves differentiation to JAX, which forward mode needs.
      rngs: its `params` stream draws the initial values.

    Raises:
      ValueError: as `SpectralMatrix`; an unknown method; inputs whose last axis is
        not `in_features`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        reflectors,
        radius: float,
        center: float = 1.0,
        init: str | jax.Array = "random",
        use_bias: bool = True,
        method: str = "auto",
        dtype=None,
        param_dtype=jnp.float32,
        custom_backward: bool = True,
        rngs: nnx.Rngs,
    ):
        check_method(method)
        self.weight = SpectralMatrix(
            in_features,
            out_features,
            reflectors=reflectors,
            radius=radius,
            center=center,
            init=init,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.bias = (
            nnx.Param(jnp.zeros((out_features,), param_dtype)) if use_bias else None
        )
        self.in_features, self.out_features = in_features, out_features
        self.method, self.dtype = method, dtype
        self.custom_backward = custom_backward

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """(..., in_features) -> (..., out_features)."""
        if inputs.ndim == 0 or inputs.shape[-1] != self.in_features:
            raise ValueError(
                f"inputs must have shape (..., {self.in_features}), got {inputs.shape}"
            )
        svd = self.weight.svd()
        bias = None if self.bias is None else self.bias[...]
        dtype = dtypes.canonicalize_dtype(inputs, svd.u_vectors, bias, dtype=self.dtype)
        outputs = self._product(svd, inputs.astype(dtype)).astype(dtype)
        return outputs if bias is None else outputs + bias.astype(dtype)

    def _product(self, svd, x):
        method = self.method
        if method == "auto":
            reflectors = svd.u_vectors.shape[0] + svd.v_vectors.shape[0]
            method = "wy" if 2 * reflectors <= min(svd.shape) else "dense"
        if method == "dense":
            w = spectral.materialize(svd, custom_backward=self.custom_backward)
            return jnp.matmul(x, w.astype(x.dtype).T)
        method = "wy" if method == "low_rank" else method
        return spectral.apply(svd, x, method=method)
