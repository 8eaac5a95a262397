r"""Learning rates of configs/addition.py, the same for each model of the comparison.

    python -m experiments.sweep --config=configs/addition.py \
        --config.train.steps=1000 --config.model.name=lstm \
        --space=configs/spaces/addition_rates.py --workdir=DIR
"""


def get_space():
    return {"train.learning_rate": [1e-3, 3e-3, 1e-2, 3e-2]}
