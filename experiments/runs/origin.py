"""What moves the numbers of a run besides its config: code, machine, settings.

Each session of a run writes it into metrics.jsonl, and the next one looks at it there.
Settings of `STREAMS` belong to what a run is, since the random streams are others
under others. The rest moves numbers by rounding, or as far as the code has changed: the
next session says so and goes on.
"""

import os
import pathlib
from typing import Any

from experiments.runs import identity, logs, records

# Settings of JAX under which the random streams are others, and their defaults. The
# random generator is none of them: training has one of its own.
STREAMS = {"jax_enable_x64": False, "jax_random_seed_offset": 0}

# Settings of JAX that move numbers by rounding.
ROUNDING = (
    "jax_default_matmul_precision",
    "jax_disable_jit",
    "jax_disable_most_optimizations",
    "jax_exec_time_optimization_effort",
    "jax_optimization_level",
    "jax_softmax_custom_jvp",
)

# Variables of the environment that do so, read by XLA and by what is below it.
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")

# What says where XLA writes, and on how many devices `config.train.devices` may count.
_NO_NUMBERS = ("--xla_dump", "--xla_force_host_platform_device_count")

# What moves no number.
_FREE = ("machine.cores", "machine.python")


def present() -> dict[str, Any]:
    """That of this process: {"revision", "machine", "settings"}."""
    return {
        "revision": records.revision(),
        "machine": records.machine(),
        "settings": settings(),
    }


def settings() -> dict[str, Any]:
    """The settings that move numbers; JAX is not started by it."""
    import jax

    there = jax.config.values  # of this version of JAX
    names = [name for name in (*STREAMS, *ROUNDING) if name in there]
    # As an attribute a setting is that of the thread; some are none.
    values = {name: getattr(jax.config, name, there[name]) for name in names}
    return values | {name: _flags(os.environ.get(name, "")) for name in VARIABLES}


def _flags(text: str) -> str:
    """Flags without those that are about places."""
    words = [word for word in text.split() if not word.startswith(_NO_NUMBERS)]
    return " ".join(word for word in words if os.sep not in word)


def of_last_session(workdir: pathlib.Path) -> dict[str, Any]:
    """What the last session of a run wrote; of a run of before, what there was then.

    Empty where the log is gone or damaged.
    """
    try:
        _, events = logs.read_metrics(workdir / "metrics.jsonl")
    except (OSError, ValueError):
        return {}
    return logs.last_session(events) or {}


def check_streams(where: str, old: Any, new: dict[str, Any]) -> None:
    """Refuses settings under which the random streams are others.

    Args:
      where: what holds the old settings, for the error.
      old: `settings` of then; what they lack is not compared.
      new: those of this process.

    Raises:
      ValueError: one of `STREAMS` differs; the text names all that do.
    """
    if changed := changed_streams(old, new):
        raise ValueError(
            f"{where} was made with other random streams; name another folder or go"
            " back to these settings (old -> new):\n  " + "\n  ".join(changed)
        )


def changed_streams(old: Any, new: dict[str, Any]) -> list[str]:
    """'name: old -> new' of each of `STREAMS` that differs, as `check_streams`."""
    return _changes(old, {name: new[name] for name in STREAMS if name in new})


def notice(old: Any, new: dict[str, Any]) -> str | None:
    """One line on what differs and may move numbers; None where nothing does.

    Args:
      old: as `of_last_session`; what it lacks, or does not know, is not compared.
      new: as `present`.
    """
    parts = ("revision", "machine", "settings", "devices")
    changed = _changes(old, {part: new[part] for part in parts if part in new})
    if not changed:
        return None
    return f"changed since then, and may move numbers: {', '.join(changed)}"


def _changes(old: Any, new: dict[str, Any]) -> list[str]:
    """'name: old -> new' of each value that both know and that differs."""
    before = identity.flatten(old) if isinstance(old, dict) else {}
    return [
        f"{field.rpartition('.')[2]}: {before[field]!r} -> {value!r}"
        for field, value in identity.flatten(new).items()
        if field not in _FREE
        and not (field == "revision" and None in (value, before.get(field)))
        and field in before
        and before[field] != value
    ]
