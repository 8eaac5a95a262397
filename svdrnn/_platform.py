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

from svdrnn import checks

NAMES = ("cpu", "gpu", "tpu")

_STATED: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "svdrnn_platform", default=None
)


def name() -> str:
    """The kind of the device that programs are for, as JAX calls it: cpu, gpu, tpu."""
    stated = _STATED.get()
    if stated is not None:
        return stated
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return getattr(device, "platform", device) or jax.default_backend()


@contextlib.contextmanager
def stated(platform: str) -> Iterator[None]:
    """Says so, for what is compiled where there is no such device."""
    checks.check_name("platform", platform, NAMES)
    token = _STATED.set(platform)
    try:
        yield
    finally:
        _STATED.reset(token)
