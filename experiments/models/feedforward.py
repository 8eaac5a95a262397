"""Feed-forward models: deep and residual networks of dense or spectral layers.

Square layers are stacked: every parameter has a leading layer axis, and one compiled
layer is scanned over it, so that depth costs no compilation. Their matrices are built
before the scan, all at once.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from typing_extensions import override

import svdrnn
from experiments.models import activation
from svdrnn import activations, diagnostics, transitions

Layer = tuple[Any, jax.Array]  # how W is applied, and the bias
Maker = Callable[[nnx.Rngs], nnx.Module]
Makers = tuple[Maker, list[Maker], Maker]  # of the first, the stacked and the last


class FeedForward(nnx.Module):
    """logits = W_out h + b_out, with h the last of a stack of hidden layers.

    Args:
      first: inputs (..., in_features) -> (..., n).
      stacks: square layers (n -> n), stacked as `stack` does, all of one depth.
      last: (..., n) -> (..., out_features).
      activation: phi.
    """

    def __init__(
        self,
        first: nnx.Module,
        stacks: Sequence[nnx.Module],
        last: nnx.Module,
        *,
        activation: activations.Activation,
    ):
        self.first = first
        self.stacks = nnx.List(stacks)
        self.last = last
        self.activation = activation

    @abc.abstractmethod
    def enter(self, z: jax.Array) -> jax.Array:
        """The first h, of z = W_in x + b_in."""

    @abc.abstractmethod
    def step(self, h: jax.Array, *layers: Layer) -> jax.Array:
        """The next h, given one layer of every stack."""

    def initialize_carry(self, batch_size: int) -> None:
        """None: nothing is carried from batch to batch."""
        return None

    def __call__(
        self, inputs: jax.Array, carry: None = None, *, keys: jax.Array | None = None
    ) -> tuple[jax.Array, None]:
        """Outputs (batch, out_features) of inputs (batch, in_features), and None.

        The call of `recurrent.SequenceModel`, for inputs without lengths: `carry` and
        `keys` are not used.
        """
        h = self.enter(self.first(inputs))
        if self.stacks:
            layers = [prepare(stack) for stack in self.stacks]
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

    @override
    def enter(self, z: jax.Array) -> jax.Array:
        return self.activation(z)

    @override
    def step(self, h: jax.Array, *layers: Layer) -> jax.Array:
        (layer,) = layers
        return self.activation(affine(layer, h))


class ResNet(FeedForward):
    """h_0 = W_in x + b_in, h_{l+1} = h_l + W2_l phi(W1_l h_l + b1_l) + b2_l.

    Nothing acts on the sum: from input to output there is a path of identities, and a
    branch can add to h or take from it.
    """

    @override
    def enter(self, z: jax.Array) -> jax.Array:
        return z

    @override
    def step(self, h: jax.Array, *layers: Layer) -> jax.Array:
        inner, outer = layers
        return h + affine(outer, self.activation(affine(inner, h)))


# ---- Stacks of layers.


def stack(make: Maker, depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """Layers `make(rngs)` as one module with a leading axis on every parameter."""
    return nnx.vmap(make)(rngs.split(depth))


def prepare(layers: nnx.Module) -> Layer:
    """(transition, bias) of stacked square layers, with the layer axis on both."""
    graph, state = nnx.split(layers)

    def one(state: Any) -> Layer:
        layer: Any = nnx.merge(graph, state)
        spectral = isinstance(layer, svdrnn.SpectralLinear)
        bias = layer.bias[...]
        if spectral:
            return layer.weight.transition(layer.method), bias
        return transitions.Dense(layer.kernel[...].T), bias

    return jax.vmap(one)(state)


def affine(layer: Layer, h: jax.Array) -> jax.Array:
    """W h + b for every item of h (batch, n)."""
    transition, bias = layer
    return transition.apply(h, None)[0] + bias


# ---- From a config to a network.


def mlp(config: Any, n_in: int, n_out: int, *, rngs: nnx.Rngs) -> FeedForward:
    """`config.layers` hidden layers, the first of which reads the input."""
    return _mlp(config, _dense(config, n_in, n_out), rngs)


def spectral_mlp(config: Any, n_in: int, n_out: int, *, rngs: nnx.Rngs) -> FeedForward:
    """As `mlp`, of spectral layers."""
    return _mlp(config, _spectral(config, n_in, n_out, stacks=1), rngs)


def resnet(config: Any, n_in: int, n_out: int, *, rngs: nnx.Rngs) -> FeedForward:
    """`config.layers` square layers, two to a block."""
    return _resnet(config, _dense(config, n_in, n_out, _blocks(config)), rngs)


def spectral_resnet(
    config: Any, n_in: int, n_out: int, *, rngs: nnx.Rngs
) -> FeedForward:
    """As `resnet`, of spectral layers."""
    return _resnet(config, _spectral(config, n_in, n_out, stacks=2), rngs)


def _mlp(config: Any, makers: Makers, rngs: nnx.Rngs) -> FeedForward:
    return _network(MLP, config, makers, config.layers - 1, rngs)


def _resnet(config: Any, makers: Makers, rngs: nnx.Rngs) -> FeedForward:
    return _network(ResNet, config, makers, _blocks(config), rngs)


def _blocks(config: Any) -> int:
    if config.layers % 2:
        raise ValueError(
            f"layers must be even for {config.name}, whose blocks have two layers each,"
            f" got {config.layers}"
        )
    return config.layers // 2


def _network(
    kind: type[FeedForward], config: Any, makers: Makers, depth: int, rngs: nnx.Rngs
) -> FeedForward:
    arguments = activation.arguments(config)
    phi = activations.Activation(arguments["activation"], arguments["leak"])
    if phi.needs_offset:
        raise ValueError(
            f"activation must need no offset for {config.name}, got"
            f" {config.activation!r}"
        )
    first, hidden, last = makers
    return kind(
        first(rngs),
        [stack(make, depth, rngs) for make in hidden if depth],
        last(rngs),
        activation=phi,
    )


def _dense(config: Any, n_in: int, n_out: int, blocks: int | None = None) -> Makers:
    """Makers of the first, the stacked and the last layers; W is normal, b zero.

    `blocks` is the number of them in a residual network, None in another. With the
    variance c/n_in, c = 1 keeps the power of what is not rectified and
    c = 1/E[phi(z)^2] that of phi(z), which is 2/(1 + leak^2) of the leaky ReLU (He et
    al., 2015). In a residual network c is divided by the number of blocks where a
    branch ends: their sum then grows by a factor e at most, and not by 2^blocks.
    """
    power = {"relu": 2.0, "leaky_relu": 2 / (1 + config.leak**2)}
    rectified = power.get(config.activation, 1.0)

    def maker(n_in: int, n_out: int, scale: float) -> Maker:
        draw = nnx.initializers.variance_scaling(scale, "fan_in", "normal")
        return lambda rngs: nnx.Linear(n_in, n_out, kernel_init=draw, rngs=rngs)

    n = config.hidden
    edge, hidden = rectified, [maker(n, n, rectified)]
    if blocks is not None:
        edge, hidden = 1.0, [maker(n, n, 1.0), maker(n, n, rectified / blocks)]
    return maker(n_in, n, edge), hidden, maker(n, n_out, edge)


def _spectral(config: Any, n_in: int, n_out: int, *, stacks: int) -> Makers:
    """Makers of the first, the stacked and the last layers.

    `center`, `reflectors`, `init`, `init_sigma` and `method` are those of the square
    layers. The first and the last have sigma* = 1 and as many reflectors as reach every
    matrix: with few, the first would read little else than the first n pixels.
    """

    def maker(n_in: int, n_out: int, **kwargs: Any) -> Maker:
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
        init_sigma=config.init_sigma,
        method=config.method,
    )
    first = maker(n_in, n, reflectors=None)
    last = maker(n, n_out, reflectors=None)
    return first, [square] * stacks, last
