"""Tests run on two processes, unless the command line says otherwise."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """As -n 2 --dist loadfile, but not under --pdb, -n, --dist or -p no:xdist.

    Nor under --cov, which would have to know earlier: give it -n 2 as well.
    """
    option = config.option
    chosen = getattr(option, "numprocesses", 0) is not None or option.dist != "no"
    single = option.usepdb or option.collectonly or getattr(option, "cov_source", [])
    worker = hasattr(config, "workerinput")
    if not (chosen or single or worker):
        option.numprocesses = 2
        option.dist = "loadfile"
