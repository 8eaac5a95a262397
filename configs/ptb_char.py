r"""Penn Treebank characters: predict the next of 50; --config.task.window is T_BPTT.

    python -m experiments.run --config=configs/ptb_char.py --workdir=DIR
    python -m experiments.run --config=configs/ptb_char.py --config.task.window=300 \
        --config.train.batch_size=8 --workdir=DIR

The state goes on from window to window through a whole epoch: see ptb_word.py for
the activation and the reflectors.

2 epochs, 325,298 independent parameters: 1.703 bits per character on test data, 1.746
on validation data (seed 0), in 18 min on one of two shared CPU cores. Guessing
uniformly costs 5.64.
"""

from configs import common


def get_config():
    config = common.get_config()
    config.task.name = "ptb_char"
    config.task.window = 50  # characters between which gradients flow
    config.model.hidden = 512
    config.model.embedding = 64
    config.model.reflectors = None
    config.model.radius = 1.0
    config.model.activation = "tanh"
    config.train.epochs = 10
    config.train.batch_size = 32
    config.train.learning_rate = 8e-3
    config.train.rates.reflectors = 1e-3
    config.train.schedule = "cosine"
    config.train.eval_every = 3163  # once an epoch
    config.train.checkpoint_every = 3163
    return config
