"""Adding problem: step size and radius, three seeds each: 12 runs in a grid.

    python -m experiments.sweep --config=configs/addition.py \
        --space=configs/spaces/addition.py --workdir=runs/addition_sweep --workers=2

A field of the config takes a list of values, or, in random and TPE search, a range:
{"low": 1e-4, "high": 1e-2, "log": True}, for whole numbers with "int": True. Seeds
are listed under "seed". Values that depend on another field: see docs/sweeps.md.
"""


def get_space():
    return {
        "train.learning_rate": [3e-3, 1e-2],
        "model.radius": [0.4, 0.45],
        "seed": [0, 1, 2],
    }
