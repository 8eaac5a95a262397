"""The fields that every config has.

Each stands here once, with its default, its meaning, the values that it may hold and
what reads it; the config, its checks and the documentation's table are made from that.
`experiments/schema.py` says what the parts of a field are.
"""

import os

from ml_collections import config_dict

from experiments import schema

ALL = ("sequences", "vectors")  # kinds of models, which together are every model
WITH_ORTHOGONAL = ("reflectors", "exprnn", "scornn")

FIELDS = {
    "seed": schema.Field(
        0,
        "All random streams of the run are drawn from it; it is below 2**32.",
        schema.Integer(least=0, most=2**32 - 1),
    ),
    "data_dir": schema.Field(
        "",
        "The folder of the data sets, by default that of the environment variable"
        " SVDRNN_DATA. With `stand-in` a few random digits or words take their place."
        " It is not part of what a run is.",
        place=True,
        by_task=True,
    ),
    "allow_other_data": schema.Field(
        False,
        "Whether data files are taken that have other digests than the published ones.",
        by_task=True,
    ),
    # ---- The task.
    "task.name": schema.Field("", "The task, whose own fields stand beside it."),
    # ---- The model.
    "model.name": schema.Field("spectral", "The model."),
    "model.hidden": schema.Field(
        128, "How many units a layer has.", schema.Integer(), models=ALL
    ),
    "model.reflectors": schema.Field(
        16,
        "How many reflectors make U and V: a number, a pair for (U, V), or None for"
        " all.",
        nullable=True,
        models=("reflectors",),
    ),
    "model.radius": schema.Field(
        0.01,
        "How far singular values may be from the center.",
        models=("intervals",),
    ),
    "model.center": schema.Field(
        1.0,
        "The center of the singular values; 0 is for residual branches.",
        schema.Number(least=0),
        models=("reflectors",),
    ),
    "model.activation": schema.Field(
        "leaky_relu",
        "The activation of a layer: leaky_relu, relu, tanh, identity or modrelu.",
        models=("cells", "vectors"),
    ),
    "model.leak": schema.Field(
        0.01,
        "The slope of leaky_relu below zero, from 0 to 1.",
        models=("cells", "vectors"),
        read_with=("model.activation", "leaky_relu"),
    ),
    "model.activation_every": schema.Field(
        1,
        "The activation acts after every so many steps; those between are linear.",
        models=("cells",),
    ),
    "model.output_every": schema.Field(
        1,
        "The first layer gives on its state after every so many steps alone, to the"
        " layers above it or to model.pool. Sequences have one output, a multiple of so"
        " many steps, and no lengths of their own.",
        schema.Integer(),
        models=("cells",),
    ),
    "model.input_scale": schema.Field(
        1.0,
        "The first input weights are multiplied by it. None is 3 / sqrt(T) for"
        " sequences of T steps, and at most 1.",
        schema.Number(above=0),
        nullable=True,
        models=("cells",),
    ),
    "model.method": schema.Field(
        "auto",
        "How W is applied: by scan, wy, low_rank or dense, or auto for the fastest.",
        models=("spectral", "ornn", "spectral_mlp", "spectral_resnet"),
    ),
    "model.init": schema.Field(
        "random",
        "The first W: random (henaff for exprnn, cayley for scornn, orthogonal for"
        " irnn) or identity; also henaff or cayley for exprnn and scornn and, with all"
        " reflectors, for the other models but spectral_lstm, spectral_gru and irnn.",
        models=("reflectors", "exprnn", "scornn", "irnn"),
    ),
    "model.init_sigma": schema.Field(
        None,
        "The first singular values: a number, or several that are taken in turn, as"
        " (0.3, 1.0), which lets every second direction of the state forget; None is"
        " the center.",
        nullable=True,
        models=("spectral", "spectral_mlp", "spectral_resnet"),
    ),
    "model.negative_fraction": schema.Field(
        0.5, "Which share of the signs D is -1.", models=("scornn",)
    ),
    "model.layers": schema.Field(
        1,
        "How many layers are stacked; in a residual network two of them are a block.",
        schema.Integer(),
        models=ALL,
    ),
    "model.dropout": schema.Field(
        0.0,
        "The probability of dropout, of embeddings and of the outputs of each layer.",
        schema.Number(least=0, below=1),
        models=("sequences",),
    ),
    "model.dropout_tied": schema.Field(
        False,
        "Whether dropout has one mask for all steps of a sequence in a batch, and not"
        " one for each.",
        models=("sequences",),
        read_unless=("model.dropout", 0.0),
    ),
    "model.embedding": schema.Field(
        None,
        "The size of the embedding of a token; None is that of model.hidden.",
        schema.Integer(),
        nullable=True,
        models=("sequences",),
    ),
    "model.tied": schema.Field(
        False,
        "Whether the readout shares the weights of the embedding.",
        models=("sequences",),
    ),
    "model.readout_activation": schema.Field(
        "identity",
        "The activation between the outputs of the last layer and the readout.",
        schema.Name(("identity", "relu", "tanh")),
        models=("sequences",),
    ),
    "model.pool": schema.Field(
        "last",
        "What the readout takes of a sequence with one output: the state that it ends"
        " in, or the mean or the largest of its states, entry by entry.",
        schema.Name(("last", "mean", "max")),
        models=("sequences",),
    ),
    "model.bidirectional": schema.Field(
        False,
        "Whether every layer runs in both directions, with model.hidden units and"
        " parameters of its own in each; their outputs are concatenated.",
        models=("sequences",),
    ),
    "model.residual": schema.Field(
        False,
        "Whether each layer is in a residual block, of model.hidden features: it reads"
        " them normalized, and a gated linear unit of its outputs is added to them.",
        models=("sequences",),
    ),
    # ---- How long training takes.
    "train.steps": schema.Field(
        None,
        "How many updates the run makes; where it is None, train.epochs counts.",
        schema.Integer(),
        nullable=True,
    ),
    "train.epochs": schema.Field(
        None,
        "How many times the run goes through the training data.",
        schema.Integer(),
        nullable=True,
    ),
    "train.steps_per_epoch": schema.Field(
        None,
        "How many updates are an epoch, for a task that has no epochs.",
        schema.Integer(),
        nullable=True,
    ),
    "train.patience": schema.Field(
        None,
        "The run ends when so many evaluations in a row were not strictly better than"
        " the best on validation data, by the task's primary metric, and where that is"
        " the same by the loss. The learning rate is still that of a run of full"
        " length. With None the run is not ended early.",
        schema.Integer(),
        nullable=True,
    ),
    "train.batch_size": schema.Field(
        128,
        "How many sequences, digits or streams of text an update reads.",
        schema.Integer(),
    ),
    "train.devices": schema.Field(
        None,
        "Over how many devices of each process a batch is split. None takes as many as"
        " divide the batch, on a CPU at most one a core with 8 examples each. It is"
        " not part of what a run is.",
        schema.Integer(),
        nullable=True,
        place=True,
    ),
    # ---- The optimizer.
    "train.optimizer": schema.Field(
        "adam",
        "The optimizer.",
        schema.Name(("adam", "adamw", "rmsprop", "sgd", "lion")),
    ),
    "train.momentum": schema.Field(
        0.9,
        "The factor on earlier gradients at each update.",
        schema.Number(least=0, below=1),
        read_with=("train.optimizer", "sgd"),
    ),
    "train.learning_rate": schema.Field(
        1e-3, "The learning rate at its highest.", schema.Number(above=0)
    ),
    "train.rates.reflectors": schema.Field(
        None,
        "The highest learning rate of the orthogonal part: of reflectors, or of A of"
        " exprnn and scornn. None is train.learning_rate.",
        schema.Number(above=0),
        nullable=True,
        models=WITH_ORTHOGONAL,
        former="train.reflector_learning_rate",
    ),
    "train.rates.singular_values": schema.Field(
        None,
        "The highest learning rate of the raw singular values. None is"
        " train.learning_rate.",
        schema.Number(above=0),
        nullable=True,
        models=("intervals",),
    ),
    "train.rates.inputs": schema.Field(
        None,
        "The highest learning rate of the input weights M and of the bias b of"
        " transitions. None is train.learning_rate.",
        schema.Number(above=0),
        nullable=True,
        models=("sequences",),
    ),
    "train.rates.readout": schema.Field(
        None,
        "The highest learning rate of the weights Y and the bias c of the readout."
        " None is train.learning_rate.",
        schema.Number(above=0),
        nullable=True,
        models=("sequences",),
    ),
    "train.unit_reflectors": schema.Field(
        False,
        "Whether reflectors are scaled to length 1 after every update.",
        models=("reflectors",),
    ),
    "train.weight_decay": schema.Field(
        0.0,
        "The weight decay of matrices and embeddings; vectors have none. With adamw and"
        " lion it acts by the learning rate, apart from the gradient; with the others"
        " it is added to the gradient.",
        schema.Number(least=0),
    ),
    "train.decay_constrained": schema.Field(
        False,
        "Whether weight decay acts on reflectors, skew-symmetric matrices and raw"
        " singular values as well. The length of a reflector does not matter to W but"
        " sets how fast it turns, and the others would be drawn to W = I and to the"
        " center, which no interval asks for.",
        models=WITH_ORTHOGONAL,
        read_unless=("train.weight_decay", 0.0),
    ),
    "train.ema": schema.Field(
        None,
        "The decay at each update of a moving average of all parameters, which is what"
        " is then evaluated and kept as the best. With None it is the parameters"
        " themselves.",
        schema.Number(above=0, below=1),
        nullable=True,
    ),
    "train.schedule": schema.Field(
        "constant",
        "How the learning rate changes in the course of the run.",
        schema.Name(("constant", "exponential", "cosine", "plateau")),
    ),
    "train.decay_rate": schema.Field(
        0.99,
        "The factor on the learning rate after each epoch.",
        schema.Number(above=0, most=1),
        read_with=("train.schedule", "exponential"),
    ),
    "train.warmup_steps": schema.Field(
        0,
        "For how many steps the learning rate rises linearly before its cosine; 0 with"
        " another schedule.",
        schema.Integer(least=0),
    ),
    "train.plateau_factor": schema.Field(
        0.5,
        "The factor on the learning rate when the validation loss stalls.",
        schema.Number(above=0, below=1),
        read_with=("train.schedule", "plateau"),
    ),
    "train.plateau_patience": schema.Field(
        2,
        "How many evaluations in a row without a lower validation loss are a stall.",
        schema.Integer(),
        read_with=("train.schedule", "plateau"),
    ),
    "train.clip_norm": schema.Field(
        1.0,
        "The norm of all gradients together is clipped to it; with None or 0 it is"
        " not.",
        schema.Number(least=0),
        nullable=True,
    ),
    # ---- How often something is done.
    "train.log_every": schema.Field(
        50, "Training metrics are logged every so many steps.", schema.Integer()
    ),
    "train.eval_every": schema.Field(
        250, "Validation data are evaluated every so many steps.", schema.Integer()
    ),
    "train.valid_batches": schema.Field(
        None,
        "Of the validation data only the first so many batches are evaluated, of 500"
        " examples where there are as many. With None it is all of them.",
        schema.Integer(),
        nullable=True,
    ),
    "train.checkpoint_every": schema.Field(
        250, "A checkpoint is saved every so many steps.", schema.Integer()
    ),
    "train.on_nonfinite": schema.Field(
        "stop",
        "What a run does at a loss that is not finite: it stops, or goes back to the"
        " last checkpoint, from where the learning rates are halved.",
        schema.Name(("stop", "restore")),
    ),
    "train.restores": schema.Field(
        3,
        "How many times a run goes back at most; the learning rates are halved each"
        " time.",
        schema.Integer(),
        read_with=("train.on_nonfinite", "restore"),
    ),
}


def get_config() -> config_dict.ConfigDict:
    """A config without a task; each file beside this one sets what it changes."""
    config = config_dict.ConfigDict()
    for name, field in FIELDS.items():
        *parts, last = name.split(".")
        section = config
        for part in parts:
            if part not in section:
                section[part] = config_dict.ConfigDict()
            section = section[part]
        section[last] = nullable(field.default) if field.nullable else field.default
    config.data_dir = os.environ.get("SVDRNN_DATA", "")
    return config


def variant(file: str, value: str | None, names: tuple[str, ...]) -> str:
    """What stands behind the colon of a config's name, "" where nothing does.

    Raises:
      ValueError: it is none of `names`.
    """
    if value and value not in names:
        named = ", ".join(f":{name}" for name in names)
        raise ValueError(f"{file} takes {named} or nothing, got :{value}")
    return value or ""


def nullable(value) -> config_dict.FieldReference:
    """A field that takes None and, on the command line, any Python literal."""
    return config_dict.FieldReference(value, field_type=object)
