r"""Penn Treebank characters: predict the next of 50; --config.task.window is T_BPTT.

    python -m experiments.run --config=configs/ptb_char.py --workdir=DIR
    python -m experiments.run --config=configs/ptb_char.py --config.train.epochs=2 \
        --workdir=DIR
    python -m experiments.run --config=configs/ptb_char.py:spectral_lstm --workdir=DIR

The state goes on from window to window through a whole epoch: see ptb_word.py for
the activation and the reflectors.

10 epochs, 325,298 independent parameters: 1.495 bits per character on test data, 1.543
on validation data (seed 0), in 48 min on one of two shared CPU cores. Guessing
uniformly costs 5.64.

What decides: many updates (windows of 50 and not 150 characters, through which the
state goes on all the same), a radius of 1, which lets the transition forget, and a
rate of the reflectors an eighth of that of the rest.
:spectral_lstm, an LSTM whose gates have such transitions, 8 epochs, 715,186 independent
parameters: 1.445 bits on test data, 1.490 on validation data (seeds 0 and 1), in 87 and
110 min on one of two shared cores with GLIBC_TUNABLES=glibc.malloc.hugetlb=1
(docs/speed.md).

experiments/results/ptb_char_log.md has what was tried.
"""

from configs import common

VARIANTS = ("spectral_lstm",)


def get_config(variant=None):
    variant = common.variant("ptb_char.py", variant, VARIANTS)
    config = common.get_config()
    config.task.name = "ptb_char"
    config.task.window = 50
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
    if variant == "spectral_lstm":
        config.model.name = "spectral_lstm"
        config.model.hidden = 384
        config.train.epochs = 8
        config.train.rates.reflectors = 4e-3
    return config
