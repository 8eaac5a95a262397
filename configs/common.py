"""The fields that every config has.

What a field means is said in the comment behind it or above it, and nowhere else: the
documentation's table of fields is made from these comments.
"""

import os

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """A config without a task; each file beside this one sets what it changes."""
    config = config_dict.ConfigDict()
    config.seed = 0  # of all random streams, below 2**32
    # folder of the data sets, by default that of the environment variable SVDRNN_DATA;
    # stand-in: a few random digits or words; not part of what a run is
    config.data_dir = os.environ.get("SVDRNN_DATA", "")

    # whether data files with other digests than the published are taken
    config.allow_other_data = False

    config.task = config_dict.ConfigDict()
    config.task.name = ""  # the task, whose own fields stand beside it

    config.model = config_dict.ConfigDict()
    # of sequences: spectral, ornn, exprnn, scornn, rnn, irnn, spectral_lstm,
    # spectral_gru, lstm, gru; of vectors: mlp, resnet, spectral_mlp, spectral_resnet
    config.model.name = "spectral"
    config.model.hidden = 128  # units of a layer
    config.model.reflectors = nullable(16)  # a number, a pair for (U, V), None: all
    config.model.radius = 0.01  # singular values stay within it of the center
    config.model.center = 1.0  # of singular values; 0 for residual branches
    config.model.activation = "leaky_relu"  # or relu, tanh, identity, modrelu
    config.model.leak = 0.01  # slope of leaky_relu below zero, 0 to 1
    # the activation acts after every so many steps, which are linear else
    config.model.activation_every = 1
    config.model.input_scale = 1.0  # factor on the first input weights
    config.model.method = "auto"  # or scan, wy, low_rank, dense: how W is applied
    # the first W: random (henaff for exprnn, cayley for scornn, orthogonal for irnn) or
    # identity; with all reflectors and for exprnn and scornn also henaff, cayley
    config.model.init = "random"
    # first singular values, a number or several in turn: (0.3, 1.0) lets every second
    # direction of the state forget; None: the center
    config.model.init_sigma = nullable(None)
    config.model.negative_fraction = 0.5  # share of -1 in the signs D
    config.model.layers = 1  # stacked; in a residual network two to a block
    config.model.dropout = 0.0  # of embeddings and of each layer's outputs
    config.model.embedding = nullable(None)  # size of a token's; None: hidden
    config.model.tied = False  # whether the readout shares the embedding
    # of the last layer's outputs before the readout: identity, relu, tanh
    config.model.readout_activation = "identity"

    config.train = config_dict.ConfigDict()
    config.train.steps = nullable(None)  # updates; where None, epochs count
    config.train.epochs = nullable(None)  # passes over the training data
    config.train.steps_per_epoch = nullable(None)  # for tasks without epochs
    config.train.batch_size = 128  # sequences, digits or streams of text in an update
    # that a batch is split over, of each process; None: as many as divide it, on a CPU
    # at most one a core with 8 examples each; not part of what a run is
    config.train.devices = nullable(None)
    config.train.optimizer = "adam"  # or adamw, rmsprop, sgd, lion
    config.train.momentum = 0.9  # of earlier gradients
    config.train.learning_rate = 1e-3  # at its highest
    # learning rates of parts, each at its highest; None: train.learning_rate
    config.train.rates = config_dict.ConfigDict()
    # of the orthogonal part: reflectors, or A of exprnn and scornn
    config.train.rates.reflectors = nullable(None)
    config.train.rates.singular_values = nullable(None)  # of the raw ones
    config.train.rates.inputs = nullable(None)  # of M, and of b of transitions
    config.train.rates.readout = nullable(None)  # of Y and c
    config.train.unit_reflectors = False  # reflectors have length 1 after an update
    # of matrices and embeddings, not of vectors: by the learning rate, apart from the
    # gradient, with adamw and lion; added to the gradient with the others
    config.train.weight_decay = 0.0
    # also of reflectors, skew-symmetric matrices and raw singular values: lengths of
    # reflectors do not matter but set how fast they turn, and the others would be drawn
    # to W = I and to the center, which no interval asks for
    config.train.decay_constrained = False
    # decay an update of a moving average of all parameters, which is what is then
    # evaluated and kept as the best; None: the parameters themselves
    config.train.ema = nullable(None)
    config.train.schedule = "constant"  # or exponential, cosine, plateau
    config.train.decay_rate = 0.99  # factor of an epoch
    config.train.warmup_steps = 0  # cosine: steps of linear rise
    config.train.plateau_factor = 0.5  # factor when the validation loss stalls
    config.train.plateau_patience = 2  # evaluations without a better one
    config.train.clip_norm = nullable(1.0)  # of all gradients; None or 0: none
    config.train.log_every = 50  # steps between lines of training metrics
    config.train.eval_every = 250  # steps between evaluations on validation data
    config.train.checkpoint_every = 250  # steps between checkpoints
    # at a loss that is not finite; or restore: back to the last checkpoint, with the
    # learning rates halved
    config.train.on_nonfinite = "stop"
    config.train.restores = 3  # times at most, each with rates halved again
    return config


def variant(file: str, given: str | None, known: tuple[str, ...]) -> str:
    """What stands behind the colon of a config's name, "" where nothing does.

    Raises:
      ValueError: it is none of `known`.
    """
    if given and given not in known:
        named = ", ".join(f":{name}" for name in known)
        raise ValueError(f"{file} takes {named} or nothing, got :{given}")
    return given or ""


def nullable(value) -> config_dict.FieldReference:
    """A field that takes None and, on the command line, any Python literal."""
    return config_dict.FieldReference(value, field_type=object)
