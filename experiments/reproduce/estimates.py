"""What runs cost on two idle CPU cores, before any is recorded. No JAX."""

from experiments.data import stand_in
from experiments.runs import identity

# Milliseconds of one training step, for one time step (or layer) of a batch of 128 at
# 128 hidden units. Approximate; a record of the same shape takes their place.
MILLISECONDS = {
    "spectral": 0.15,
    "ornn": 0.15,
    "rnn": 0.22,
    "irnn": 0.22,
    "lstm": 1.6,
    "mlp": 0.15,
    "resnet": 0.15,
    "spectral_mlp": 0.4,
    "spectral_resnet": 0.4,
}
MILLISECONDS_ALL_REFLECTORS = 0.25
UNKNOWN_MILLISECONDS = 0.25
STEP_SECONDS = 0.003  # of a step whatever its length
PTB_SECONDS = 0.2  # of a step of PTB words, most of it the readout
RUN_SECONDS = 8.0  # compilation, checkpoints, figure
SMOKE_SECONDS = 3.0  # of a run of the smoke scale
TRAINING_DIGITS = 55_000
DIGITS = ("pixel_mnist", "mnist", "random_labels")
TEXT_EPOCH_STEPS = {"ptb_word": 1328, "ptb_char": 3163}  # of the shipped configs
UNKNOWN_EPOCH_STEPS = 1000
EVALUATION_STEPS = {"pixel_mnist": 15, "mnist": 15, "ptb_word": 35}  # that it costs
SYNTHETIC_EVALUATION_STEPS = 26


def steps(config: dict) -> int:
    """Updates in the run."""
    train = config["train"]
    return train["steps"] or train["epochs"] * epoch_steps(config)


def epoch_steps(config: dict) -> int:
    """Updates in an epoch."""
    train, task = config["train"], config["task"]["name"]
    if task in DIGITS:
        return TRAINING_DIGITS // train["batch_size"]
    return TEXT_EPOCH_STEPS.get(task, train["steps_per_epoch"] or UNKNOWN_EPOCH_STEPS)


def shape(config: dict) -> tuple:
    """What the cost of a step depends on, as a key."""
    config = identity.read_part(config)
    model = config["model"]
    return (
        tuple(sorted(config["task"].items())),
        *(model["name"], model["hidden"], model.get("layers", 1)),
        str(model.get("reflectors")),
        config["train"]["batch_size"],
    )


def estimate(config: dict) -> float:
    """Seconds of the run, from the costs above."""
    if config["data_dir"] == stand_in.NAME:
        return SMOKE_SECONDS
    task = config["task"]["name"]
    evaluations = 4 + steps(config) // config["train"]["eval_every"]
    evaluation_steps = EVALUATION_STEPS.get(task, SYNTHETIC_EVALUATION_STEPS)
    count = steps(config) + evaluations * evaluation_steps
    return RUN_SECONDS + count * _step_seconds(config)


def _step_seconds(config: dict) -> float:
    task, model = config["task"], config["model"]
    rate = MILLISECONDS.get(model["name"], UNKNOWN_MILLISECONDS)
    if model["name"] in ("spectral", "ornn") and model["reflectors"] != 16:
        rate = MILLISECONDS_ALL_REFLECTORS
    size = config["train"]["batch_size"] / 128 * (model["hidden"] / 128) ** 1.5
    base = PTB_SECONDS if task["name"] == "ptb_word" else STEP_SECONDS
    return base + 1e-3 * rate * _length(config) * size


def _length(config: dict) -> int:
    """Time steps of a sequence; layers where there are none, or only the data tell."""
    task = config["task"]
    if task["name"] == "copying":
        return task["length"] + 20
    named = (task.get(name) for name in ("length", "steps", "window"))
    return next(filter(None, named), config["model"]["layers"])
