"""Feed-forward models: deep and residual networks of dense or spectral layers.

Square layers are stacked: every parameter has a leading layer axis, and one compiled
layer is scanned over it, so that depth costs no compilation. Their matrices are built
before the scan, all at once.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import svdrnn
from svdrnn import diagnostics, transitions
from svdrnn.activations import Activation

NAMES = ("mlp", "resnet", "spectral_mlp", "spectral_resnet")


class FeedForward(nnx.Module):
    """logits = W_out h + b_out, with h the last of a stack of hidden layers.

    A subclass has `enter(z)`, the first h of z = W_in x + b_in, and
    `step(h, *layers)`, the next h, given one layer of every stack.

    Args:
      first: inputs (..., in_features) -> (..., n).
      stacks: square layers (n -> n), stacked as `stack` does, all of one depth.
      last: (..., n) -> (..., out_features).
      activation: phi.
    """

    def __init__(self, first, stacks, last, *, activation: Activation):
        self.first = first
        self.stacks = nnx.List(stacks)
        self.last = last
        self.activation = activation

    def initialize_carry(self, batch_size: int):
        """None: nothing is carried from batch to batch."""
        return None

    def __call__(self, inputs, carry=None, *, key=None):
        """Outputs (batch, out_features) of inputs (batch, in_features), and None.

        The call of `models.SequenceModel`: `carry` and `key` are not used.
        """
        h = self.enter(self.first(inputs))
        if self.stacks:
            layers = [prepare(each) for each in self.stacks]
            h, _ = jax.lax.scan(lambda h, xs: (self.step(h, *xs), None), h, layers)
        return self.last(h), None

    def diagnostics(self) -> dict[str, jax.Array]:
        """`spectral_margin`: max_i |sigma_i - sigma*| over all layers, if spectral.

        Each layer's sigma* is its own. Of a branch with sigma* = 0 that is its norm,
        so that the margin is at most the radius in every model.
        """
        margins = [
            diagnostics.spectral_margin(
                layer.weight.singular_values(), layer.weight.center
            )
            for layer in (self.first, *self.stacks, self.last)
            if isinstance(layer, svdrnn.SpectralLinear)
        ]
        return {"spectral_margin": jnp.max(jnp.stack(margins))} if margins else {}


class MLP(FeedForward):
    """h_1 = phi(W_in x + b_in), h_{l+1} = phi(W_l h_l + b_l)."""

    def enter(self, z):
        return self.activation(z)

    def step(self, h, layer):
        return self.activation(affine(layer, h))


class ResNet(FeedForward):
    """h_0 = W_in x + b_in, h_{l+1} = h_l + W2_l phi(W1_l h_l + b1_l) + b2_l.

    Nothing acts on the sum: from input to output there is a path of identities, and a
    branch can add to h or take from it.
    """

    def enter(self, z):
        return z

    def step(self, h, inner, outer):
        return h + affine(outer, self.activation(affine(inner, h)))


# ---- Stacks of layers.


def stack(make, depth: int, rngs: nnx.Rngs):
    """Layers `make(rngs)` as one module with a leading axis on every parameter."""
    return nnx.vmap(make)(rngs.split(depth))


def prepare(layers):
    """(transition, bias) of stacked square layers, with the layer axis on both."""
    graph, state = nnx.split(layers)

    def one(state):
        layer = nnx.merge(graph, state)
        if isinstance(layer, svdrnn.SpectralLinear):
            return layer.weight.transition(layer.method), layer.bias[...]
        return transitions.Dense(layer.kernel[...].T), layer.bias[...]

    return jax.vmap(one)(state)


def affine(layer, h):
    """W h + b for every item of h (batch, n)."""
    transition, bias = layer
    return transition.apply(h, None)[0] + bias


# ---- From a config to a model.


def build(config, task, *, rngs: nnx.Rngs) -> FeedForward:
    """The model that `config` (the `model` part) describes for `task`.

    `layers` counts the hidden layers of an MLP, the first of which reads the input,
    and the square layers of a residual network, two to a block.

    Raises:
      ValueError: an odd number of layers in a residual network, or a field that only
        recurrent models have.
    """
    _check(config)
    residual = config.name.endswith("resnet")
    blocks = config.layers // 2 if residual else config.layers - 1
    makers = _spectral if config.name.startswith("spectral") else _dense
    first, hidden, last = makers(config, task, residual, blocks)
    return (ResNet if residual else MLP)(
        first(rngs),
        [stack(make, blocks, rngs) for make in hidden if blocks],
        last(rngs),
        activation=Activation(config.activation, config.leak),
    )


def _dense(config, task, residual, blocks):
    """Makers of the first, the stacked and the last layers; W is normal, b zero.

    With the variance c/n_in, c = 1 keeps the power of what is not rectified and
    c = 1/E[phi(z)^2] that of phi(z), which is 2/(1 + leak^2) of the leaky ReLU (He et
    al., 2015). In a residual network c is divided by the number of blocks where a
    branch ends: their sum then grows by a factor e at most, and not by 2^blocks.
    """
    power = {"relu": 2.0, "leaky_relu": 2 / (1 + config.leak**2)}
    rectified = power.get(config.activation, 1.0)

    def maker(n_in, n_out, scale):
        draw = nnx.initializers.variance_scaling(scale, "fan_in", "normal")
        return lambda rngs: nnx.Linear(n_in, n_out, kernel_init=draw, rngs=rngs)

    n = config.hidden
    edge = 1.0 if residual else rectified
    hidden = [maker(n, n, rectified)]
    if residual:
        hidden = [maker(n, n, 1.0), maker(n, n, rectified / blocks)]
    first, last = (task.in_features, n), (n, task.out_features)
    return maker(*first, edge), hidden, maker(*last, edge)


def _spectral(config, task, residual, blocks):
    """Makers of the first, the stacked and the last layers.

    `center`, `reflectors`, `init` and `method` are those of the square layers. The
    first and the last have sigma* = 1 and as many reflectors as reach every matrix: with
    few, the first would read little else than the first n pixels.
    """
    del blocks

    def maker(n_in, n_out, **kwargs):
        return lambda rngs: svdrnn.SpectralLinear(
            n_in, n_out, radius=config.radius, rngs=rngs, **kwargs
        )

    n = config.hidden
    square = maker(
        n,
        n,
        reflectors=config.reflectors,
        center=config.center,
        init=config.init,
        method=config.method,
    )
    first = maker(task.in_features, n, reflectors=None)
    last = maker(n, task.out_features, reflectors=None)
    return first, [square] * (2 if residual else 1), last


def _check(config) -> None:
    """Raises ValueError for fields that do not fit a feed-forward model."""
    if config.name.endswith("resnet") and config.layers % 2:
        raise ValueError(
            f"config.model.layers must be even for {config.name}, whose blocks have two"
            f" layers each, got {config.layers}"
        )
    for name, off in (("dropout", 0), ("input_scale", 1)):
        if config[name] != off:
            raise ValueError(
                f"config.model.{name} must be {off} for {config.name}: only recurrent"
                f" models have it, got {config[name]}"
            )
    if Activation(config.activation, config.leak).needs_offset:
        raise ValueError(
            f"config.model.activation must need no offset for {config.name}, got"
            f" {config.activation!r}"
        )
