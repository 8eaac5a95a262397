"""The programs that are compiled: runs of configs, layers, constraints, and rivals.

Each is lowered for devices that are not there. Of a run those are all devices of the
target, of everything else it is one.
"""

import importlib
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import svdrnn
from experiments.models import registry
from experiments.training import (
    assembly,
    devices,
    fields,
    optimizers,
    prediction,
    steps,
)
from svdrnn import activations, transitions
from tests.experiments import small

CONFIGS = (
    *("addition", "arrays", "certificate", "copying", "deep_mlp", "pixel_mnist"),
    *("ptb_char", "ptb_word"),
)
# Of which the training step alone is compiled.
VARIANTS = (
    *("deep_mlp:spectral_resnet", "deep_mlp:mlp", "deep_mlp:resnet"),
    *("pixel_mnist:rows", "pixel_mnist:permuted", "ptb_word:spectral_lstm"),
)


class Program(NamedTuple):
    """A program.

    Attributes:
      name: of it.
      lower: (devices) -> what can be compiled.
      collectives: how many it has to have.
    """

    name: str
    lower: Callable[[list], Any]
    collectives: int = 0


def every() -> Iterator[Program]:
    """All programs."""
    for n in (128, 512, 1024):
        yield from speed(n)
    for name in CONFIGS:
        yield from run(f"config {name}", lambda name=name: config_of(name))
    for name in VARIANTS:
        yield next(run(f"config {name}", lambda name=name: config_of(name)))
    for name in registry.names(sequential=True):
        yield next(run(f"model {name}", lambda name=name: model_config(name)))
    yield from layers()
    yield from constraints()


# ---- Runs.


def config_of(name: str) -> Any:
    """The shipped config of that name, with random data where its own are not there."""
    file, _, variant = name.partition(":")
    make = importlib.import_module(f"configs.{file}").get_config
    config = make(variant) if variant else make()
    if "SVDRNN_DATA" not in os.environ:
        config.data_dir = "stand-in"
    return config


def model_config(name: str) -> Any:
    """A small run of that model."""
    config = small.plain_addition()
    config.model.name = name
    if name in ("exprnn", "scornn"):
        config.model.init = "cayley"
    if name in ("lstm", "gru"):
        config.model.input_scale = 1.0
    return config


def run(name: str, make_config: Callable[[], Any]) -> Iterator[Program]:
    """Training step, evaluation and prediction of a run."""

    @once
    def parts() -> tuple[Any, assembly.Assembly]:
        config = make_config()
        with tempfile.TemporaryDirectory() as folder:
            if config.task.name == "arrays":
                config.task.path = sequences(folder)
            fields.check(config)
            return config, assembly.assemble(config, one_device=True)

    def training(chosen: list) -> Any:
        config, made = parts()
        size = config.train.batch_size
        spread = of_devices(chosen, size)
        step = steps.make_train_step(
            made.graph,
            made.task,
            lambda numbers: made.make_optimizer(numbers)[0],
            spread,
        )
        numbers = optimizers.numbers(config.train)
        settings = steps.Settings(made.dropout_key, numbers)
        lies = steps.LIES._asdict()
        state = {
            name: abstract(part, spread, lies[name])
            for name, part in made.state._asdict().items()
        }
        batch = split(made.task.train_batch(0), spread)
        everywhere = abstract(settings, spread, PartitionSpec())
        return step.lower(steps.TrainState(**state), everywhere, batch)

    def evaluation(chosen: list, step: Callable, spread: devices.Spread) -> Any:
        _, made = parts()
        batch = next(made.task.eval_batches("valid"))
        count = len(batch["inputs"])
        size = -(-count // spread.count) * spread.count
        batch = {
            name: np.resize(array, (size, *array.shape[1:])) if array.ndim else array
            for name, array in batch.items()
        }
        carry = None
        if made.task.stateful:
            carry = jax.eval_shape(lambda: made.model.initialize_carry(size))
        everywhere, lies = PartitionSpec(), PartitionSpec(devices.BATCH)
        place = SingleDeviceSharding(chosen[0]) if spread.mesh is None else None
        return step.lower(
            abstract(made.state.params, spread, everywhere, place),
            abstract(made.state.rest, spread, everywhere, place),
            abstract(carry, spread, lies, place),
            split(batch, spread, place),
        )

    def evaluating(chosen: list) -> Any:
        _, made = parts()
        count = len(next(made.task.eval_batches("valid"))["inputs"])
        spread = of_devices(chosen, -(-count // len(chosen)) * len(chosen))
        step = steps.make_eval_step(made.graph, made.task, spread=spread)
        return evaluation(chosen, step, spread)

    def predicting(chosen: list) -> Any:
        _, made = parts()
        step = prediction.make_step(made.graph, made.task)
        return evaluation(chosen, step, devices.ONE)

    yield Program(f"{name}: training step", training, 1)
    yield Program(f"{name}: evaluation", evaluating)
    yield Program(f"{name}: prediction", predicting)


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    """The function, which is called the first time alone."""
    made: list[Any] = []

    def get() -> Any:
        if not made:
            made.append(make())
        return made[0]

    return get


def sequences(folder: str) -> str:
    """The file of a few random sequences."""
    rng = np.random.default_rng(0)
    path = pathlib.Path(folder) / "data.npz"
    inputs = rng.normal(size=(320, 100, 3)).astype(np.float32)
    np.savez(path, inputs=inputs, targets=rng.integers(4, size=320))
    return str(path)


def of_devices(chosen: list, batch_size: int) -> devices.Spread:
    """All devices, which have to divide the batch."""
    assert batch_size % len(chosen) == 0, (batch_size, len(chosen))
    return devices.Spread(Mesh(np.array(chosen), (devices.BATCH,)), collective=True)


def abstract(
    tree: Any, spread: devices.Spread, spec: PartitionSpec, place: Any = None
) -> Any:
    """Shapes and types of a tree's arrays, and where they are to lie."""
    if spread.mesh is not None:
        place = NamedSharding(spread.mesh, spec)

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(jnp.result_type(leaf))
        return jax.ShapeDtypeStruct(jnp.shape(leaf), dtype, sharding=place)

    return jax.tree.map(of, tree)


def split(batch: dict, spread: devices.Spread, place: Any = None) -> dict:
    """The batch, with equal shares of it on every device and scalars everywhere."""
    return {
        name: abstract(
            np.asarray(array),
            spread,
            PartitionSpec(devices.BATCH) if np.ndim(array) else PartitionSpec(),
            place,
        )
        for name, array in batch.items()
    }


# ---- Layers and kernels.


def gradient(
    name: str, make: Callable[[], Any], call: Callable, *shapes: tuple[int, ...]
) -> Program:
    """The sum of what a model gives of inputs of these shapes, and its gradient."""

    def lower(chosen: list) -> Any:
        model = nnx.eval_shape(make)
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(params: Any, rest: Any, *inputs: jax.Array) -> jax.Array:
            model = svdrnn.bake(nnx.merge(graph, params, rest))
            outputs = jax.tree.leaves(call(model, *inputs))
            return sum(jnp.sum(jnp.square(y.astype(jnp.float32))) for y in outputs)

        place = SingleDeviceSharding(chosen[0])
        inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        arguments = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            (params, rest, *inputs),
        )
        return jax.jit(jax.value_and_grad(loss)).lower(*arguments)

    return Program(name, lower)


def last(layer: Any, x: jax.Array) -> jax.Array:
    """The state that the sequences end in."""
    if isinstance(layer, svdrnn.TransitionRNN):
        return layer(x, last_only=True)
    cell = layer.cell
    carry = jnp.zeros((x.shape[0], cell.hidden_features), x.dtype)
    return layer(x, initial_carry=carry, return_carry=True)[0]


def speed(n: int) -> Iterator[Program]:
    """The layers of the table of speed: T = 784, batch 128, one feature."""
    shape = (128, 784, 1)

    def plain() -> nnx.RNN:
        rngs = nnx.Rngs(0)
        cell = nnx.SimpleCell(1, n, activation_fn=jax.nn.leaky_relu, rngs=rngs)
        return nnx.RNN(cell, rngs=False)

    yield gradient(f"speed nnx.RNN n={n}", plain, last, shape)
    for method in ("auto", "low_rank", "dense"):

        def ours(method: str = method) -> svdrnn.SpectralRNN:
            return svdrnn.SpectralRNN(
                *(1, n), reflectors=16, radius=0.01, method=method, rngs=nnx.Rngs(0)
            )

        yield gradient(f"speed SpectralRNN {method} n={n}", ours, last, shape)


N, STEPS, BATCH, FEATURES = 128, 50, 16, 3


def layers() -> Iterator[Program]:
    """Every layer, form, activation and option."""
    shape = (BATCH, STEPS, FEATURES)
    sizes = (FEATURES, N)
    spectral = {"reflectors": 8, "radius": 0.1}
    kinds: dict[str, tuple[Callable, dict]] = {
        **{
            f"SpectralRNN {method}": (svdrnn.SpectralRNN, spectral | {"method": method})
            for method in transitions.METHODS
        },
        **{
            f"OrthogonalRNN {map}": (svdrnn.OrthogonalRNN, {"map": map})
            for map in svdrnn.skew.MAPS
        },
        "DenseRNN": (svdrnn.DenseRNN, {}),
    }
    functions = (*activations.NAMES, jax.nn.softplus)
    for (kind, (layer, options)), phi in itertools.product(kinds.items(), functions):
        # Of the ways to run a loop one form has every activation.
        if phi != "leaky_relu" and kind.split()[-1] not in ("low_rank", "dense", "wy"):
            continue
        name = phi if isinstance(phi, str) else "a callable"

        def make(layer=layer, options=options, phi=phi):
            return layer(*sizes, activation=phi, rngs=nnx.Rngs(0), **options)

        yield gradient(f"layer {kind}, {name}", make, last, shape)

    choices: dict[str, dict] = {
        "all reflectors": {"reflectors": None},
        "bfloat16": {"dtype": jnp.bfloat16},
        "full precision": {"precision": "highest"},
        "chunk": {"chunk": 7},
        "unroll": {"unroll": 4},
        "activation_every": {"activation_every": 7},
        "output_every": {"activation_every": 7, "output_every": 7},
        "forward mode": {"custom_backward": False},
        "orthogonal": {"radius": 0},
    }
    for name, changed in choices.items():

        def make(changed=changed):
            options = spectral | changed
            return svdrnn.SpectralRNN(*sizes, rngs=nnx.Rngs(0), **options)

        yield gradient(f"layer SpectralRNN, {name}", make, last, shape)

    def make():
        return svdrnn.SpectralRNN(*sizes, rngs=nnx.Rngs(0), **spectral)

    def make_one_feature():
        return svdrnn.SpectralRNN(1, N, rngs=nnx.Rngs(0), **spectral)

    def make_cell():
        return svdrnn.SpectralRNNCell(*sizes, rngs=nnx.Rngs(0), **spectral)

    def lengths(layer, x):
        return layer(x, seq_lengths=jnp.arange(BATCH), return_carry=True)

    def reverse(layer, x):
        return layer(x, reverse=True, keep_order=True)

    def perturbed(layer, x):
        return layer(x, perturbations=jnp.zeros((BATCH, STEPS, N)))

    def one_step(layer, x):
        step, carry = layer.prepare((BATCH,))
        return step(carry, x[:, 0])

    calls = {
        "all states": lambda layer, x: layer(x),
        "lengths": lengths,
        "reverse": reverse,
        "perturbations": perturbed,
        "one step": one_step,
    }
    for name, call in calls.items():
        yield gradient(f"layer SpectralRNN, {name}", make, call, shape)
    yield gradient(
        "layer SpectralRNN, one feature", make_one_feature, last, (BATCH, STEPS, 1)
    )
    yield gradient(
        "layer SpectralRNNCell in nnx.RNN", lambda: nnx.RNN(make_cell()), last, shape
    )
    for reflectors, method in itertools.product(
        (8, None), ("auto", "scan", "wy", "low_rank", "dense")
    ):

        def make_linear(reflectors=reflectors, method=method):
            return svdrnn.SpectralLinear(
                *(N, N), reflectors=reflectors, radius=0.1, method=method, rngs=rngs()
            )

        count = reflectors or "all"
        yield gradient(
            f"layer SpectralLinear {method}, {count} reflectors",
            make_linear,
            lambda layer, x: layer(x),
            (BATCH, N),
        )


def rngs() -> nnx.Rngs:
    """A stream of parameters."""
    return nnx.Rngs(0)


def constraints() -> Iterator[Program]:
    """Every constraint on kernels of every layout."""
    rules = {
        "Spectral": svdrnn.Spectral(radius=0.1),
        "Spectral, 8 reflectors": svdrnn.Spectral(radius=0.1, reflectors=8),
        "SpectralNorm": svdrnn.SpectralNorm(1.0),
        **{
            f"Orthogonal {map}": svdrnn.Orthogonal(map)
            for map in ("householder", *svdrnn.skew.MAPS)
        },
    }
    models: dict[str, tuple[Callable, tuple[int, ...], str]] = {
        "Linear": (lambda: nnx.Linear(64, N, rngs=rngs()), (BATCH, 64), "**"),
        "Conv": (
            lambda: nnx.Conv(8, 32, (3, 3), rngs=rngs()),
            (BATCH, 16, 16, 8),
            "**",
        ),
        "attention": (
            lambda: nnx.MultiHeadAttention(4, N, decode=False, rngs=rngs()),
            (BATCH, 16, N),
            "**",
        ),
    }
    for (rule, constraint), (name, (build, shape, where)) in itertools.product(
        rules.items(), models.items()
    ):

        def make(constraint=constraint, build=build, where=where):
            model = build()
            svdrnn.constrain(model, constraint, where, init="random", rngs=rngs())
            return model

        yield gradient(f"constraint {rule} on {name}", make, lambda m, x: m(x), shape)
