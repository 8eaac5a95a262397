"""What an optimized program says of itself as text: its loops and its collectives.

The text is XLA's: computations, one of which is the entry, of one instruction a line.
"""

import re
from typing import NamedTuple

COLLECTIVES = re.compile(
    r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    r"|collective-broadcast|ragged-all-to-all)(-start)?$"
)
# What takes no time: names for what there is already, and the end of what was begun.
FREE = re.compile(
    r"(parameter|constant|get-tuple-element|tuple|bitcast|while|call|conditional"
    r"|after-all|partition-id|replica-id|.*-done)$"
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)(?= [\w\-]+\()|\S+) ([\w\-]+)\("
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SCALAR = re.compile(r"(s32|u32|s64|pred)\[\]")


class Instruction(NamedTuple):
    """An instruction of a computation.

    shape: of what it gives, as text.
    """

    shape: str
    opcode: str
    line: str

    def called(self, name: str) -> str | None:
        """The computation that an attribute of that name calls, as `body`."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.line)
        return match[1] if match else None


class Loop(NamedTuple):
    """A loop of a program.

    trips: how often its body is run, of one pass through what it is in; None where
      the program does not say.
    operations: in its body, without those of loops in it.
    """

    trips: int | None
    operations: int


class Reading(NamedTuple):
    """What there is in a program.

    collectives: how many are made in one run.
    loops: in the order of the program, those of a loop behind itself.
    cycles: the compiler's estimate of a run.
    """

    collectives: int
    loops: list[Loop]
    cycles: int


def read(text: str, accelerator: str) -> Reading:
    """The reading of an optimized program.

    Args:
      text: of the program.
      accelerator: `tpu`, whose scalars are no operations of their own, or `cuda`, where
        each is a kernel.
    """
    computations, entry = _computations(text)

    def of(name: str) -> Reading:
        collectives, loops, cycles = 0, [], 0
        for instruction in computations[name]:
            collectives += bool(COLLECTIVES.match(instruction.opcode))
            match = _CYCLES.search(instruction.line)
            cycles += int(match[1]) if match else 0
            if instruction.opcode == "while":
                body = instruction.called("body")
                assert body is not None, instruction.line
                inner = of(body)
                trips = _trips(computations, instruction)
                collectives += inner.collectives * (trips or 1)
                cycles += inner.cycles * (trips or 1)
                operations = _operations(computations, body, accelerator)
                loops += [Loop(trips, operations), *inner.loops]
            elif instruction.opcode in ("call", "conditional", "async-start"):
                for inner in map(of, _branches(instruction)):
                    collectives += inner.collectives
                    cycles += inner.cycles
                    loops += inner.loops
        return Reading(collectives, loops, cycles)

    return of(entry)


def _trips(computations, loop: Instruction) -> int | None:
    """How often the body is run: said beside it, or the constant of its condition."""
    if match := _TRIPS.search(loop.line):
        return int(match[1])
    condition = computations[loop.called("condition")]
    constants = [
        int(match[1])
        for instruction in condition
        if (match := re.search(r" s32\[\]\S* constant\((\d+)\)", instruction.line))
    ]
    return constants[0] if len(constants) == 1 else None


def _branches(instruction: Instruction) -> list[str]:
    match = re.search(r"branch_computations=\{([^}]*)\}", instruction.line)
    if match:
        return [name.strip().lstrip("%") for name in match[1].split(",")]
    names = ("to_apply", "calls", "true_computation", "false_computation")
    return [name for name in map(instruction.called, names) if name]


def _operations(computations, name, accelerator) -> int:
    count = 0
    for instruction in computations[name]:
        if FREE.match(instruction.opcode):
            if instruction.opcode in ("call", "conditional"):
                branches = _branches(instruction)
                count += max(
                    (_operations(computations, each, accelerator) for each in branches),
                    default=0,
                )
            continue
        if accelerator == "tpu" and _SCALAR.match(instruction.shape):
            continue
        count += 1
    return count


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """{name: instructions} of a program, and the name of its entry."""
    computations: dict[str, list[Instruction]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[2]
            computations[name] = []
            entry = name if match[1] else entry
        elif name and (match := _INSTRUCTION.match(line)):
            computations[name].append(Instruction(match[1], match[2], line))
    return computations, entry
