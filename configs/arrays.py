"""One's own sequences, from a file of numpy arrays: docs/own_data.md.

    import numpy as np
    inputs, targets = ...  # (items, steps, features); classes or numbers (items,)
    np.savez("data.npz", inputs=inputs, targets=targets)

    python -m experiments.run --config=configs/arrays.py --config.task.path=data.npz \
        --workdir=DIR

The defaults are meant for a few hundred or thousand sequences of up to some hundred
steps. Integers as targets are classes; floating-point numbers are predicted as numbers.
"""

from configs import common


def get_config():
    config = common.get_config()
    config.task.name = "arrays"
    config.task.path = ""
    config.task.every_step = False
    config.task.valid_share = common.nullable(None)
    config.task.test_share = common.nullable(None)
    config.task.split_seed = common.nullable(None)
    config.task.folds = common.nullable(None)
    config.task.fold = common.nullable(None)
    config.task.window = common.nullable(None)
    config.task.horizon = common.nullable(None)
    config.task.normalize = True
    config.task.fill = "error"
    config.task.class_weights = common.nullable(None)
    config.model.radius = 0.3
    config.model.leak = 0.1
    config.model.init = "identity"
    config.model.input_scale = None  # by the length: the state sums up what it reads
    config.train.epochs = 100
    config.train.batch_size = 32
    config.train.learning_rate = 3e-3
    config.train.schedule = "cosine"
    config.train.warmup_steps = 20
    config.train.log_every = 20
    config.train.eval_every = 100
    config.train.checkpoint_every = 100
    return config
