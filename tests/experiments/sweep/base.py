"""The config that the sweeps of these tests vary."""

from tests.experiments.small import plain_addition

# Runs of a second: their programs are all the same, so that they compile once.
TINY = {
    "task.length": 5,
    "model.name": "rnn",
    "model.hidden": 4,
    "train.steps": 100,
    "train.batch_size": 4,
    "train.log_every": 100,
    "train.eval_every": 20,
    "train.checkpoint_every": 20,
}


def make_config(**changes):
    config = plain_addition()
    # Of a model with reflectors: nothing is trained where this is used.
    config.update_from_flattened_dict(TINY | {"model.name": "spectral"} | changes)
    return config.lock()
