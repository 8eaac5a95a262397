"""For which kind of device a program is traced.

Loops want other bodies on an accelerator than on a CPU: there a step is bound by the
number of its operations, here by the passes over its arrays. Which device a program is
for is decided after it is traced, so the default one counts: on another kind of device
the program is right all the same.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_STATED: contextvars.ContextVar[bool | None] = contextvars.ContextVar(
    "svdrnn_accelerator", default=None
)


def is_accelerator() -> bool:
    """Whether programs are for a GPU or a TPU, and not for a CPU."""
    stated = _STATED.get()
    if stated is not None:
        return stated
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    platform = getattr(device, "platform", device) or jax.default_backend()
    return platform != "cpu"


@contextlib.contextmanager
def stated(accelerator: bool) -> Iterator[None]:
    """Says so, for what is compiled where there is no such device."""
    token = _STATED.set(accelerator)
    try:
        yield
    finally:
        _STATED.reset(token)
