"""The last state of a linear recurrence, by powers of W and without a loop over time.

With an identity phi the state after T steps is a linear map of the inputs,

    h_T = W^T h_0 + sum_{k=0}^{T-1} W^k [M, b] [x_{T-k}, 1],

the same for every item of a batch. The columns W^k [M, b] double in number with every
squaring of W, so that log2(T) products of matrices take the place of T steps.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from svdrnn import checks, householder
from svdrnn._types import AnyArray


def cheaper(
    n: int, features: int, *, steps: int, batch: int, multiplications: int
) -> bool:
    """Whether `last_state` takes fewer multiplications than a loop over time.

    Args:
      n: size of W.
      features: p, columns of the input weights.
      steps: T.
      batch: items.
      multiplications: of one item in one step of the loop.
    """
    squarings = max(steps.bit_length() - 1, 0) * n**3
    columns = n * steps * features * (n + batch)
    return squarings + columns < batch * steps * multiplications


def last_state(
    w: Float[AnyArray, "n n"],
    inputs: Float[AnyArray, "time batch p"],
    carry: Float[AnyArray, "batch n"],
    input_weights: Float[AnyArray, "n p"],
    precision: Any = None,
) -> Float[Array, "batch n"]:
    """h_T of h_t = W h_{t-1} + M x_t, without any of the states before it.

    A bias is a column of M beside an input of ones. Powers of W are computed at full
    precision, since an error in one is doubled by the next; they are finite only where
    the entries of W^T are.

    Args:
      w: W.
      inputs: x_1 ... x_T.
      carry: h_0.
      input_weights: M.
      precision: of the product with the inputs; None is JAX's default.

    Returns:
      h_T, in the dtype of the carry.

    Cost: n^3 log2(T) + n T p (n + batch) multiplications; memory O(n^2 log2(T) + n T p)
    of the backward pass, whatever the batch.

    Raises:
      ValueError: shapes or dtypes that do not fit.
    """
    for name, array in (
        *(("w", w), ("inputs", inputs)),
        *(("carry", carry), ("input_weights", input_weights)),
    ):
        checks.check_floating(name, array)
    n, p = input_weights.shape if input_weights.ndim == 2 else (-1, -1)
    if inputs.ndim != 3 or inputs.shape[2] != p:
        raise ValueError(
            f"inputs and input_weights must have shapes (time, batch, p) and (n, p),"
            f" got {inputs.shape} and {input_weights.shape}"
        )
    steps, batch, _ = inputs.shape
    if w.shape != (n, n) or carry.shape != (batch, n):
        raise ValueError(
            f"w and carry must have shapes ({n}, {n}) and ({batch}, {n}), got"
            f" {w.shape} and {carry.shape}"
        )
    dtype = householder.factor_dtype(w.dtype, carry.dtype)
    if steps == 0:
        return jnp.asarray(carry)
    power = jnp.asarray(w, dtype)  # W^(2^i) in round i
    columns = jnp.asarray(input_weights, dtype)  # W^k M, of one lag k after another
    h = jnp.asarray(carry, dtype)
    for i in range(steps.bit_length()):
        if i > 0:
            power = householder.matmul(power, power)
        if steps >> i & 1:
            h = householder.matmul(h, power.T)
        missing = (steps - 2**i) * p
        if missing > 0:
            more = householder.matmul(power, columns[:, :missing])
            columns = jnp.concatenate([columns, more], axis=1)
    lagged = jnp.moveaxis(inputs[::-1], 0, 1).reshape(batch, steps * p)
    driven = jnp.matmul(
        lagged,
        columns.T.astype(inputs.dtype),
        precision=precision,
        preferred_element_type=dtype,
    )
    return (h + driven).astype(carry.dtype)
