"""What a figure is: its runs at three scales, and how they are drawn. No JAX.

`full` is the paper's size: hidden units, reflectors, lengths, depths. Its numbers of
iterations, its lags, radii and leaks are ours.

`cpu` fits two cores in 18 hours, with the same tasks, lengths and sizes; each figure's
file says what is cut. Seeds: three for F1, F2 (their slowest runs have one) and the
table of pixel MNIST, two for F3 and F4, one for F5 and PTB words, whose gated models
have two in `tuned`; in `full` five, of F5 three.

`smoke` goes through all of it with a few units, steps and settings, on stand-in data:
its figures mean nothing.

F1 to F4 have two protocols side by side. `paper` has one setting for all models:
Adam at 1e-3, times 0.99 after an epoch, r = 0.01, 16 reflectors a side, leaky ReLU, a
random start (the IRNN from the identity, which makes it one; residual branches with
singular values around 0, as the authors advise). Its iterations are those of `tuned`,
but for F1, which has 10,000, and F2, which has 4,000 and 2,000; gradients are clipped
at norm 1, of which the paper says nothing.

In `tuned` each model has the settings of the shipped config and, of its trials, as many
for every model, what was best on validation data (`grids.CHOSEN`). Copying at lags of
500 and more, ornn and spectral have a much smaller rate for the reflectors, which the
others have not (see configs/copying.py). rnn starts random, irnn from the identity
(copy: orthogonal), ornn and spectral as the shipped config says; but for adding ornn
starts from the identity, and only spectral has singular values that forget, which some
thirty further runs chose (experiments/results/addition_log.md).
"""

import importlib
import pathlib
import runpy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from configs import common
from experiments.data import stand_in
from experiments.runs import identity
from experiments.tasks import registry, scoring

if TYPE_CHECKING:
    from matplotlib import figure

SCALES = ("smoke", "cpu", "full")
RECURRENT = ("rnn", "irnn", "lstm", "ornn", "spectral")
FEEDFORWARD = ("mlp", "resnet", "spectral_mlp", "spectral_resnet")

PROTOCOLS = ("paper", "tuned")

# What the protocol `paper` changes in any config.
PAPER = {
    "model.activation": "leaky_relu",
    "model.leak": 0.01,
    "model.init": "random",
    "model.input_scale": 1.0,
    "model.radius": 0.01,
    "model.center": 1.0,
    "model.init_sigma": None,
    "model.reflectors": 16,
    "train.learning_rate": 1e-3,
    **{f"train.rates.{part}": None for part in common.get_config().train.rates},
    "train.schedule": "exponential",
    "train.decay_rate": 0.99,
}

SMOKE = {
    "data_dir": stand_in.NAME,
    "model.hidden": 8,
    "model.reflectors": 4,
    "train.batch_size": 16,
    "train.epochs": None,
    "train.steps": 4,
    "train.log_every": 2,
    "train.eval_every": 2,
    "train.checkpoint_every": 4,
}


class Run(NamedTuple):
    """A run of a figure.

    name: place of its record below `experiments/results`.
    config: file in `configs/`, or the path of another, with `:variant` where it has
      one.
    changes: {field: value} besides.
    free: fields in which a record may differ, because a search chose them.
    protocol: see above.
    certificate: whether its record has the certificate of generalization.
    """

    name: str
    config: str
    changes: dict[str, Any]
    free: tuple[str, ...] = ()
    protocol: str = "tuned"
    certificate: bool = False


class Figure(NamedTuple):
    """A figure or a table of the paper.

    name: what the command calls it.
    title: what it is about.
    settings: scale -> its runs.
    draw: (records, scale) -> the drawing, without legend and title; None of a table.
    table: (folder of records, scale) -> the table in Markdown; None of a drawing.
    caption: what the panels of a drawing show, in sentences.
    """

    name: str
    title: str
    settings: Callable[[str], list[Run]]
    draw: "Callable[[list[dict], str], figure.Figure] | None" = None
    table: Callable[[pathlib.Path, str], str] | None = None
    caption: str = ""

    def runs(self, scale: str) -> list[Run]:
        """Its runs, in the order in which they are made.

        Raises:
          ValueError: an unknown scale.
        """
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
        runs = self.settings(scale)
        if scale == "smoke":
            return [run._replace(changes=run.changes | SMOKE) for run in runs]
        return runs


def models(name: str, scale: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those that run by a protocol: at `smoke` the last alone has `paper` too."""
    return names[-1:] if (name, scale) == ("paper", "smoke") else names


def paper(model: str) -> dict[str, Any]:
    """The changes of the protocol `paper` for a model."""
    own: dict[str, Any] = {"model.name": model}
    if model == "irnn":
        own["model.init"] = "identity"
    if model == "spectral_resnet":
        own |= {"model.center": 0.0, "model.radius": 1.0}
    return PAPER | own


def build_config(run: Run) -> Any:
    """The run's config, as its file and the changes give it.

    Raises:
      ValueError: there is no such file.
      AttributeError: a change of a field that the config does not have.
    """
    file, _, variant = run.config.partition(":")
    get_config = _get_config(run.name, file)
    config = get_config(variant) if variant else get_config()
    config.lock()
    for field, value in run.changes.items():
        *sections, name = field.split(".")
        part = config
        for section in sections:
            part = part[section]
        setattr(part, name, value)
    return config


def _get_config(run: str, file: str) -> Callable[..., Any]:
    if file.endswith(".py"):
        if not pathlib.Path(file).is_file():
            raise ValueError(f"config of {run} must be a file, got {file!r}")
        return runpy.run_path(file)["get_config"]
    try:
        return importlib.import_module(f"configs.{file}").get_config
    except ModuleNotFoundError:
        raise ValueError(
            f"config of {run} must be a file in configs/, got {file!r}"
        ) from None


def config_file(run: Run) -> str:
    """The path of the run's config file, with `:variant` where it has one."""
    file, colon, variant = run.config.partition(":")
    if not file.endswith(".py"):
        file = str(pathlib.Path(common.__file__).with_name(f"{file}.py"))
    return f"{file}{colon}{variant}"


def config_dict(run: Run) -> dict:
    """The run's config as plain JSON values."""
    return identity.to_dict(build_config(run))


def primary(run: Run) -> scoring.Metric:
    """The primary metric of the run's task, by which its results are told."""
    return registry.metric(build_config(run).task.name)
