"""The fields that every config has."""

import os

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """A config without a task; each file beside this one sets what it changes."""
    config = config_dict.ConfigDict()
    config.seed = 0
    # Folder of the data sets; not part of what a run is.
    config.data_dir = os.environ.get("SVDRNN_DATA", "")

    config.task = config_dict.ConfigDict()
    config.task.name = ""

    config.model = config_dict.ConfigDict()
    # Of sequences: ornn, exprnn, scornn, rnn, irnn, lstm, gru. Of vectors: mlp,
    # resnet, spectral_mlp, spectral_resnet.
    config.model.name = "spectral"
    config.model.hidden = 128
    config.model.reflectors = nullable(16)  # a number, a pair for (U, V), None: all
    config.model.radius = 0.01  # singular values stay within it of the center
    config.model.center = 1.0
    config.model.activation = "leaky_relu"  # relu, tanh, identity, modrelu
    config.model.leak = 0.01
    config.model.input_scale = 1.0  # factor on the first input weights
    config.model.method = "auto"  # scan, wy, low_rank, dense
    # identity; spectral and ornn with all reflectors, exprnn (where random means
    # henaff) and scornn (where it means cayley) also henaff, cayley
    config.model.init = "random"
    config.model.negative_fraction = 0.5  # scornn: share of -1 in the signs D
    config.model.layers = 1
    config.model.dropout = 0.0  # of embeddings and of each layer's outputs
    config.model.embedding = nullable(None)  # size of a token's; None: hidden
    config.model.tied = False  # whether the readout shares the embedding

    config.train = config_dict.ConfigDict()
    config.train.steps = nullable(None)  # updates; where None, epochs count
    config.train.epochs = nullable(None)
    config.train.steps_per_epoch = nullable(None)  # for tasks without epochs
    config.train.batch_size = 128
    config.train.learning_rate = 1e-3
    # Of the orthogonal part: reflectors, or A of exprnn and scornn; None: the same
    config.train.reflector_learning_rate = nullable(None)
    config.train.unit_reflectors = False  # scaled to length 1 after every update
    config.train.schedule = "constant"  # exponential, cosine, plateau
    config.train.decay_rate = 0.99  # exponential: factor of an epoch
    config.train.warmup_steps = 0  # cosine: steps of linear rise
    config.train.plateau_factor = 0.5  # plateau: factor when validation loss stalls
    config.train.plateau_patience = 2  # plateau: evaluations without a better one
    config.train.clip_norm = nullable(1.0)  # of all gradients; None or 0: none
    config.train.log_every = 50
    config.train.eval_every = 250
    config.train.checkpoint_every = 250
    return config


def nullable(value) -> config_dict.FieldReference:
    """A field that takes None and, on the command line, any Python literal."""
    return config_dict.FieldReference(value, field_type=object)
