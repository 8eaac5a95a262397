"""Step times of recurrent layers and of orthogonal matrices, each against its rivals.

    python -m experiments.benchmark [--quick] [--peers] [--out=DIR]

One step is loss and gradient of all parameters, the loss a random projection of the
last state, float32, one input feature. Compilation is excluded. Within a cell (one n
and T) all contenders run in turn, so ratios hold where absolute times do not; the
table gives the median and, as spread, the range.

Writes benchmark.json and benchmark.png to --out. A contender predicted above
--max_seconds a step or --max_gib of temporaries is printed as skipped, with the
prediction.
"""

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

import svdrnn
from experiments import figures, records, timing
from experiments.timing import Contender
from svdrnn import householder

_OUT = flags.DEFINE_string("out", "runs/benchmark", "Folder of the results.")
_QUICK = flags.DEFINE_bool("quick", False, "One cell and one matrix size, < 3 minutes.")
_PEERS = flags.DEFINE_bool("peers", False, "Also PyTorch and geotorch, if installed.")
_SIZES = flags.DEFINE_multi_integer("n", [128, 256, 512, 1024], "Hidden sizes.")
_STEPS = flags.DEFINE_multi_integer("steps", [100, 784, 2000], "Sequence lengths T.")
_BATCH = flags.DEFINE_integer("batch", 128, "Batch size.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 8.0, "Time of a cell's rounds, 15 at most.")
_MAX_SECONDS = flags.DEFINE_float("max_seconds", 60.0, "Longest step that is run.")
_MAX_GIB = flags.DEFINE_float("max_gib", 8.0, "Most temporary memory that is run.")

REFLECTORS = 16
BASELINE = "nnx.RNN(SimpleCell)"
OWN = "DenseRNN"


class Prepared(NamedTuple):
    call: Callable[[], Any]
    temp_bytes: int | None


# --- contenders ---------------------------------------------------------------------


def layer_step(model: nnx.Module, n: int, batch: int) -> Callable:
    """T -> loss and gradient of a whole-sequence layer, and its arguments."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    weights = jax.random.normal(jax.random.key(1), (batch, n))
    ours = isinstance(model, svdrnn.TransitionRNN)
    carry = model.cell.initialize_carry((batch, 1), nnx.Rngs(0))

    def loss(params, x):
        layer = nnx.merge(graph, params, rest)
        if ours:
            last = layer(x, last_only=True)
        else:
            last, _ = layer(x, initial_carry=carry, return_carry=True)
            last = last[1] if isinstance(last, tuple) else last  # LSTM: (c, h)
        return jnp.sum(last * weights)

    def make(steps):
        x = jax.random.uniform(jax.random.key(2), (batch, steps, 1))
        return jax.value_and_grad(loss), (params, x)

    return make


def products(n: int, batch: int) -> Callable:
    """T -> the 3 T dense (batch, n) x (n, n) products that a dense step consists of."""
    w = jnp.eye(n) + 1e-6 * jax.random.normal(jax.random.key(0), (n, n))

    def make(steps):
        def chain(h, w):
            return jax.lax.fori_loop(0, 3 * steps, lambda _, h: h @ w, h)

        return chain, (jnp.ones((batch, n)), w)

    return make


def spectral(n: int, m: int, method: str, **kwargs) -> nnx.Module:
    return svdrnn.SpectralRNN(
        1, n, reflectors=m, radius=0.01, method=method, rngs=nnx.Rngs(0), **kwargs
    )


def layer_contenders(n: int, batch: int) -> list[Contender]:
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
    rivals = [Contender(k, layer_step(v, n, batch)) for k, v in models.items()]
    return rivals + [Contender("dense products", products(n, batch))]


def matrix_contenders(n: int) -> list[Contender]:
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

    def make(build):
        value = jax.value_and_grad(lambda x: jnp.sum(build(x) * weights))
        return lambda _: (value, (square,))

    return [Contender(name, make(build)) for name, build in builds.items()]


# --- measuring ----------------------------------------------------------------------


def prepare(make, steps: int) -> Prepared:
    """Compiles a step; nothing is run."""
    function, arguments = make(steps)
    if arguments is None:
        return Prepared(function, None)
    compiled = jax.jit(function).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    temp = None if memory is None else int(memory.temp_size_in_bytes)
    return Prepared(lambda: compiled(*arguments), temp)


def predict_seconds(make, steps: int, short: int) -> float:
    """Seconds of a step, from one of `short` time steps, scaled linearly."""
    call = prepare(make, short).call
    timings = timing.in_turn({"": call}, seconds=0.0)
    return timings[""].median * steps / short


def predictions(rows: list[dict], n: int, steps: int) -> dict[str, float]:
    """Seconds of a layer's step at `steps`, from rows of the same n, linearly.

    A contender that was skipped at a shorter length keeps its prediction.
    """
    found = {}
    for row in rows:
        seconds = row.get("seconds", row.get("predicted_seconds"))
        if row.get("n") == n and row.get("steps") and seconds is not None:
            found[row["contender"]] = seconds * steps / row["steps"]
    return found


def measure_cell(
    contenders, steps: int, seconds: float, about: dict, predicted: dict | None = None
) -> list[dict]:
    """Rows of one cell: each contender timed, or skipped with its prediction.

    `predicted` has the seconds of a step where they are known; the reference is
    predicted from a few time steps where they are not.
    """
    rows, calls = [], {}
    predicted = dict(predicted or {})
    for name, make in contenders:
        row = {"contender": name, **about}
        rows.append(row)
        if name.startswith("paper") and "steps" in about and name not in predicted:
            predicted[name] = predict_seconds(make, steps, min(4, steps))
        if predicted.get(name, 0.0) > _MAX_SECONDS.value:
            row["predicted_seconds"] = predicted[name]
            row["skipped"] = f"{predicted[name]:.0f} s a step"
            continue
        prepared = prepare(make, steps)
        row["temp_bytes"] = prepared.temp_bytes
        if (prepared.temp_bytes or 0) > _MAX_GIB.value * 2**30:
            row["skipped"] = f"{prepared.temp_bytes / 2**30:.1f} GiB"
            continue
        calls[name] = prepared.call
    slow = {k: v for k, v in calls.items() if k.startswith("paper")}
    fast = {k: v for k, v in calls.items() if k not in slow}
    # The reference is in turn with itself alone: it is slower than all the others
    # together, and the fast ones deserve many rounds.
    timed = timing.in_turn(fast, seconds=seconds)
    for name, call in slow.items():
        timed |= timing.in_turn({name: call}, seconds=seconds)
    for row in rows:
        if row["contender"] in timed:
            found = timed[row["contender"]]
            row |= {
                "seconds": found.median,
                "low": found.low,
                "high": found.high,
                "repeats": found.repeats,
            }
    return rows


def measure_scaling(batch: int, steps: list[int], batches: list[int]) -> list[dict]:
    """SpectralRNN at n = 128, m = 16 over T, without and with chunks, and over batch.

    All points run in turn, so that the fitted exponents compare like with like.
    """
    rows, calls = [], {}

    def add(series, axis, value, prepared):
        row = {"kind": "scaling", "series": series, axis: value}
        row["temp_bytes"] = prepared.temp_bytes
        rows.append(row)
        calls[len(rows) - 1] = prepared.call

    for t in steps:
        for series, chunk in (("all states kept", None), ("chunks", math.isqrt(t))):
            model = spectral(128, REFLECTORS, "auto", chunk=chunk)
            add(series, "steps", t, prepare(layer_step(model, 128, batch), t))
    for b in batches:
        make = layer_step(spectral(128, REFLECTORS, "auto"), 128, b)
        add("batch", "batch", b, prepare(make, 200))
    for index, found in timing.in_turn(calls, seconds=30.0, most=9).items():
        rows[index] |= {"seconds": found.median, "low": found.low, "high": found.high}
        rows[index]["repeats"] = found.repeats
    return rows


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """The slope of log(seconds) over log(sizes), by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


# --- printing -----------------------------------------------------------------------


def print_cell(title: str, rows: list[dict], baselines: tuple[str, ...]) -> None:
    """One table: milliseconds, spread, memory and the ratio to each baseline."""
    found = {row["contender"]: row.get("seconds") for row in rows}
    print(f"\n{title}")
    head = "".join(f"{'/ ' + name:>24}" for name in baselines)
    print(f"  {'':<28}{'ms':>10}{'range':>20}{'MiB':>9}{head}")
    for row in rows:
        if "skipped" in row:
            print(f"  {row['contender']:<28}{'skipped: ' + row['skipped']:>30}")
            continue
        spread = f"{row['low'] * 1e3:.1f} - {row['high'] * 1e3:.1f}"
        memory = row["temp_bytes"]
        memory = "" if memory is None else f"{memory / 2**20:.0f}"
        ratios = "".join(
            f"{row['seconds'] / found[name]:>24.3f}" if found.get(name) else f"{'':>24}"
            for name in baselines
        )
        print(
            f"  {row['contender']:<28}{row['seconds'] * 1e3:>10.1f}{spread:>20}"
            f"{memory:>9}{ratios}"
        )


def print_choice(rows: list[dict], n: int) -> None:
    """What `method="auto"` picks, against what was measured."""
    found = {row["contender"]: row.get("seconds") for row in rows}
    for m in (REFLECTORS, n):
        low = found.get(f"SpectralRNN low_rank m={m}")
        dense = found.get(f"SpectralRNN dense m={m}")
        if low and dense:
            chosen = (
                "low_rank" if svdrnn.transitions.prefers_low_rank(n, 2 * m) else "dense"
            )
            faster = "low_rank" if low < dense else "dense"
            print(f"  auto at m={m}: {chosen}; faster here: {faster}")


def print_scaling(rows: list[dict]) -> None:
    """Milliseconds, memory and the exponent of each series."""
    print(f"\nSpectralRNN, n=128, m={REFLECTORS}: time over T and over batch (T=200)")
    for series in dict.fromkeys(row["series"] for row in rows):
        mine = [row for row in rows if row["series"] == series]
        axis = "batch" if series == "batch" else "steps"
        for row in mine:
            print(
                f"  {series:<18}{axis} {row[axis]:<8}{row['seconds'] * 1e3:>10.1f} ms"
                f"{row['temp_bytes'] / 2**20:>10.1f} MiB of temporaries"
            )
        slope = exponent([r[axis] for r in mine], [r["seconds"] for r in mine])
        print(f"  {series:<18}exponent {slope:.3f}")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {argv[1:]}")
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    sizes = [128] if _QUICK.value else _SIZES.value
    lengths = [784] if _QUICK.value else _STEPS.value
    matrices = [512] if _QUICK.value else [128, 256, 512, 1024, 2048]
    batch, rows = _BATCH.value, []

    def store(new):
        rows.extend(new)
        record = {
            "machine": records.machine(),
            "revision": records.revision(),
            "batch": batch,
            "rows": rows,
        }
        (out / "benchmark.json").write_text(json.dumps(record, indent=1) + "\n")

    for n in sizes:
        contenders = layer_contenders(n, batch)
        if _QUICK.value:
            contenders = [c for c in contenders if c.name != f"paper m={n}"]
        if _PEERS.value:
            from experiments import peers  # PyTorch is asked for only here.

            contenders = contenders + peers.layer_contenders(n, batch)
        for steps in sorted(lengths):
            about = {"kind": "layer", "n": n, "steps": steps}
            known = predictions(rows, n, steps)
            new = measure_cell(contenders, steps, _SECONDS.value, about, known)
            print_cell(f"n={n}, T={steps}, batch {batch}", new, (BASELINE, OWN))
            print_choice(new, n)
            store(new)
    for n in matrices:
        contenders = matrix_contenders(n)
        if _PEERS.value:
            from experiments import peers

            contenders = contenders + peers.matrix_contenders(n)
        about = {"kind": "matrix", "n": n}
        new = measure_cell(contenders, 0, _SECONDS.value / 2, about)
        print_cell(f"orthogonal matrix, n = m = {n}", new, ("svdrnn", "QR"))
        store(new)
    if not _QUICK.value:
        new = measure_scaling(batch, [100, 316, 1000, 3162, 10_000], [32, 64, 128, 256])
        print_scaling(new)
        store(new)
    figures.benchmark(out / "benchmark.json", out / "benchmark.png")
    print(f"\nwritten: {out / 'benchmark.json'}, {out / 'benchmark.png'}")


if __name__ == "__main__":
    app.run(main)
