"""Which processes run the tests, and on which device."""

import os

import jax
import pytest


def pytest_addoption(parser):
    """Adds the option by which the tests of accelerators are tried."""
    parser.addoption(
        "--on-cpu",
        action="store_true",
        help="run the tests that want a GPU or a TPU on the CPU, to try them",
    )


def wants_accelerator(config):
    """Whether the tests of accelerators alone are asked for."""
    return config.option.markexpr == "accelerator"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """As -n 2 --dist loadfile, but not under --pdb, -n, --dist or -p no:xdist.

    Nor under --cov, which would have to know earlier: give it -n 2 as well; nor for
    tests of accelerators, of which one process takes the whole memory.
    """
    option = config.option
    chosen = getattr(option, "numprocesses", 0) is not None or option.dist != "no"
    single = option.usepdb or option.collectonly or getattr(option, "cov_source", [])
    single = single or wants_accelerator(config)
    worker = hasattr(config, "workerinput")
    if not (chosen or single or worker):
        option.numprocesses = 2
        option.dist = "loadfile"


def pytest_configure(config):
    """All but the tests of accelerators run on the CPU, whatever else there is."""
    if not wants_accelerator(config) or config.option.on_cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"  # of the commands that tests start
        jax.config.update("jax_platforms", "cpu")


def pytest_runtest_setup(item):
    """Skips what wants an accelerator where JAX has none."""
    if item.get_closest_marker("accelerator") and not item.config.option.on_cpu:
        if jax.default_backend() == "cpu":
            pytest.skip("no GPU or TPU, or not asked for by -m accelerator")
