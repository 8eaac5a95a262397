"""What a constraint costs: flax models with constrained kernels and without.

The same models in PyTorch are among the contenders where they are asked for.
"""

import dataclasses
import importlib.util
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import svdrnn
from experiments.benchmark import timing
from experiments.runs import files, records

FILE = "benchmark_constraints.json"  # of the results

WIDTH, HEADS, BLOCKS, TOKENS, SENTENCES = 128, 4, 2, 64, 16
CHANNELS, IMAGES, SIDE = (32, 64, 64), 16, 32
UNITS, STEPS, BATCH = 128, 100, 128

CONSTRAINTS = {
    "Spectral": svdrnn.Spectral(radius=0.1),
    "Orthogonal": svdrnn.Orthogonal(),
}


class Transformer(nnx.Module):
    """Blocks of attention and a multilayer perceptron, each with a norm before it."""

    def __init__(self, rngs: nnx.Rngs):
        self.blocks = nnx.List(
            nnx.Dict(
                first=nnx.LayerNorm(WIDTH, rngs=rngs),
                attention=nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs),
                second=nnx.LayerNorm(WIDTH, rngs=rngs),
                up=nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs),
                down=nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs),
            )
            for _ in range(BLOCKS)
        )

    def __call__(self, x):
        """(sentences, tokens, width) -> the same."""
        for block in self.blocks:
            x = x + block.attention(block.first(x))
            x = x + block.down(jax.nn.gelu(block.up(block.second(x))))
        return x

    @staticmethod
    def inputs():
        """Of one step."""
        return jax.random.normal(jax.random.key(0), (SENTENCES, TOKENS, WIDTH))


class Convolutions(nnx.Module):
    """3 x 3 convolutions with ReLU, and a mean over pixels."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = (3, *CHANNELS)
        self.layers = nnx.List(
            nnx.Conv(i, o, (3, 3), rngs=rngs)
            for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def __call__(self, x):
        """(images, side, side, 3) -> (images, channels)."""
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x.mean((1, 2))

    @staticmethod
    def inputs():
        """Of one step."""
        return jax.random.normal(jax.random.key(0), (IMAGES, SIDE, SIDE, 3))


class LSTM(nnx.Module):
    """An LSTM over sequences of one feature; its last state."""

    def __init__(self, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(1, UNITS, rngs=rngs), rngs=False)

    def __call__(self, x):
        """(batch, time, 1) -> (batch, units)."""
        zeros = jnp.zeros((x.shape[0], UNITS))
        return self.rnn(x, initial_carry=(zeros, zeros))[:, -1]

    @staticmethod
    def inputs():
        """Of one step."""
        return jax.random.normal(jax.random.key(0), (BATCH, STEPS, 1))


MODELS: dict[str, Any] = {
    "transformer": Transformer,
    "convolutions": Convolutions,
    "lstm": LSTM,
}
# The input kernel of the LSTM is a column: the recurrent one is what matters.
WHERE = {"lstm": "rnn/cell/dense_h"}


def step(name: str, constraint=None, *, bake: bool = False) -> Callable:
    """A call that takes one compiled step."""
    model = MODELS[name](nnx.Rngs(0))
    if constraint is not None:
        svdrnn.constrain(model, constraint, where=WHERE.get(name, "**"))
    graph, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    x = MODELS[name].inputs()

    def loss(params, x):
        # A copy, since what a kernel keeps fixed is of the trace around this one else.
        model = nnx.merge(graph, params, rest, copy=True)
        if bake:
            model = svdrnn.bake(model)
        return jnp.mean(jnp.square(model(x)))

    taken = jax.jit(jax.value_and_grad(loss))
    return lambda: taken(params, x)


def calls(name: str) -> dict[str, Callable]:
    """All contenders of a model."""
    contenders = {"unconstrained": step(name)}
    for label, constraint in CONSTRAINTS.items():
        contenders[f"{label}, as it is"] = step(name, constraint)
        contenders[f"{label}, baked"] = step(name, constraint, bake=True)
    return contenders


# --- PyTorch ------------------------------------------------------------------------


def torch_calls(name: str) -> dict[str, Callable]:
    """The same in PyTorch, every weight under `parametrizations.orthogonal`.

    Of a convolution's weight (out, in, 3, 3) that makes every 3 x 3 matrix orthogonal,
    which is another constraint and cheaper; of an LSTM cell's (4 n, n) one tall matrix.
    """
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("error: --peers needs PyTorch: pip install torch==2.13.0")
    import torch

    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    orthogonal = torch.nn.utils.parametrizations.orthogonal
    build = {
        "transformer": _torch_transformer,
        "convolutions": _torch_convolutions,
        "lstm": _torch_lstm,
    }[name]
    contenders = {}
    for label in ("unconstrained", "orthogonal", "orthogonal, cached"):
        modules, forward, x = build(torch)
        if label != "unconstrained":
            for module, weight in modules:
                orthogonal(module, weight)
        parameters = [p for m in {m for m, _ in modules} for p in m.parameters()]
        cached = label.endswith("cached")
        contenders[f"torch {label}"] = _torch_step(
            torch, forward, x, parameters, cached
        )
    return contenders


def _torch_step(torch, forward, x, parameters, cached):
    def once():
        loss = forward(x).square().mean()
        return [float(loss.detach()), torch.autograd.grad(loss, parameters)]

    def call():
        if not cached:
            return once()
        with torch.nn.utils.parametrize.cached():
            return once()

    return call


def _torch_transformer(torch):
    nn = torch.nn
    blocks = [
        {
            "q": nn.Linear(WIDTH, WIDTH),
            "k": nn.Linear(WIDTH, WIDTH),
            "v": nn.Linear(WIDTH, WIDTH),
            "out": nn.Linear(WIDTH, WIDTH),
            "up": nn.Linear(WIDTH, 4 * WIDTH),
            "down": nn.Linear(4 * WIDTH, WIDTH),
        }
        for _ in range(BLOCKS)
    ]

    def heads(y):
        return y.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def forward(x):
        for b in blocks:
            y = nn.functional.layer_norm(x, (WIDTH,))
            q, k, v = (heads(b[name](y)) for name in "qkv")
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + b["out"](y.transpose(1, 2).flatten(-2))
            y = nn.functional.layer_norm(x, (WIDTH,))
            x = x + b["down"](nn.functional.gelu(b["up"](y), approximate="tanh"))
        return x

    modules = [(layer, "weight") for b in blocks for layer in b.values()]
    return modules, forward, torch.randn(SENTENCES, TOKENS, WIDTH)


def _torch_convolutions(torch):
    sizes = (3, *CHANNELS)
    layers = [
        torch.nn.Conv2d(i, o, 3, padding=1)
        for i, o in zip(sizes[:-1], sizes[1:], strict=True)
    ]

    def forward(x):
        for layer in layers:
            x = torch.relu(layer(x))
        return x.mean((2, 3))

    return [(m, "weight") for m in layers], forward, torch.randn(IMAGES, 3, SIDE, SIDE)


def _torch_lstm(torch):
    cell = torch.nn.LSTMCell(1, UNITS)

    def forward(x):
        h = c = x.new_zeros(x.shape[1], UNITS)
        for drive in x.unbind(0):
            h, c = cell(drive, (h, c))
        return h

    return [(cell, "weight_hh")], forward, torch.randn(STEPS, BATCH, 1)


# --- results ------------------------------------------------------------------------


def measure(
    models: list[str], *, peers: bool, seconds: float, out: pathlib.Path
) -> pathlib.Path:
    """Times the models, prints the table, and writes the results into a folder.

    Args:
      models: names in `MODELS`.
      peers: whether PyTorch is timed, too.
      seconds: for the rounds of a model, and as many for those in PyTorch.
      out: folder of the results.
    """
    results: dict[str, dict[str, timing.Timing]] = {}
    for name in models:
        results[name] = timing.in_turn(calls(name), seconds=seconds)
        if peers:
            # By themselves: a slow one would leave the others few rounds.
            results[name] |= timing.in_turn(torch_calls(name), seconds=seconds)
    print(table(results))
    record = {
        "machine": records.machine(),
        "revision": records.revision(),
        "models": {
            name: {label: dataclasses.asdict(t) for label, t in timings.items()}
            for name, timings in results.items()
        },
    }
    path = out / FILE
    files.write(path, json.dumps(record, indent=1) + "\n")
    return path


def table(results: dict[str, dict[str, timing.Timing]]) -> str:
    """Times, and ratios to the unconstrained model of the same framework.

    Fastest against fastest is the ratio that other work on the machine disturbs least.
    """
    lines = [
        "| model | contender | ms, median | range | to unconstrained | fastest |",
        "|---|---|---|---|---|---|",
    ]
    for name, timings in results.items():
        for label, t in timings.items():
            torch = label.startswith("torch")
            own = timings["torch unconstrained" if torch else "unconstrained"]
            low, high, median = (1e3 * s for s in (t.low, t.high, t.median))
            ratios = f"{t.median / own.median:.2f} | {t.low / own.low:.2f}"
            times = f"{median:.1f} | {low:.1f}–{high:.1f} | {ratios}"
            lines.append(f"| {name} | {label} | {times} |")
    return "\n".join(lines)
