"""Small classifiers of pixel MNIST, trained for a certificate of generalization.

    python -m experiments.run --config=configs/certificate.py --workdir=DIR
    python -m experiments.certify --workdir=DIR

PLACEHOLDER
"""

from configs import common

VARIANTS = ("", "784", "random_labels")


def get_config(variant=None):
    variant = variant or ""
    if variant not in VARIANTS:
        known = " or ".join(f":{name}" for name in VARIANTS[1:])
        raise ValueError(f"certificate.py takes {known} or nothing, got :{variant}")
    config = common.get_config()
    config.task.name = "random_labels" if variant == "random_labels" else "pixel_mnist"
    # or 112: of 28, 7 or 1 pixels
    config.task.steps = 784 if variant == "784" else 28
    config.task.permuted = False  # pixels in one fixed random order
    config.model.hidden = 16
    config.model.reflectors = 2
    config.model.radius = 0.01
    config.model.leak = 0.1
    config.model.init = "identity"
    config.train.epochs = 30
    config.train.learning_rate = 1e-2
    config.train.schedule = "cosine"
    config.train.eval_every = 429  # once an epoch
    config.train.checkpoint_every = 429
    return config
