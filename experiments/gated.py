"""LSTM and GRU baselines over whole sequences, as carefully optimised as our own.

The cells, with their parameters and initial values, are flax's; only the loop is ours:
the input projection is placed as in ``svdrnn.recurrence``, the backward pass is written
by hand, saves the gates and accumulates the weight gradients inside the loop.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

# As in svdrnn.recurrence: few input features are projected inside the loop.
_PROJECT_IN_LOOP = 2


def _lstm(from_x, from_h, carry):
    """flax's OptimizedLSTMCell: (new carry, saved), gates in the order i, f, g, o."""
    c, _ = carry
    i, f, g, o = jnp.split(from_x + from_h, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    new = f * c + i * g
    squashed = jnp.tanh(new)
    return (new, o * squashed), (i, f, g, o, squashed)


def _lstm_back(d_carry, carry, saved):
    """(d from_x, d from_h, what reaches the carry past the gates)."""
    d_c, d_h = d_carry
    c, _ = carry
    i, f, g, o, squashed = saved
    d_c = d_c + d_h * o * (1 - squashed * squashed)
    d_z = jnp.concatenate(
        [
            d_c * g * i * (1 - i),
            d_c * c * f * (1 - f),
            d_c * i * (1 - g * g),
            d_h * squashed * o * (1 - o),
        ],
        axis=-1,
    )
    return d_z, d_z, (d_c * f, jnp.zeros_like(d_h))


def _gru(from_x, from_h, carry):
    """flax's GRUCell: (new carry, saved), gates in the order r, z, n."""
    (h,) = carry
    x_r, x_z, x_n = jnp.split(from_x, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(from_h, 3, axis=-1)
    r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    return ((1 - z) * n + z * h,), (r, z, n, h_n)


def _gru_back(d_carry, carry, saved):
    (d_h,), (h,) = d_carry, carry
    r, z, n, h_n = saved
    d_n = d_h * (1 - z) * (1 - n * n)
    d_r = d_n * h_n * r * (1 - r)
    d_z = d_h * (h - n) * z * (1 - z)
    from_x = jnp.concatenate([d_r, d_z, d_n], axis=-1)
    from_h = jnp.concatenate([d_r, d_z, d_n * r], axis=-1)
    return from_x, from_h, (d_h * z,)


_GATES = {"lstm": (_lstm, _lstm_back), "gru": (_gru, _gru_back)}


def _from_x(in_loop, x):
    if in_loop is None:
        return x
    return sum(x[:, j : j + 1] * in_loop[j] for j in range(in_loop.shape[0]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(kind, weights, drive, carry):
    return _forward(kind, weights, drive, carry)[0]


def _forward(kind, weights, drive, carry):
    """((states (time, batch, n), last carry), kept)."""
    gates, _ = _GATES[kind]
    w, b, in_loop = weights

    def step(carry, x):
        new, saved = gates(_from_x(in_loop, x), carry[-1] @ w + b, carry)
        return new, (new[-1], carry, saved)

    last, (states, carries, saved) = jax.lax.scan(step, carry, drive)
    return (states, last), (weights, drive, carries, saved)


def _backward(kind, kept, cotangents):
    _, back = _GATES[kind]
    (w, b, in_loop), drive, carries, saved = kept
    d_states, d_last = cotangents

    def step(state, xs):
        d_carry, d_w, d_b, d_in_loop = state
        d_state, x, carry, saved = xs
        d_carry = (*d_carry[:-1], d_carry[-1] + d_state)
        d_x, d_z, past = back(d_carry, carry, saved)
        d_w = d_w + carry[-1].T @ d_z
        d_b = d_b + d_z
        if in_loop is not None:
            d_in_loop = d_in_loop + x.T @ d_x
            d_x = d_x @ in_loop.T
        return ((*past[:-1], past[-1] + d_z @ w.T), d_w, d_b, d_in_loop), d_x

    zeros = None if in_loop is None else jnp.zeros_like(in_loop)
    batch = d_last[-1].shape[0]
    state = (d_last, jnp.zeros_like(w), jnp.zeros((batch,) + b.shape, b.dtype), zeros)
    (d_carry, d_w, d_b, d_in_loop), d_drive = jax.lax.scan(
        step, state, (d_states, drive, carries, saved), reverse=True
    )
    return (d_w, d_b.sum(0), d_in_loop), d_drive, d_carry


_recurrence.defvjp(_forward, _backward)


class GatedRNN(nnx.Module):
    """``nnx.RNN`` for an ``OptimizedLSTMCell`` or ``GRUCell``, with a faster loop.

    Args:
      cell: one of those two cells, with their default activations, in float32.

    Raises:
      ValueError: for another cell.
    """

    def __init__(self, cell: nnx.Module):
        kinds = {nnx.OptimizedLSTMCell: "lstm", nnx.GRUCell: "gru"}
        if type(cell) not in kinds:
            raise ValueError(
                f"cell must be an OptimizedLSTMCell or a GRUCell; got {type(cell)}"
            )
        self.cell = cell
        self.kind = kinds[type(cell)]

    def __call__(self, inputs, *, initial_carry, return_carry: bool = False):
        """(batch, time, features) -> states (batch, time, n), or (carry, states)."""
        dense_x, dense_h = self.cell.dense_i, self.cell.dense_h
        w = dense_h.kernel[...]
        b_x, b_h = (
            jnp.zeros((w.shape[1],), w.dtype) if dense.bias is None else dense.bias[...]
            for dense in (dense_x, dense_h)
        )
        xs = jnp.swapaxes(inputs, 0, 1)
        kernel, in_loop = dense_x.kernel[...], None
        if kernel.shape[0] <= _PROJECT_IN_LOOP:
            ones = jnp.ones(xs.shape[:-1] + (1,), xs.dtype)
            drive = jnp.concatenate([xs, ones], axis=-1)
            in_loop = jnp.concatenate([kernel, b_x[None]], axis=0)
        else:
            drive = xs @ kernel + b_x
        lstm = self.kind == "lstm"
        carry = initial_carry if lstm else (initial_carry,)
        states, last = _recurrence(self.kind, (w, b_h, in_loop), drive, carry)
        states = jnp.swapaxes(states, 0, 1)
        return ((last if lstm else last[0]), states) if return_carry else states
