"""From a config to a model.

Recurrent layers between an embedding and a readout are put together here,
feed-forward models in `feedforward`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import svdrnn
from experiments import feedforward
from svdrnn import diagnostics

RECURRENT = ("spectral", "ornn", "exprnn", "scornn", "rnn", "irnn", "lstm", "gru")
NAMES = RECURRENT + feedforward.NAMES


class SequenceModel(nnx.Module):
    """y_t = Y h_t + c over the states of the last of a stack of recurrent layers.

    Dropout acts between the layers, not on the states that a layer carries along:
    on the embedded tokens and on the outputs of every layer.

    Args:
      layers: recurrent layers with the call arguments of `nnx.RNN`.
      readout: states (..., hidden) -> outputs (..., out_features).
      embedding: tokens -> features, or None where the inputs are features.
      dropout: probability of a zero; the others are divided by 1 - dropout.
      last_only: read out the last state only, not all.
    """

    def __init__(self, layers, readout, *, embedding=None, dropout=0.0, last_only):
        self.embedding = embedding
        self.layers = nnx.List(layers)
        self.readout = readout
        self.dropout = nnx.Dropout(dropout)
        self.last_only = last_only

    def initialize_carry(self, batch_size: int):
        """Zeros: the initial carry of every layer for a batch."""
        # The carry of every cell here depends on the batch and its own width alone.
        return [
            layer.cell.initialize_carry((batch_size, 1), nnx.Rngs(0))
            for layer in self.layers
        ]

    def __call__(self, inputs, carry=None, *, key=None):
        """Outputs and carry.

        Args:
          inputs: (batch, time, features), or tokens (batch, time) to be embedded.
          carry: as `initialize_carry`, or None for zeros.
          key: for dropout; without one there is none.

        Returns:
          Outputs (batch, out_features) with `last_only`, else (batch, time,
          out_features), and the carry after the last step.
        """
        if carry is None:
            carry = self.initialize_carry(inputs.shape[0])
        new_carry, x = [], inputs
        if self.embedding is not None:
            x = self._drop(self.embedding(inputs), key, 0)
        for i, (layer, h) in enumerate(zip(self.layers, carry, strict=True), 1):
            last = self.last_only and i == len(self.layers)
            x, h = _run(layer, x, h, last)
            x = self._drop(x, key, i)
            new_carry.append(h)
        return self.readout(x), new_carry

    def _drop(self, x, key, place):
        """Dropout with a key of its own in every place."""
        if key is None:
            return x
        place_key = jax.random.fold_in(key, place)
        return self.dropout(x, deterministic=False, rngs=place_key)

    def diagnostics(self) -> dict[str, jax.Array]:
        """`spectral_margin`: max_i |sigma_i - 1| over all transitions, if any."""
        margins = [
            diagnostics.spectral_margin(layer.cell.weight.singular_values())
            for layer in self.layers
            if isinstance(layer, svdrnn.TransitionRNN)
        ]
        return {"spectral_margin": jnp.max(jnp.stack(margins))} if margins else {}


class TiedReadout(nnx.Module):
    """y = E h + c with the embedding's own E (tokens, features); c starts at zero.

    Source: Press and Wolf, "Using the Output Embedding to Improve Language Models",
    2017.
    """

    def __init__(self, embedding: nnx.Embed):
        self.embedding = embedding
        self.bias = nnx.Param(jnp.zeros(embedding.num_embeddings))

    def __call__(self, x):
        return self.embedding.attend(x) + self.bias


def _run(layer, x, carry, last):
    """(output, carry) of a layer; with `last` the output is the last state alone."""
    if last and isinstance(layer, svdrnn.TransitionRNN):
        h = layer(x, initial_carry=carry, last_only=True)
        return h, h
    carry, states = layer(x, initial_carry=carry, return_carry=True)
    return (states[:, -1] if last else states), carry


def build(config, task, *, rngs: nnx.Rngs) -> nnx.Module:
    """The model that `config` (the `model` part) describes for `task`.

    Raises:
      ValueError: an unknown name, a recurrent model of inputs without a time axis or
        a feed-forward one of sequences, or an embedding where the inputs are not
        tokens; see also `feedforward.build`.
    """
    names = RECURRENT if task.sequential else feedforward.NAMES
    if config.name not in names:
        kind = "sequences" if task.sequential else "vectors without a time axis"
        raise ValueError(
            f"config.model.name must be one of {', '.join(names)} for {task.name},"
            f" whose inputs are {kind}, got {config.name!r}"
        )
    embedding = _embedding(config, task, rngs)
    if not task.sequential:
        return feedforward.build(config, task, rngs=rngs)
    features = task.in_features if embedding is None else embedding.features
    layers = []
    for _ in range(config.layers):
        layers.append(_layer(config, features, rngs))
        features = config.hidden
    if config.tied:
        readout = TiedReadout(embedding)
    else:
        readout = nnx.Linear(config.hidden, task.out_features, rngs=rngs)
    return SequenceModel(
        layers,
        readout,
        embedding=embedding,
        dropout=config.dropout,
        last_only=task.readout == "last",
    )


def _embedding(config, task, rngs):
    """The embedding of a task's tokens; None for a task whose inputs are features."""
    if task.vocabulary is not None:
        features = config.embedding or config.hidden
        return nnx.Embed(task.vocabulary, features, rngs=rngs)
    for name, off in (("embedding", None), ("tied", False)):
        if config[name] != off:
            raise ValueError(
                f"config.model.{name} must be {off}: the inputs of {task.name} are not"
                f" tokens, got {config[name]}"
            )
    return None


def _layer(config, features, rngs):
    n = config.hidden
    cell = {
        "activation": config.activation,
        "leak": config.leak,
        "input_scale": config.input_scale,
    }
    match config.name:
        case "spectral" | "ornn":
            return svdrnn.SpectralRNN(
                features,
                n,
                reflectors=config.reflectors,
                radius=config.radius if config.name == "spectral" else 0.0,
                center=config.center,
                init=config.init,
                method=config.method,
                rngs=rngs,
                **cell,
            )
        case "exprnn":
            init = "henaff" if config.init == "random" else config.init
            return svdrnn.OrthogonalRNN(features, n, init=init, rngs=rngs, **cell)
        case "scornn":
            return svdrnn.OrthogonalRNN(
                features,
                n,
                map="cayley",
                negative_fraction=config.negative_fraction,
                init="cayley" if config.init == "random" else config.init,
                rngs=rngs,
                **cell,
            )
        case "rnn":
            return svdrnn.DenseRNN(features, n, rngs=rngs, **cell)
        case "irnn":
            init = "identity" if config.init == "identity" else "orthogonal"
            return svdrnn.DenseRNN(features, n, init=init, rngs=rngs, **cell)
        case "lstm":
            return nnx.RNN(nnx.OptimizedLSTMCell(features, n, rngs=rngs), rngs=False)
        case "gru":
            return nnx.RNN(nnx.GRUCell(features, n, rngs=rngs), rngs=False)


def count_params(model: nnx.Module) -> int:
    """Stored parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def count_independent_params(model: nnx.Module) -> int:
    """Parameters that results depend on: stored ones less those below trapezoids."""
    redundant = sum(
        module.num_redundant
        for _, module in nnx.iter_modules(model)
        if isinstance(module, svdrnn.SpectralMatrix)
    )
    return count_params(model) - redundant
