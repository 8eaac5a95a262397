"""Makes the runs that are missing, records them, and draws."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator

from experiments.reproduce import plan, protocol, status
from experiments.reproduce.figures import drawing
from experiments.runs import records


def reproduce(request: plan.Request) -> None:
    """Runs what is missing of each figure in turn, and draws it.

    Raises:
      ValueError: a record of another config, unless it is to be made again.
    """
    for figure in request.figures:
        for each in missing(figure, request):
            run(each, request)
        drawing.show(figure, request.scale, request.results)


def missing(figure: protocol.Figure, request: plan.Request) -> list[protocol.Run]:
    """The runs of a figure that are to be made; prints how many are there.

    Raises:
      ValueError: a record of another config, unless it is to be made again.
    """
    found = plan.asked(figure, request)
    print(f"{figure.name}: {plan.totals(found)}", flush=True)
    _refuse_problems(found, request.redo)
    return [each.run for each in found if not each.record]


def run(each: protocol.Run, request: plan.Request) -> None:
    """Makes one run, or goes on with it, and records it, diverged or not."""
    from experiments.training import certificates, loop  # errors before are quick

    config = protocol.build_config(each)
    place = folder(each, request.workdir)
    print(f"---- {each.name} in {place}", flush=True)
    light = request.scale == "smoke"
    with _light_compilation() if light else contextlib.nullcontext():
        try:
            loop.train(config, place, config_file=protocol.config_file(each))
            if each.certificate:
                certificates.of_run(place)
        except loop.NonFiniteLoss as error:
            print(f"diverged: {error}", flush=True)
    print(records.record(place, each.name, request.results), flush=True)


def folder(each: protocol.Run, workdir: pathlib.Path) -> pathlib.Path:
    """Where a run works: a folder of its config, so that no older one is in the way."""
    content = json.dumps(protocol.config_dict(each) | {"data_dir": ""}, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return workdir / f"{each.name}-{digest}"


def _refuse_problems(found: list[status.Status], redo: bool) -> None:
    problems = [each.problem for each in found if each.problem]
    if problems and not redo:
        raise ValueError(f"{problems[0]}\n--redo runs it again; or remove the file")


@contextlib.contextmanager
def _light_compilation() -> Iterator[None]:
    """Programs that run for a moment only are compiled without optimisation."""
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)
