"""Small classifiers of pixel MNIST, trained for a certificate of generalization.

    python -m experiments.run --config=configs/certificate.py --workdir=DIR
    python -m experiments.certify --workdir=DIR

28 steps of 28 pixels, 712 parameters: 57 s on two CPU cores shared with other work,
test error 0.061, certificate 0.382. `:784`, a pixel a step, 670 parameters: 7 min, test
error 0.131, certificate 0.520 (10 epochs: 0.215, 0.610). `:rows`, a pixel a step and an
activation at the end of each row of 28, 418 parameters: 3 min 53 s on one core, test
error 0.079, certificate 0.352 (seed 1: 0.105, 0.394). `:random_labels`, 28 steps with
labels that cannot be learned: test error 0.900, certificate 1. All with seed 0 but for
that one; what else was tried is in experiments/results/certificate/log.md.
"""

from configs import common

VARIANTS = ("784", "rows", "random_labels")


def get_config(variant=None):
    variant = common.variant("certificate.py", variant, VARIANTS)
    config = common.get_config()
    config.task.name = "random_labels" if variant == "random_labels" else "pixel_mnist"
    config.task.steps = 784 if variant in ("784", "rows") else 28
    config.task.permuted = False
    config.task.shift = 0
    config.model.hidden = 16
    config.model.reflectors = 2
    config.model.radius = 0.01
    config.model.leak = 0.1
    config.model.init = "identity"
    config.train.epochs = 30
    config.train.learning_rate = 1e-2
    if config.task.steps == 784:
        config.model.hidden = 32
        config.model.reflectors = 4
        config.model.radius = 0.001
        config.model.input_scale = 0.1  # the state sums up to 784 pixels
        config.train.epochs = 50
        config.train.learning_rate = 3e-3
    if variant == "rows":
        config.model.activation_every = 28
        config.model.hidden = 20
        config.train.epochs = 120
    config.train.schedule = "cosine"
    config.train.eval_every = 429  # once an epoch
    config.train.checkpoint_every = 429
    return config
