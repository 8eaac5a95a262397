"""Tables of what compilers make of our programs, by `tests.accelerators`. No JAX."""

import pathlib

from experiments.reproduce import markdown
from experiments.runs import files

TARGETS = {"v5e_2x2": "v5e", "h100": "H100"}  # records, and their names in tables
SIZES, STEPS = (128, 512, 1024), 784
# Layers of the table of speed, as the record and as the table calls them.
LAYERS = {
    "nnx.RNN": "`nnx.RNN`",
    "SpectralRNN auto": "`SpectralRNN`, 16",
    "SpectralRNN low_rank": "as diagonal plus low rank",
    "SpectralRNN dense": "as dense W",
}


def speed(results: pathlib.Path) -> str:
    """Operations, memory and estimate of the layers of the table of speed."""
    records = _records(results)
    rows = []
    for n in SIZES:
        for name, title in LAYERS.items():
            cells = [str(n), title]
            for programs in records.values():
                row = programs[f"speed {name} n={n}"]
                cells += [_in_a_step(row), f"{row['temp_bytes'] / 2**20:.0f}"]
            estimate = records["v5e"][f"speed {name} n={n}"]["milliseconds"]
            rows.append([*cells, f"{estimate:.1f}"])
    columns = [
        f"{target}: {what}" for target in records for what in ("operations", "MiB")
    ]
    return markdown.table(["n", "layer", *columns, "v5e: ms"], rows)


def programs(results: pathlib.Path) -> str:
    """Every other program: of runs, layers and kernels."""
    records = _records(results)
    names = dict.fromkeys(name for programs in records.values() for name in programs)
    rows = []
    for name in names:
        if name.startswith("speed "):
            continue
        cells = [name]
        for target, programs in records.items():
            row = programs.get(name)
            if row is None:
                cells += [""] * _width(target)
                continue
            cells += [
                f"{row['seconds_to_compile']:.1f}",
                f"{row['temp_bytes'] / 2**20:.1f}",
                str(row["collectives"]),
                _loops(row),
            ]
            if target == "v5e":
                cells.append(f"{row['milliseconds']:.2f}")
        rows.append(cells)
    columns = [
        f"{target}: {what}"
        for target in records
        for what in ("s", "MiB", "collectives", "operations", "ms")[: _width(target)]
    ]
    return markdown.table(["program", *columns], rows)


def counts(results: pathlib.Path) -> str:
    """How many programs were compiled, by which compilers, in a sentence."""
    parts = []
    for name, title in TARGETS.items():
        record = files.read_object(results / "accelerators" / f"{name}.json")
        programs = record["programs"].values()
        versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
        longest = max(row["seconds_to_compile"] for row in programs)
        steps = [
            row for name, row in record["programs"].items() if "training step" in name
        ]
        others = sum(
            row["collectives"] > 0 and "training step" not in name
            for name, row in record["programs"].items()
        )
        parts.append(
            f"For {title} {len(programs)} programs were compiled ({versions}), the"
            f" longest in {longest:.0f} s; {len(steps)} are training steps, each with"
            f" {_listed(sorted({row['collectives'] for row in steps}))} collective, and"
            f" {others or 'no'} other program has any."
        )
    return markdown.wrapped(" ".join(parts))


def _listed(values: list[int]) -> str:
    return " or ".join(map(str, values))


def _width(target: str) -> int:
    """The columns of a target; only the compiler for TPUs estimates."""
    return 5 if target == "v5e" else 4


def _in_a_step(row: dict) -> str:
    """The operations of each loop in one time step, of which an iteration has some."""
    return " + ".join(f"{count * trips / STEPS:g}" for trips, count in row["loops"])


def _loops(row: dict) -> str:
    """The operations in the loops of a program, in their order."""
    counts = [str(operations) for _, operations in row["loops"]]
    if len(counts) > 4:
        return f"{len(counts)} loops: {', '.join(counts)}"
    return " + ".join(counts)


def _records(results: pathlib.Path) -> dict[str, dict]:
    """{name of the target: its programs}."""
    return {
        title: files.read_object(results / "accelerators" / f"{name}.json")["programs"]
        for name, title in TARGETS.items()
    }
