"""Small runs that several tests make, and how their logs are read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import addition
from experiments.models import build


def plain_addition():
    """The addition config with an interval around 1, so that any radius fits it."""
    config = addition.get_config()
    config.model.update(center=1.0, radius=0.3, init_sigma=None, input_scale=0.1)
    return config


def tiny_config(**changes):
    """Addition of six numbers with eight hidden units."""
    config = plain_addition()
    config.task.length = 6
    config.model.hidden = 8
    config.model.reflectors = 3
    config.train.batch_size = 16
    config.train.learning_rate = 3e-3
    config.train.steps = 60
    config.train.schedule = "constant"
    config.train.log_every = 20
    config.train.eval_every = 20
    config.train.checkpoint_every = 30
    config.train.update(changes)
    return config


def invented_model(config, task):
    """A model of the config with parameters drawn by numpy, which compiles nothing.

    In float64 under `x64`, else in float32.
    """
    model = nnx.eval_shape(lambda: build.build(config, task, rngs=nnx.Rngs(0)))
    random = np.random.default_rng(1)
    state = nnx.state(model)
    assert not nnx.state(model, nnx.Not(nnx.Param)), "more than parameters"

    def draw(leaf):
        return jnp.asarray(0.4 * random.normal(size=leaf.shape))

    nnx.update(model, jax.tree.map(draw, state))
    return model


def strict_lines(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(each, parse_constant=refuse) for each in text.splitlines()]


def changed_addition(**fields):
    """`plain_addition` with fields set, as model__hidden=3."""
    config = plain_addition()
    for path, value in fields.items():
        *sections, name = path.split("__")
        part = config
        for section in sections:
            part = part[section]
        part[name] = value
    return config


def result_of_a_run(**changes):
    """A result.json that no run has written, with values changed."""
    metrics = {"valid": {"loss": 1.0}, "test": {"loss": None}}
    return {
        **{"task": "addition", "model": "spectral", "seed": 0, "steps": 3000},
        **{"num_params": 9, "num_independent_params": 8, "wall_seconds": 1.5},
        **{"metrics": metrics, "best": {"step": 1, **metrics}, "baseline": None},
        **changes,
    }
