"""From a config to a model: recurrent layers under a linear readout."""

import jax
import jax.numpy as jnp
from flax import nnx

import svdrnn
from experiments import gated
from svdrnn import diagnostics

NAMES = ("spectral", "ornn", "rnn", "irnn", "lstm", "gru")


class SequenceModel(nnx.Module):
    """y_t = Y h_t + c over the states of the last of a stack of recurrent layers.

    Args:
      layers: recurrent layers with the call arguments of ``nnx.RNN``.
      hidden, out_features: the readout is (out_features, hidden), LeCun normal.
      last_only: read out the last state only, not all.
      rngs: draws the readout.
    """

    def __init__(self, layers, hidden, out_features, *, last_only, rngs):
        self.layers = nnx.List(layers)
        self.readout = nnx.Linear(hidden, out_features, rngs=rngs)
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
          inputs: (batch, time, features).
          carry: as ``initialize_carry``, or None for zeros.
          key: for dropout; nothing here is random yet.

        Returns:
          Outputs (batch, out_features) with ``last_only``, else (batch, time,
          out_features), and the carry after the last step.
        """
        del key
        if carry is None:
            carry = self.initialize_carry(inputs.shape[0])
        new_carry, x = [], inputs
        for i, (layer, h) in enumerate(zip(self.layers, carry)):
            last = self.last_only and i + 1 == len(self.layers)
            x, h = _run(layer, x, h, last)
            new_carry.append(h)
        return self.readout(x), new_carry

    def diagnostics(self) -> dict[str, jax.Array]:
        """``spectral_margin``: max_i |sigma_i - 1| over all transitions, if any."""
        margins = [
            diagnostics.spectral_margin(layer.cell.weight.singular_values())
            for layer in self.layers
            if isinstance(layer, svdrnn.TransitionRNN)
        ]
        return {"spectral_margin": jnp.max(jnp.stack(margins))} if margins else {}


def _run(layer, x, carry, last):
    """(output, carry) of a layer; with ``last`` the output is the last state alone."""
    if last and isinstance(layer, svdrnn.TransitionRNN):
        h = layer(x, initial_carry=carry, last_only=True)
        return h, h
    carry, states = layer(x, initial_carry=carry, return_carry=True)
    return (states[:, -1] if last else states), carry


def build(config, task, *, rngs: nnx.Rngs) -> SequenceModel:
    """The model that ``config`` (the ``model`` part) describes for ``task``."""
    features, layers = task.in_features, []
    for _ in range(config.get("layers", 1)):
        layers.append(_layer(config, features, rngs))
        features = config.hidden
    last_only = task.readout == "last"
    return SequenceModel(
        layers, config.hidden, task.out_features, last_only=last_only, rngs=rngs
    )


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
                init=config.init,
                method=config.method,
                rngs=rngs,
                **cell,
            )
        case "rnn":
            return svdrnn.DenseRNN(features, n, rngs=rngs, **cell)
        case "irnn":
            init = "identity" if config.init == "identity" else "orthogonal"
            return svdrnn.DenseRNN(features, n, init=init, rngs=rngs, **cell)
        case "lstm":
            return gated.GatedRNN(nnx.OptimizedLSTMCell(features, n, rngs=rngs))
        case "gru":
            return gated.GatedRNN(nnx.GRUCell(features, n, rngs=rngs))
    raise ValueError(
        f"model.name must be one of {', '.join(NAMES)}; got {config.name!r}"
    )


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
