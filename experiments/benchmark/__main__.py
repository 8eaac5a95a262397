"""Step times of recurrent layers and of orthogonal matrices, each against its rivals.

    python -m experiments.benchmark [--quick] [--devices=N] [--peers] [--out=DIR]
    python -m experiments.benchmark constraints [--model=NAME] [--peers] [--out=DIR]
    python -m experiments.benchmark startup [--configs=NAME] [--out=DIR]

One step is loss and gradient of all parameters, the loss a random projection of the
last state, float32, one input feature. Compilation is excluded. Within a cell (one n
and T) all contenders run in turn, so ratios hold where absolute times do not; the
table gives the median and, as spread, the range. The ratio that counts is that of
SpectralRNN to nnx.RNN with the same activation, leaky ReLU.

--devices=N measures every cell of layers on one device and again on N, with 0 on all
that there are (of a CPU as many as cores): the batch is split between them, and the
gradients are summed once, for all contenders alike.

Writes benchmark.json and benchmark.png to --out. A contender predicted above
--max_seconds a step or --max_gib of temporaries is printed as skipped, with the
prediction.

With `constraints` a step is that of a small transformer, a convolutional net and an
LSTM: the unconstrained model, and the same with its kernels constrained (of the LSTM
the recurrent one), each built where it is read (`as it is`) or once a call (`baked`).
--peers adds the same models in PyTorch: plain, under `parametrizations.orthogonal`, and
with `parametrize.cached()`. It writes benchmark_constraints.json to --out.

With `startup` it is what a run takes before its first step and beside its steps, for
every shipped config or those of --configs: imports, data, initialization, compilation,
the first step, a step, an evaluation, a checkpoint, memory, and the number of programs;
once with an empty compilation cache and once with what that left. It writes
benchmark_startup.json to --out.

Exit codes: 0 done, 1 wrong flags, 2 a size or a folder that does not fit.
"""

import json
import pathlib
from collections.abc import Callable

import jax
from absl import flags

from experiments import commandline
from experiments.benchmark import (
    constraints,
    contenders,
    drawing,
    measuring,
    peers,
    printing,
    startup,
)
from experiments.runs import cores, files, records
from experiments.training import memory
from svdrnn import checks

_OUT = flags.DEFINE_string("out", "runs/benchmark", "Folder of the results.")
_QUICK = flags.DEFINE_bool(
    "quick", False, "One cell and one matrix size, nothing above 10 s a step."
)
_PEERS = flags.DEFINE_bool("peers", False, "Also PyTorch and geotorch, if installed.")
_DEVICES = flags.DEFINE_integer(
    "devices", 1, "Also on so many; 0: on all.", lower_bound=0, upper_bound=256
)
_SIZES = flags.DEFINE_multi_integer(
    "n", [128, 256, 512, 1024], "Hidden sizes.", lower_bound=1
)
_STEPS = flags.DEFINE_multi_integer(
    "steps", [100, 784, 2000], "Sequence lengths T.", lower_bound=1
)
_BATCH = flags.DEFINE_integer("batch", 128, "Batch size.", lower_bound=1)
_SECONDS = flags.DEFINE_float(
    "seconds",
    None,
    "Time of a cell's rounds, 15 at most; default: 8, of each model of constraints 60.",
)
_MAX_SECONDS = flags.DEFINE_float("max_seconds", 60.0, "Longest step that is run.")
_MAX_GIB = flags.DEFINE_float("max_gib", 8.0, "Most temporary memory that is run.")
_MODELS = flags.DEFINE_multi_enum(
    "model",
    list(constraints.MODELS),
    list(constraints.MODELS),
    "Models of constraints to time.",
)

_CONFIGS = flags.DEFINE_multi_enum(
    "configs",
    list(startup.CONFIGS),
    list(startup.CONFIGS),
    "Configs of startup to run.",
)

CELL_SECONDS, MODEL_SECONDS = 8.0, 60.0  # of --seconds
# The flags that each benchmark reads, by the word that asks for it, besides --out.
READ = {
    "": ("quick", "devices", "n", "steps", "batch", "seconds", "max_seconds", "max_gib")
    + ("peers",),
    "constraints": ("model", "seconds", "peers"),
    "startup": ("configs",),
}

QUICK_SECONDS = 10.0  # longest step of --quick
MATRICES = [128, 256, 512, 1024, 2048]  # sizes n
# Of the scaling of one layer.
LENGTHS = [100, 316, 1000, 3162, 10_000]
BATCHES = [32, 64, 128, 256]


def main(words: list[str]) -> None:
    """Measures what the flags ask for; whatever is wrong is one line."""
    name = words[0] if len(words) == 1 and words[0] in READ else ""
    if not name:
        commandline.no_words(words)
    commandline.refuse_flags("this benchmark", ("out", *READ[name]))
    if _QUICK.value:
        commandline.refuse_flags("--quick", set(READ[""]) - {"n", "steps"} | {"out"})
    try:
        if name == "startup":
            startup.measure(_CONFIGS.value, _folder())
            return
        if name == "constraints":
            constraints.measure(
                _MODELS.value,
                peers=_PEERS.value,
                seconds=_seconds(MODEL_SECONDS),
                out=_folder(),
            )
            return
        numbers = _devices(_DEVICES.value, _BATCH.value)  # before JAX is used
        longest = checks.check_finite("--max_seconds", _MAX_SECONDS.value, least=0)
        if _QUICK.value:
            longest = min(longest, QUICK_SECONDS)
        limits = measuring.Limits(
            _seconds(CELL_SECONDS),
            longest,
            checks.check_finite("--max_gib", _MAX_GIB.value, least=0),
        )
        memory.check_bytes(
            "--n, --steps and --batch",
            (max(_SIZES.value), max(_STEPS.value), _BATCH.value),
            measuring.least_bytes(max(_SIZES.value), max(_STEPS.value), _BATCH.value),
        )
        _measure(numbers, limits, _folder())
    except (ValueError, OSError) as error:
        commandline.refuse(error)


def _seconds(default: float) -> float:
    value = default if _SECONDS.value is None else _SECONDS.value
    return checks.check_finite("--seconds", value, least=0)


def _folder() -> pathlib.Path:
    """The folder of the results, which is made where there is none."""
    out = commandline.folder(_OUT.value, "--out")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _measure(numbers: list[int], limits: measuring.Limits, out: pathlib.Path) -> None:
    """Cell by cell, with the results so far in the folder."""
    machine = records.machine()
    print(f"{machine['device']}, {machine['cores']} cores, JAX {machine['jax']}")
    rows: list[dict] = []

    def store(new: list[dict]) -> None:
        rows.extend(new)
        record = {
            "machine": machine,
            "revision": records.revision(),
            "batch": _BATCH.value,
            "ratios": measuring.ratios(rows),
            "rows": rows,
        }
        files.write(out / "benchmark.json", json.dumps(record, indent=1) + "\n")

    for n in [128] if _QUICK.value else _SIZES.value:
        for devices in numbers:
            _measure_layers(n, devices, limits, rows, store)
    for n in [512] if _QUICK.value else MATRICES:
        rivals = contenders.matrices(n)
        if _PEERS.value:
            rivals += peers.matrices(n)
        about = {"kind": "matrix", "n": n}
        half = limits._replace(seconds=limits.seconds / 2)
        new = measuring.measure_cell(rivals, 0, half, about)
        printing.cell(f"orthogonal matrix, n = m = {n}", new, ("svdrnn", "QR"))
        store(new)
    if not _QUICK.value:
        new = measuring.measure_scaling(_BATCH.value, LENGTHS, BATCHES)
        printing.scaling(new)
        store(new)
    printing.ratios(measuring.ratios(rows))
    drawing.draw(out / "benchmark.json", out / "benchmark.png")
    print(f"\nwritten: {out / 'benchmark.json'}, {out / 'benchmark.png'}")


def _devices(count: int, batch: int) -> list[int]:
    """How many devices to measure on: one, and as many as are asked for.

    Raises:
      ValueError: there are fewer, or they do not divide the batch.
    """
    # Before JAX looks for devices; only those of a CPU can be chosen.
    jax.config.update("jax_num_cpu_devices", count or cores.count())
    there = jax.device_count()
    number = count or there
    if number > there:
        raise ValueError(f"--devices must be at most {there}, got {number}")
    if batch % number:
        raise ValueError(f"--batch must be a multiple of {number} devices, got {batch}")
    return sorted({1, number})


def _measure_layers(
    n: int,
    devices: int,
    limits: measuring.Limits,
    rows: list[dict],
    store: Callable[[list[dict]], None],
) -> None:
    """All lengths of one hidden size on so many devices."""
    batch = _BATCH.value
    rivals = contenders.layers(n, batch, devices)
    if _QUICK.value:
        rivals = [
            rival for rival in rivals if rival.name != f"{contenders.PAPER} m={n}"
        ]
    if _PEERS.value and devices == 1:
        rivals += peers.layers(n, batch)
    for steps in [784] if _QUICK.value else sorted(_STEPS.value):
        about = {"kind": "layer", "n": n, "steps": steps, "devices": devices}
        predicted = measuring.predictions(rows, n, steps, devices)
        new = measuring.measure_cell(rivals, steps, limits, about, predicted)
        printing.cell(
            f"n={n}, T={steps}, batch {batch}, {printing.devices(devices)}",
            new,
            (contenders.BASELINE, contenders.OWN),
        )
        printing.choice(new, n)
        store(new)


if __name__ == "__main__":
    commandline.run(main)
