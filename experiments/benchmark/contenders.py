"""The rivals of a cell: recurrent layers, and ways to an orthogonal matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import svdrnn
from experiments.benchmark import timing
from svdrnn import householder

REFLECTORS = 16
BASELINE = "nnx.RNN(SimpleCell)"
OWN = "DenseRNN"
PAPER = "paper"  # how the names of those begin that apply a reflector at a time


def layer_step(model: Any, n: int, batch: int) -> timing.Make:
    """T -> loss and gradient of a whole-sequence layer, and its arguments."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    weights = jax.random.normal(jax.random.key(1), (batch, n))
    ours = isinstance(model, svdrnn.TransitionRNN)
    carry = model.cell.initialize_carry((batch, 1), nnx.Rngs(0))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        layer = nnx.merge(graph, params, rest)
        if ours:
            last = layer(x, last_only=True)
        else:
            last, _ = layer(x, initial_carry=carry, return_carry=True)
            last = last[1] if isinstance(last, tuple) else last  # LSTM: (c, h)
        return jnp.sum(last * weights)

    def make(steps: int) -> tuple[Callable, tuple | None]:
        x = jax.random.uniform(jax.random.key(2), (batch, steps, 1))
        return jax.value_and_grad(loss), (params, x)

    return make


def products(n: int, batch: int) -> timing.Make:
    """T -> the 3 T dense (batch, n) x (n, n) products that a dense step consists of."""
    w = jnp.eye(n) + 1e-6 * jax.random.normal(jax.random.key(0), (n, n))

    def make(steps: int) -> tuple[Callable, tuple | None]:
        def chain(h: jax.Array, w: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, 3 * steps, lambda _, h: h @ w, h)

        return chain, (jnp.ones((batch, n)), w)

    return make


def spectral(n: int, m: int, method: str, **kwargs: Any) -> nnx.Module:
    """`SpectralRNN` of n units with m reflectors a side."""
    return svdrnn.SpectralRNN(
        1, n, reflectors=m, radius=0.01, method=method, rngs=nnx.Rngs(0), **kwargs
    )


def layers(n: int, batch: int) -> list[timing.Contender]:
    """All rivals at hidden size n; the spectral ones with 16 and with n reflectors."""
    rngs = nnx.Rngs(0)
    models = {
        BASELINE: nnx.RNN(nnx.SimpleCell(1, n, rngs=rngs), rngs=False),
        "nnx.RNN, leaky ReLU": nnx.RNN(
            nnx.SimpleCell(1, n, activation_fn=jax.nn.leaky_relu, rngs=rngs), rngs=False
        ),
        "nnx.RNN(OptimizedLSTMCell)": nnx.RNN(
            nnx.OptimizedLSTMCell(1, n, rngs=rngs), rngs=False
        ),
        OWN: svdrnn.DenseRNN(1, n, rngs=rngs),
    }
    for m in (REFLECTORS, n):
        for method in ("low_rank", "dense"):
            models[f"SpectralRNN {method} m={m}"] = spectral(n, m, method)
        paper = spectral(n, m, "scan", custom_backward=False)
        models[f"paper m={m}"] = paper
    rivals = [timing.Contender(k, layer_step(v, n, batch)) for k, v in models.items()]
    return rivals + [timing.Contender("dense products", products(n, batch))]


def matrices(n: int) -> list[timing.Contender]:
    """Value and gradient of an (n, n) orthogonal matrix, several ways."""
    square = jax.random.normal(jax.random.key(0), (n, n)) / n**0.5
    weights = jax.random.normal(jax.random.key(1), (n, n))
    builds = {
        "svdrnn": householder.orthogonal_matrix,
        "paper": lambda x: householder.orthogonal_matrix(
            x, method="scan", custom_backward=False
        ),
        "QR": lambda x: jnp.linalg.qr(x)[0],
        "matrix exponential": lambda x: jax.scipy.linalg.expm(x - x.T),
    }

    def make(build: Callable) -> timing.Make:
        value = jax.value_and_grad(lambda x: jnp.sum(build(x) * weights))
        return lambda _: (value, (square,))

    return [timing.Contender(name, make(build)) for name, build in builds.items()]
