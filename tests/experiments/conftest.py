"""Quick compilation: these programs are small and run for a moment."""

import os

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_compilation():
    """Programs are not optimised, in this process and in those that tests start."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, name.upper(), "1")
        yield
    jax.config.update(name, before)
