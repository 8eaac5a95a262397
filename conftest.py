"""Tests run on two processes, unless the command line says otherwise."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """As -n 2 --dist loadfile, but not under --pdb, -n, --dist or -p no:xdist."""
    option = config.option
    chosen = getattr(option, "numprocesses", 0) is not None or option.dist != "no"
    worker = hasattr(config, "workerinput")
    if not (chosen or worker or option.usepdb or option.collectonly):
        option.numprocesses = 2
        option.dist = "loadfile"
