"""Addition: the sum of two marked numbers among `length`.

    python -m experiments.run --config=configs/addition.py --workdir=DIR

Always answering 1 has a mean squared error of 0.167.
"""

from configs import common


def get_config():
    config = common.get_config()
    config.task.name = "addition"
    config.task.length = 100
    config.train.steps = 2000
    config.train.schedule = "cosine"  # a constant rate ends in jumps of the loss
    config.train.steps_per_epoch = 400  # of the exponential schedule, if chosen
    return config
