"""What to say where a hand-written derivative does not go."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def forward_mode_explained() -> Iterator[None]:
    """Adds to JAX's error under forward mode which argument allows it.

    Raises:
      TypeError: a function with a hand-written backward pass is differentiated
        forwards (`jax.jvp`, `jax.jacfwd`, `jax.linearize`).
    """
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise TypeError(
            "custom_backward must be False in forward mode (jax.jvp, jax.jacfwd), got"
            " True: pass custom_backward=False to the layer, cell, constraint or"
            " function"
        ) from error
