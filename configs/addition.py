"""Addition: the sum of two marked numbers among `length`.

    python -m experiments.run --config=configs/addition.py --workdir=DIR

3,000 steps of 128 sequences take 2 min on two shared CPU cores and end at a test mean
squared error of 0.00017 (seed 0). With --config.task.length=300 they take 6 min and end
at 0.0028. Always answering 1 has 0.167.

The learning rate decides: docs/reproduction.md has the trials.
"""

from configs import common

STEPS = {"": 3000, "300": 3000, "750": 5000}  # of the lengths that have a name
FORGETTING = {"": 3, "300": 1, "750": 3}  # directions to each one that keeps


def get_config(variant=None):
    variant = variant or ""
    if variant not in STEPS:
        named = " or ".join(f":{length}" for length in STEPS if length)
        raise ValueError(f"addition.py takes {named} or nothing, got :{variant}")
    config = common.get_config()
    config.task.name = "addition"
    config.task.length = int(variant or 100)  # numbers in a sequence, at least 2
    # One in two or four directions of the state starts at 1 and sums what it is given;
    # the others forget, which lets a marked number pass and the next one not. The upper
    # end of the interval, 1.1, bounds what many steps can amplify.
    config.model.init = "identity"
    config.model.center = 0.65
    config.model.radius = 0.45
    config.model.init_sigma = (0.3,) * FORGETTING[variant] + (1.0,)
    config.train.learning_rate = 1e-2  # of four, on validation data
    config.train.steps = STEPS[variant]
    config.train.schedule = "cosine"  # a constant rate ends in jumps of the loss
    config.train.steps_per_epoch = 400  # of the exponential schedule, if chosen
    return config
