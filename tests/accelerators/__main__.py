"""What ships, compiled for an accelerator that is not there.

    python -m tests.accelerators --target=v5e:2x2 [--only=GLOB ...] [--record]
    python -m tests.accelerators --target=h100

Nothing is run: programs are compiled by the accelerator's own compiler, which needs
neither the accelerator nor a driver. It is downloaded at the first time (libtpu, or two
wheels of JAX for CUDA), with `--compiler=DIR` to a folder that is chosen. Targets are
h100 and TPUs by version and shape (v5e:2x2, v5e:4x4, v6e:2x2, v5p:2x2x1, v4:2x2x1).

A line is printed for every program: CPU seconds to trace and lower it and to compile
it, temporary memory of a device, collectives in one run, operations in the body of each
loop over time, and where there is one the compiler's own estimate of a run.

Exit code 1 where a program does not compile; where a training step has another number
of collectives than one or its parameters are not whole on every device; or where a
program takes more temporary memory than is recorded (experiments/results/accelerators,
written by --record). The data sets are read where SVDRNN_DATA names their folder; the
programs of the others are those of random data in the same shapes.
"""

import argparse
import fnmatch
import importlib.metadata
import json
import pathlib
import sys
import time
from typing import Any

from experiments.runs import files, records
from tests.accelerators import reading, targets

RECORDS = records.RESULTS / "accelerators"
TOLERANCE = 1.02  # of temporary memory, to what is recorded


def main() -> int:
    """Compiles, prints and compares; the exit code."""
    options, target = parse()
    targets.prepare(target, options.compiler)
    from tests.accelerators import programs  # with JAX

    devices = target.devices()
    path = RECORDS / f"{target.name.replace(':', '_')}.json"
    recorded = json.loads(path.read_text())["programs"] if path.exists() else {}
    print(f"{'program':50} {'lower':>6} {'compile':>7} {'MiB':>8} coll.", end=" ")
    print("loops: operations x trips; estimate")
    rows: dict[str, dict] = {}
    failed = []
    names = []
    for program in programs.every():
        names.append(program.name)
        if not any(fnmatch.fnmatch(program.name, glob) for glob in options.only):
            continue
        try:
            row = compiled(program, target, devices)
        except Exception as error:  # whatever a compiler does
            message = str(error).strip().splitlines() or [""]
            failed.append(f"{program.name}: {type(error).__name__}: {message[0]}")
            print(f"{program.name:50} FAILED", flush=True)
            continue
        failed += wrong(program, row, recorded.get(program.name))
        rows[program.name] = {k: v for k, v in row.items() if k != "replicated"}
        print(line(program.name, row), flush=True)
        if options.record:
            store(path, target, {program.name: rows[program.name]})
    if options.record:
        store(path, target, {}, names)
    if not rows and not failed:
        failed.append(f"--only must match a program, got {' '.join(options.only)}")
    print(f"{len(rows)} programs compiled for {target.name}, {len(failed)} wrong")
    for message in failed:
        print(f"wrong: {message}")
    return 1 if failed else 0


def parse() -> tuple[argparse.Namespace, targets.Target]:
    """The flags, and the target that they name."""
    parser = argparse.ArgumentParser(
        "python -m tests.accelerators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", required=True, help="h100, v5e:2x2, ...")
    parser.add_argument("--only", action="append", help="names of programs, as a glob")
    parser.add_argument("--compiler", type=pathlib.Path, help="its folder")
    parser.add_argument("--record", action="store_true", help="write the record")
    options = parser.parse_args()
    options.only = options.only or ["*"]
    try:
        return options, targets.named(options.target)
    except ValueError as error:
        parser.error(str(error))


def compiled(program: Any, target: targets.Target, devices: list) -> dict[str, Any]:
    """What there is to say of a program, which is compiled."""
    import jax

    from svdrnn import _platform

    began = time.process_time()
    with _platform.stated(target.platform):
        lowered = program.lower(devices)
    middle = time.process_time()
    executable = lowered.compile()
    ended = time.process_time()
    found = reading.read(executable.as_text(), target.family)
    row: dict[str, Any] = {
        "seconds_to_lower": round(middle - began, 1),
        "seconds_to_compile": round(ended - middle, 1),
        "temp_bytes": executable.memory_analysis().temp_size_in_bytes,
        "collectives": found.collectives,
        "loops": [list(loop) for loop in found.loops],
    }
    if target.gigahertz:
        row["milliseconds"] = round(found.cycles / target.gigahertz / 1e6, 3)
    if program.collectives:
        shardings = jax.tree.leaves(executable.output_shardings[0].params)
        row["replicated"] = all(each.is_fully_replicated for each in shardings)
    return row


def wrong(program: Any, row: dict, recorded: dict | None) -> list[str]:
    """What is wrong with a program that was compiled."""
    messages = []
    if row["collectives"] != program.collectives:
        messages.append(
            f"collectives must be {program.collectives}, got {row['collectives']}"
        )
    if not row.get("replicated", True):
        messages.append("parameters must be whole on every device")
    most = recorded["temp_bytes"] * TOLERANCE if recorded else None
    if most is not None and row["temp_bytes"] > most:
        messages.append(
            f"temporary memory must be at most {most:,.0f} bytes, got"
            f" {row['temp_bytes']:,}"
        )
    return [f"{program.name}: {message}" for message in messages]


def line(name: str, row: dict) -> str:
    """A line of the table that is printed."""
    loops = ", ".join(f"{count} x {trips or '?'}" for trips, count in row["loops"])
    estimate = f"; {row['milliseconds']:.2f} ms" if "milliseconds" in row else ""
    return (
        f"{name:50} {row['seconds_to_lower']:6.1f} {row['seconds_to_compile']:7.1f}"
        f" {row['temp_bytes'] / 2**20:8.2f} {row['collectives']:5} {loops}{estimate}"
    )


def store(
    path: pathlib.Path,
    target: targets.Target,
    rows: dict,
    names: list[str] | None = None,
) -> None:
    """Writes rows into the record; with all names in their order, without others."""
    recorded = json.loads(path.read_text())["programs"] if path.exists() else {}
    recorded |= rows
    if names is not None:
        recorded = {name: recorded[name] for name in names if name in recorded}
    packages = [word.split("=")[0] for word in target.packages()]
    versions = {name: importlib.metadata.version(name) for name in ["jax", *packages]}
    record = {"target": target.name, "versions": versions, "programs": recorded}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
