"""Which processes run the tests, on which device, and what they compile only once."""

import os
import shutil
import tempfile

import jax
import pytest

BLOCK = 8  # tests


def pytest_addoption(parser):
    """Adds the option by which the tests of accelerators are tried."""
    parser.addoption(
        "--on-cpu",
        action="store_true",
        help="run the tests that want a GPU or a TPU on the CPU, to try them",
    )
    parser.addoption(
        "--part",
        metavar="K/N",
        help="run the K-th of N parts of the tests that are asked for, K from 1",
    )


def wants_accelerator(config):
    """Whether the tests of accelerators alone are asked for."""
    return config.option.markexpr == "accelerator"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leaves the tests of --part: blocks from all files, dealt round.

    Tests of a block stand one after another, and mostly share programs and runs.
    """
    if config.option.part:
        part, parts = map(int, config.option.part.split("/"))
        others = [
            item for i, item in enumerate(items) if i // BLOCK % parts != part - 1
        ]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """As -n 2 --dist worksteal, but not under --pdb, -n, --dist or -p no:xdist.

    By files (loadfile) those of few and long tests come last, and one process waits.

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
        option.dist = "worksteal"


def pytest_configure(config):
    """All but the tests of accelerators run on the CPU, whatever else there is.

    What one process has compiled, all take from a folder: the tests' processes and the
    commands that they start. It lasts as long as the tests; a JAX_COMPILATION_CACHE_DIR
    of your own is kept.
    """
    settings = {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
    }
    if not wants_accelerator(config) or config.option.on_cpu:
        settings["JAX_PLATFORMS"] = "cpu"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="svdrnn-compiled-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        settings["JAX_COMPILATION_CACHE_DIR"] = folder
    for name, value in settings.items():
        os.environ[name] = str(value)
        jax.config.update(name.lower(), value)


def pytest_runtest_setup(item):
    """Skips what wants an accelerator where JAX has none."""
    if item.get_closest_marker("accelerator") and not item.config.option.on_cpu:
        if jax.default_backend() == "cpu":
            pytest.skip("no GPU or TPU, or not asked for by -m accelerator")
