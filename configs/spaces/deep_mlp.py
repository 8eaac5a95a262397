r"""Learning rates of configs/deep_mlp.py, the same for each of its models.

    python -m experiments.sweep --config=configs/deep_mlp.py:mlp \
        --config.train.epochs=1 --space=configs/spaces/deep_mlp.py --workdir=DIR
"""


def get_space():
    return {"train.learning_rate": [1e-4, 3e-4, 1e-3, 3e-3]}
