"""Settings of all tests, and those chosen by fixture: double precision, strictness."""

import os

import hypothesis
import jax
import pytest

# The fixtures below only set flags, so that examples may share them. Every example
# may compile: no deadline. The same examples on every run; HYPOTHESIS_PROFILE=long
# tries many more, others each time.
hypothesis.settings.register_profile(
    "svdrnn",
    deadline=None,
    derandomize=True,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.register_profile(
    "long",
    hypothesis.settings.get_profile("svdrnn"),
    derandomize=False,
    database=None,
    max_examples=3000,
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "svdrnn"))


# Meshes need several devices, and a CPU is one unless it is told before its first use.
jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture
def x64():
    """float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict():
    """Errors where dtypes or ranks are promoted silently."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
