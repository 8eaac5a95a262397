"""Steps of a linear recurrence taken at once, by powers of W.

Without an activation the state k steps on is a linear map of state and inputs,

    h_{t+k} = W^k h_t + sum_{j=0}^{k-1} W^j M x_{t+k-j},

the same for every item of a batch. The columns W^j M double in number with every
squaring of W, so that log2(k) products of matrices take the place of k steps.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from svdrnn import checks, householder
from svdrnn._types import AnyArray


def cheaper(
    n: int, features: int, *, steps: int, items: int, multiplications: int
) -> bool:
    """Whether k steps at once take fewer multiplications than one after another.

    Args:
      n: size of W.
      features: p, columns of the input weights.
      steps: k.
      items: states that go k steps on; taken for many where a program is exported
        for any number of them.
      multiplications: of one item in one step by W.
    """
    squarings = max(steps.bit_length() - 1, 0) * n**3
    columns = n * steps * features * n
    # The inputs meet as many columns either way.
    saved = steps * multiplications - n * n
    if jax.export.is_symbolic_dim(items):
        return saved > 0
    return squarings + columns < items * saved


def block(
    w: Float[AnyArray, "n n"], input_weights: Float[AnyArray, "n p"], steps: int
) -> tuple[Float[Array, "n n"], Float[Array, "n columns"]]:
    """W^k and [M, W M, ..., W^(k-1) M]: k = `steps` steps as one, see `lagged`.

    Powers are computed at full precision, since an error in one is doubled by the next;
    they are finite only where the entries of W^k are.

    Args:
      w: W.
      input_weights: M; a bias is a column of it beside an input of ones.
      steps: k, at least 1.

    Cost: 2 n^3 log2(k) + n^2 k p multiplications at most; memory of the backward pass
    O(n^2 log2(k) + n k p).

    Raises:
      ValueError: shapes or dtypes that do not fit, or no step.
    """
    checks.check_integer("steps", steps)
    _check_weights(w, input_weights)
    powers, columns = _powers(w, input_weights, steps)
    product, *others = powers
    for power in others:
        product = householder.matmul(power, product)
    return product, columns


def lagged(
    inputs: Float[AnyArray, "time batch p"], steps: int
) -> Float[Array, "blocks batch columns"]:
    """[x_{t+k}, x_{t+k-1}, ..., x_{t+1}] of every k = `steps` steps, the last first.

    Raises:
      ValueError: inputs that are not floating or of another shape, or steps that do
        not divide their time.
    """
    checks.check_integer("steps", steps)
    checks.check_floating("inputs", inputs)
    if inputs.ndim != 3:
        raise ValueError(f"inputs must have shape (time, batch, p), got {inputs.shape}")
    time, batch, p = inputs.shape
    if time % steps:
        raise ValueError(f"steps must divide the {time} of the inputs, got {steps}")
    blocks = inputs.reshape(time // steps, steps, batch, p)[:, ::-1]
    return jnp.moveaxis(blocks, 1, 2).reshape(time // steps, batch, steps * p)


def last_state(
    w: Float[AnyArray, "n n"],
    inputs: Float[AnyArray, "time batch p"],
    carry: Float[AnyArray, "batch n"],
    input_weights: Float[AnyArray, "n p"],
    precision: Any = None,
) -> Float[Array, "batch n"]:
    """h_T of h_t = W h_{t-1} + M x_t, without any of the states before it.

    Args:
      w: W.
      inputs: x_1 ... x_T.
      carry: h_0.
      input_weights: M; a bias is a column of it beside an input of ones.
      precision: of the product with the inputs; None is JAX's default. Powers are
        computed at full precision, and are finite only where the entries of W^T are.

    Returns:
      h_T, in the dtype of the carry.

    Cost: n^3 log2(T) + n T p (n + batch) multiplications; memory O(n^2 log2(T) + n T p)
    of the backward pass, whatever the batch.

    Raises:
      ValueError: shapes or dtypes that do not fit.
    """
    checks.check_floating("inputs", inputs)
    checks.check_floating("carry", carry)
    n, _ = _check_weights(w, input_weights)
    if inputs.ndim != 3 or inputs.shape[2:] != input_weights.shape[1:]:
        raise ValueError(
            f"inputs and input_weights must have shapes (time, batch, p) and (n, p),"
            f" got {inputs.shape} and {input_weights.shape}"
        )
    steps, batch, _ = inputs.shape
    if carry.shape != (batch, n):
        raise ValueError(f"carry must have shape ({batch}, {n}), got {carry.shape}")
    if steps == 0:
        return jnp.asarray(carry)
    powers, columns = _powers(w, input_weights, steps)
    h = jnp.asarray(carry, columns.dtype)
    for power in powers:
        h = householder.matmul(h, power.T)
    driven = jnp.matmul(
        lagged(inputs, steps)[0],
        columns.T.astype(inputs.dtype),
        precision=precision,
        preferred_element_type=columns.dtype,
    )
    return (h + driven).astype(carry.dtype)


def _powers(w, input_weights, steps):
    """[W^(2^i) for every bit i of the steps] and [M, W M, ..., W^(steps-1) M]."""
    p = input_weights.shape[1]
    dtype = householder.factor_dtype(w.dtype, input_weights.dtype)
    power, columns = jnp.asarray(w, dtype), jnp.asarray(input_weights, dtype)
    powers = []
    for i in range(steps.bit_length()):
        if i > 0:
            power = householder.matmul(power, power)
        if steps >> i & 1:
            powers.append(power)
        missing = (steps - 2**i) * p
        if missing > 0:
            more = householder.matmul(power, columns[:, :missing])
            columns = jnp.concatenate([columns, more], axis=1)
    return powers, columns


def _check_weights(w, input_weights):
    """(n, p); raises ValueError for shapes or dtypes that do not fit."""
    checks.check_floating("w", w)
    checks.check_floating("input_weights", input_weights)
    n, p = input_weights.shape if input_weights.ndim == 2 else (-1, -1)
    if w.shape != (n, n):
        raise ValueError(
            f"w and input_weights must have shapes (n, n) and (n, p), got {w.shape} and"
            f" {input_weights.shape}"
        )
    return n, p
