"""The rivals of a cell: recurrent layers, and ways to an orthogonal matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import svdrnn
from experiments.benchmark import timing
from svdrnn import householder, transitions

REFLECTORS = 16
# With the activation of all others but the LSTM: tanh alone costs a third of a step.
BASELINE = "nnx.RNN, leaky ReLU"
TANH = "nnx.RNN(SimpleCell)"
LINEAR = "nnx.RNN, identity"  # the last state of a linear recurrence needs no loop
OWN = "DenseRNN"
HEADLINE = f"SpectralRNN low_rank m={REFLECTORS}"
PAPER = "paper"  # how the names of those begin that apply a reflector at a time

AXIS = "batch"  # of the mesh of devices


def layer_step(model: Any, n: int, batch: int, devices: int = 1) -> timing.Make:
    """T -> loss and gradient of a whole-sequence layer, and its arguments."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    weights = jax.random.normal(jax.random.key(1), (batch, n))
    ours = isinstance(model, svdrnn.TransitionRNN)
    carry = model.cell.initialize_carry((batch // devices, 1), nnx.Rngs(0))

    def loss(params: Any, x: jax.Array, weights: jax.Array) -> jax.Array:
        layer = nnx.merge(graph, params, rest)
        if ours:
            last = layer(x, last_only=True)
        else:
            first = _varying(carry) if devices > 1 else carry
            last, _ = layer(x, initial_carry=first, return_carry=True)
            last = last[1] if isinstance(last, tuple) else last  # LSTM: (c, h)
        return jnp.sum(last * weights)

    def make(steps: int) -> tuple[Callable, tuple | None]:
        x = jax.random.uniform(jax.random.key(2), (batch, steps, 1))
        step = jax.value_and_grad(loss)
        return _shared(step, devices, params, x, weights)

    return make


def products(n: int, batch: int, devices: int = 1) -> timing.Make:
    """T -> the 3 T dense (batch, n) x (n, n) products that a dense step consists of."""
    w = jnp.eye(n) + 1e-6 * jax.random.normal(jax.random.key(0), (n, n))

    def make(steps: int) -> tuple[Callable, tuple | None]:
        def chain(w: jax.Array, h: jax.Array) -> jax.Array:
            h = jax.lax.fori_loop(0, 3 * steps, lambda _, h: h @ w, h)
            return jnp.sum(h)

        return _shared(chain, devices, w, jnp.ones((batch, n)))

    return make


def thin_products(n: int, m: int, batch: int, devices: int = 1) -> timing.Make:
    """T -> the products of a step with m reflectors a side: 2 T forward, 4 T backward.

    Those of diagonal plus low rank, (batch, n) x (n, 2 m) and back, and those of its
    gradient, (2 m, batch) x (batch, n).
    """
    # Orthonormal, so that the states neither grow nor vanish.
    a = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (n, 2 * m)))[0]

    def make(steps: int) -> tuple[Callable, tuple | None]:
        def chain(factors: tuple, h: jax.Array) -> jax.Array:
            a, c = factors

            def step(_: int, state: tuple) -> tuple:
                h, d_a, d_c = state
                low = h @ c.T
                delta = low @ a.T
                back = delta @ a
                d_a += transitions.batch_outer(low, delta, d_a.dtype, None)
                d_c += transitions.batch_outer(back, h, d_c.dtype, None)
                return back @ c, d_a, d_c

            # Zeros of each device's own, which a split over devices adds up.
            h, d_a, d_c = jax.lax.fori_loop(0, steps, step, (h, 0 * a.T, 0 * c))
            return jnp.sum(h) + jnp.sum(d_a) + jnp.sum(d_c)

        return _shared(chain, devices, (a, a.T), jnp.ones((batch, n)))

    return make


def _shared(
    step: Callable, devices: int, params: Any, *batches: jax.Array
) -> tuple[Callable, tuple]:
    """A sum over a batch, split between devices and summed once at the end.

    Args:
      step: (params, *batches) -> sums over the batch.
      devices: how many there are.
      params: first argument, the same for all devices.
      *batches: the others; the first axis is split.
    """
    if devices == 1:
        return step, (params, *batches)
    mesh = jax.make_mesh((devices,), (AXIS,), (jax.sharding.AxisType.Auto,))
    everywhere, split = jax.P(), jax.P(AXIS)

    def part(params: Any, *batches: jax.Array) -> Any:
        # Else every product of the loop would be summed over devices by itself.
        return jax.lax.psum(step(_varying(params), *batches), AXIS)

    specs = (everywhere, *(split for _ in batches))
    arguments = tuple(
        jax.device_put(array, jax.NamedSharding(mesh, spec))
        for array, spec in zip((params, *batches), specs, strict=True)
    )
    shared = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=everywhere)
    return shared, arguments


def _varying(tree: Any) -> Any:
    """Values that a device has for itself, though they are the same on all."""
    return jax.tree.map(lambda x: jax.lax.pcast(x, AXIS, to="varying"), tree)


def spectral(n: int, m: int, method: str, **kwargs: Any) -> nnx.Module:
    """`SpectralRNN` of n units with m reflectors a side."""
    return svdrnn.SpectralRNN(
        1, n, reflectors=m, radius=0.01, method=method, rngs=nnx.Rngs(0), **kwargs
    )


def layers(n: int, batch: int, devices: int = 1) -> list[timing.Contender]:
    """All rivals at hidden size n; the spectral ones with 16 and with n reflectors.

    The paper's loops on one device alone.
    """
    rngs = nnx.Rngs(0)
    models = {
        BASELINE: nnx.RNN(
            nnx.SimpleCell(1, n, activation_fn=jax.nn.leaky_relu, rngs=rngs), rngs=False
        ),
        TANH: nnx.RNN(nnx.SimpleCell(1, n, rngs=rngs), rngs=False),
        LINEAR: nnx.RNN(
            nnx.SimpleCell(1, n, activation_fn=lambda z: z, rngs=rngs), rngs=False
        ),
        "nnx.RNN(OptimizedLSTMCell)": nnx.RNN(
            nnx.OptimizedLSTMCell(1, n, rngs=rngs), rngs=False
        ),
        OWN: svdrnn.DenseRNN(1, n, rngs=rngs),
    }
    for m in (REFLECTORS, n):
        for method in ("low_rank", "dense"):
            models[f"SpectralRNN {method} m={m}"] = spectral(n, m, method)
        linear = spectral(n, m, "auto", activation="identity")
        models[f"SpectralRNN identity m={m}"] = linear
        if devices == 1:
            paper = spectral(n, m, "scan", custom_backward=False)
            models[f"{PAPER} m={m}"] = paper
    rivals = [
        timing.Contender(name, layer_step(model, n, batch, devices))
        for name, model in models.items()
    ]
    thin = thin_products(n, REFLECTORS, batch, devices)
    return [
        *rivals,
        timing.Contender("dense products", products(n, batch, devices)),
        timing.Contender(f"thin products m={REFLECTORS}", thin),
    ]


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
