"""Measures the contenders of a cell, or predicts what would take too long."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from experiments.benchmark import contenders, timing


class Limits(NamedTuple):
    """What is still run.

    seconds: of all rounds of a cell.
    step: seconds of the longest step.
    gib: most temporary memory of a step.
    """

    seconds: float = 8.0
    step: float = 60.0
    gib: float = 8.0


def least_bytes(n: int, steps: int, batch: int) -> int:
    """What a dense layer with its gradient and a batch need, in float32."""
    return 4 * (2 * n * n + batch * steps * (n + 1))


class Prepared(NamedTuple):
    """A step ready to be called, and the bytes of temporaries, where they are known."""

    call: Callable[[], Any]
    temp_bytes: int | None


def prepare(make: timing.Make, steps: int) -> Prepared:
    """Compiles a step; nothing is run."""
    function, arguments = make(steps)
    if arguments is None:
        return Prepared(function, None)
    compiled = jax.jit(function).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    temp = None if memory is None else int(memory.temp_size_in_bytes)
    return Prepared(lambda: compiled(*arguments), temp)


def predict_seconds(make: timing.Make, steps: int, short: int) -> float:
    """Seconds of a step, from one of `short` time steps, scaled linearly."""
    call = prepare(make, short).call
    timings = timing.in_turn({"": call}, seconds=0.0)
    return timings[""].median * steps / short


def predictions(
    rows: list[dict], n: int, steps: int, devices: int = 1
) -> dict[str, float]:
    """Seconds of a layer's step at `steps`, from rows of the same n, linearly.

    A contender that was skipped at a shorter length keeps its prediction.
    """
    predicted = {}
    for row in rows:
        seconds = row.get("seconds", row.get("predicted_seconds"))
        same = (row.get("n"), row.get("devices", 1)) == (n, devices)
        if same and row.get("steps") and seconds is not None:
            predicted[row["contender"]] = seconds * steps / row["steps"]
    return predicted


def measure_cell(
    rivals: Iterable[timing.Contender],
    steps: int,
    limits: Limits,
    about: dict,
    predicted: dict[str, float] | None = None,
) -> list[dict]:
    """Rows of one cell: each contender timed, or skipped with its prediction.

    `predicted` has the seconds of a step where they are known; the reference is
    predicted from a few time steps where they are not.
    """
    rows: list[dict] = []
    calls: dict[str, Callable] = {}
    predicted = dict(predicted or {})
    for name, make in rivals:
        row: dict[str, Any] = {"contender": name, **about}
        rows.append(row)
        if (
            name.startswith(contenders.PAPER)
            and "steps" in about
            and name not in predicted
        ):
            predicted[name] = predict_seconds(make, steps, min(4, steps))
        if predicted.get(name, 0.0) > limits.step:
            row["predicted_seconds"] = predicted[name]
            row["skipped"] = f"{predicted[name]:.0f} s a step"
            continue
        prepared = prepare(make, steps)
        row["temp_bytes"] = prepared.temp_bytes
        gib = (prepared.temp_bytes or 0) / 2**30
        if gib > limits.gib:
            row["skipped"] = f"{gib:.1f} GiB"
            continue
        calls[name] = prepared.call
    slow = {k: v for k, v in calls.items() if k.startswith(contenders.PAPER)}
    fast = {k: v for k, v in calls.items() if k not in slow}
    # The reference is in turn with itself alone: it is slower than all the others
    # together, and the fast ones deserve many rounds.
    timed = timing.in_turn(fast, seconds=limits.seconds)
    for name, call in slow.items():
        timed |= timing.in_turn({name: call}, seconds=limits.seconds)
    for row in rows:
        if row["contender"] in timed:
            time = timed[row["contender"]]
            row |= {
                "seconds": time.median,
                "low": time.low,
                "high": time.high,
                "repeats": time.repeats,
            }
    return rows


def ratios(rows: list[dict]) -> list[dict]:
    """Of every cell that has both: SpectralRNN's time to that of `nnx.RNN`."""
    seconds = {
        (row["n"], row["steps"], row["devices"], row["contender"]): row["seconds"]
        for row in rows
        if row["kind"] == "layer" and "seconds" in row
    }
    cells = []
    for *cell, contender in seconds:
        base = seconds.get((*cell, contenders.BASELINE))
        if contender == contenders.HEADLINE and base is not None:
            names = dict(zip(("n", "steps", "devices"), cell, strict=True))
            ratio = seconds[*cell, contender] / base
            cells.append({**names, "contender": contender, "ratio": ratio})
    return cells


def measure_scaling(batch: int, steps: list[int], batches: list[int]) -> list[dict]:
    """SpectralRNN at n = 128, m = 16 over T, without and with chunks, and over batch.

    All points run in turn, so that the fitted exponents compare like with like.
    """
    rows: list[dict] = []
    calls: dict[int, Callable] = {}

    def add(series: str, axis: str, value: int, prepared: Prepared) -> None:
        row: dict[str, Any] = {"kind": "scaling", "series": series, axis: value}
        row["temp_bytes"] = prepared.temp_bytes
        rows.append(row)
        calls[len(rows) - 1] = prepared.call

    for t in steps:
        for series, chunk in (("all states kept", None), ("chunks", math.isqrt(t))):
            model = contenders.spectral(128, contenders.REFLECTORS, "auto", chunk=chunk)
            add(
                series, "steps", t, prepare(contenders.layer_step(model, 128, batch), t)
            )
    for b in batches:
        make = contenders.layer_step(
            contenders.spectral(128, contenders.REFLECTORS, "auto"), 128, b
        )
        add("batch", "batch", b, prepare(make, 200))
    for index, time in timing.in_turn(calls, seconds=30.0, most=9).items():
        rows[index] |= {"seconds": time.median, "low": time.low, "high": time.high}
        rows[index]["repeats"] = time.repeats
    return rows
