"""Models of sequences: recurrent layers between an embedding and a readout.

A function here for each recurrent model makes one layer of it; `registry` says which
fields of `config.model` it reads.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import svdrnn
from experiments import checks
from experiments.models import activation
from svdrnn import activations, diagnostics, kernels

Carry = list[Any]


class SequenceModel(nnx.Module):
    """y_t = Y psi(h_t) + c over the states of the last of a stack of recurrent layers.

    With `last_only` it is y = Y psi(h) + c, where h is the state that a sequence ends
    in, or the mean or the maximum of its states, entry by entry. A layer in both
    directions gives [f_t, b_t]: f_t of a layer that runs to the end, b_t of one that
    runs from the end to the first step. What it ends in is [f_T, b_1].

    Sequences may end before the last step of the inputs. No step behind an item's end
    is read, whatever stands there, and its backward direction begins at that end.

    psi, `readout_activation`, acts on what is read and not on what is carried: with it
    a linear recurrence, whose gradients neither vanish nor explode, is no linear map of
    its inputs. It has no parameters.

    Dropout acts between the layers, not on the states that a layer carries along:
    on the embedded tokens and on the outputs of every layer, or on what is pooled of
    the last.

    Where the first layer gives every k-th of its states alone (`output_every`), the
    layers above have T / k steps and what is pooled is of those.

    Args:
      layers: recurrent layers with the call arguments of `nnx.RNN`, or
        `nnx.Bidirectional` of two of them, or a `Block` of either.
      readout: states (..., hidden) -> outputs (..., out_features).
      embedding: tokens, or the inputs' features -> features; None: there is none.
      dropout: probability of a zero; the others are divided by 1 - dropout.
      dropout_tied: have one mask for all steps of a sequence, and not one for each.
        Source: Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in
        Recurrent Neural Networks", 2016.
      last_only: read out one state of a sequence only, not all.
      pool: which, as `config.model.pool` says.
      readout_activation: psi, one that `config.model.readout_activation` allows:
        those without a slope or parameters of their own.

    Raises:
      ValueError: for another psi or pool; in a call, where an `output_every` above 1
        does not divide the steps, or there are lengths.
    """

    def __init__(
        self,
        layers: Sequence[nnx.Module],
        readout: Callable[[jax.Array], jax.Array],
        *,
        embedding: Callable[[jax.Array], jax.Array] | None = None,
        dropout: float = 0.0,
        dropout_tied: bool = False,
        last_only: bool,
        pool: str = "last",
        readout_activation: str = "identity",
    ):
        checks.check_field("model.readout_activation", readout_activation)
        checks.check_field("model.pool", pool)
        self.embedding = embedding
        self.layers: Any = nnx.List(layers)
        self.readout = readout
        self.dropout = dropout
        self.dropout_tied = dropout_tied
        self.last_only = last_only
        self.pool = pool
        self.readout_activation = activations.Activation(readout_activation)

    def initialize_carry(self, batch_size: int, *, streaming: bool = False) -> Carry:
        """Zeros: the initial carry of every layer, or a pair of both directions.

        With `streaming` that of `stream`. Where states are pooled an entry follows of
        how many were, (batch,), and their sum or maximum, (batch, features); where the
        first layer has an `output_every`, one of the steps since its last output,
        (batch,), and what was read last, (batch, features).
        """

        def zeros(layer: Any) -> Any:
            # That of every cell here depends on the batch and its own width alone.
            return layer.cell.initialize_carry((batch_size, 1), nnx.Rngs(0))

        both = [tuple(map(zeros, directions(layer))) for layer in self.layers]
        carry = [ways if len(ways) > 1 else ways[0] for ways in both]
        if streaming:
            none = jnp.zeros((batch_size, _features(self.layers[-1])))
            entries = self._pools + (self._every > 1)
            carry += [(jnp.zeros(batch_size, jnp.int32), none)] * entries
        return carry

    @property
    def _pools(self) -> bool:
        return self.last_only and self.pool != "last"

    @property
    def _every(self) -> int:
        return output_every(self.layers[0])

    def __call__(
        self,
        inputs: jax.Array,
        carry: Carry | None = None,
        *,
        keys: jax.Array | None = None,
        lengths: jax.Array | None = None,
    ) -> tuple[jax.Array, Carry]:
        """Outputs and carry.

        Args:
          inputs: (batch, time, features), or tokens (batch, time) to be embedded.
          carry: as `initialize_carry`, or None for zeros.
          keys: (batch,), one an example, for dropout; without them there is none.
          lengths: (batch,) integers from 1 to time, the steps that are an item's own;
            None: all of them.

        Returns:
          Outputs (batch, out_features) with `last_only`, else (batch, time,
          out_features), of which those behind an item's end mean nothing, and the
          carry after the last step of each item.
        """
        self._check_steps(inputs.shape[1], lengths)
        if lengths is not None:  # what is not a number would go into the gradient
            inputs = jnp.where(_own_steps(lengths, inputs), inputs, 0)
        if carry is None:
            carry = self.initialize_carry(inputs.shape[0])
        new_carry, x = [], inputs
        if self.embedding is not None:
            x = self._drop(self.embedding(inputs), keys, 0)
        for i, (layer, h) in enumerate(zip(self.layers, carry, strict=True), 1):
            ends = self.last_only and i == len(self.layers)
            last = ends and self.pool == "last"
            if isinstance(layer, Block):
                z, h = _run(layer.layer, layer.norm(x), h, lengths, last)
                z = self._drop(layer.gate(z), keys, i)
                if last:
                    x = z + _at_end(x, lengths)
                else:
                    every = output_every(layer)
                    x = z + (x if every == 1 else x[:, every - 1 :: every])
                if ends and not last:
                    x = _pooled(x, lengths, self.pool)
            else:
                x, h = _run(layer, x, h, lengths, last)
                if ends and not last:
                    x = _pooled(x, lengths, self.pool)
                x = self._drop(x, keys, i)
            new_carry.append(h)
        return self.readout(self.readout_activation(x)), new_carry

    def stream(self) -> Callable[[Carry, jax.Array], tuple[Carry, jax.Array]]:
        """A step for inputs that come one at a time, with every W built once, here.

        It keeps the values that the parameters have now, and has no dropout.

        Returns:
          (carry, inputs (batch, features) or tokens (batch,)) -> (carry, outputs
          (batch, out_features)), the outputs of every step also with `last_only`: those
          of a sequence that ends there, or where the first layer last gave an output;
          before it has given one, of zeros. The first carry is that of
          `initialize_carry(batch_size, streaming=True)`.

        Raises:
          ValueError: the outputs of a step depend on later ones, as those of layers in
            both directions do, or `activation_every` of a layer is not 1.
        """
        if any(len(directions(layer)) > 1 for layer in self.layers):
            raise ValueError(
                "bidirectional must be False for steps one at a time, got True"
            )
        plain: Any = svdrnn.bake(self)
        first, *others = [_step(layer) for layer in plain.layers]

        def above(carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
            """The layers above the first, and what is read, for an output of it."""
            new_carry: Carry = []
            for advance, h in zip(others, carry[: len(others)], strict=True):
                h, x = advance(h, x)
                new_carry.append(h)
            if plain._pools:
                x, pooled = _pooled_with(x, carry[-1], plain.pool)
                new_carry.append(pooled)
            return new_carry, x

        def step(carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
            x = inputs if plain.embedding is None else plain.embedding(inputs)
            h, x = first(carry[0], x)
            if plain._every == 1:
                rest, x = above(carry[1:], x)
            else:
                *before, (gone, read) = carry[1:]
                gone = (gone + 1) % plain._every
                rest, x = _where(gone == 0, above(before, x), (before, read))
                rest.append((gone, x))
            return [h, *rest], plain.readout(plain.readout_activation(x))

        return step

    def _check_steps(self, steps: int, lengths: jax.Array | None) -> None:
        """Raises ValueError for sequences that `output_every` does not fit."""
        if self._every == 1:
            return
        if lengths is not None:
            raise ValueError(
                f"lengths must be left out where output_every is {self._every}, not 1"
            )
        if steps % self._every:
            raise ValueError(
                f"inputs must have a multiple of {self._every} steps, as output_every"
                f" is {self._every}, got {steps}"
            )

    def _drop(self, x: jax.Array, keys: jax.Array | None, place: int) -> jax.Array:
        """Dropout of (batch, time, features), or (batch, features) of what is read.

        Its keys are its own in every place.
        """
        if keys is None or self.dropout == 0:
            return x

        steps = (0,) if self.dropout_tied and x.ndim > 2 else ()
        dropout = nnx.Dropout(self.dropout, broadcast_dims=steps)

        def drop(x: jax.Array, key: jax.Array) -> jax.Array:
            place_key = jax.random.fold_in(key, place)
            return dropout(x, deterministic=False, rngs=place_key)

        return jax.vmap(drop)(x, keys)

    def diagnostics(self) -> dict[str, jax.Array]:
        """`spectral_margin`: max_i |sigma_i - 1| over all transitions, if any."""
        ways = [way for layer in self.layers for way in directions(layer)]
        values = [_singular_values(way) for way in ways]
        margins = [diagnostics.spectral_margin(s) for s in values if s is not None]
        return {"spectral_margin": jnp.max(jnp.stack(margins))} if margins else {}


class Block(nnx.Module):
    """x_t + (A z_t + a) * sigmoid(B z_t + b), z_t what a layer makes of LayerNorm(x).

    The product, entry by entry, is a gated linear unit. Its parameters take the layer's
    outputs, of both directions where there are two, to as many features as x has.

    Source: Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences",
    2023; Dauphin et al., "Language Modeling with Gated Convolutional Networks", 2017.

    Args:
      layer: a recurrent layer, see `SequenceModel`.
      features: of x.
      outputs: features of what the layer gives.
      rngs: of the first parameters.
    """

    def __init__(self, layer: nnx.Module, features: int, outputs: int, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(features, rngs=rngs)
        self.layer = layer
        self.gates = nnx.Linear(outputs, 2 * features, rngs=rngs)

    def gate(self, z: jax.Array) -> jax.Array:
        """What is added to x."""
        # Two products of a matrix of items: one product cut in two has a slower
        # gradient, and so has each with a batch and a time axis.
        items = z.reshape(-1, z.shape[-1])
        assert self.gates.bias is not None
        a, b = jnp.split(self.gates.kernel[...], 2, axis=1)
        c, d = jnp.split(self.gates.bias[...], 2)
        added = (items @ a + c) * nnx.sigmoid(items @ b + d)
        return added.reshape(*z.shape[:-1], a.shape[1])


class TiedReadout(nnx.Module):
    """y = E h + c with the embedding's own E (tokens, features); c starts at zero.

    Source: Press and Wolf, "Using the Output Embedding to Improve Language Models",
    2017.
    """

    def __init__(self, embedding: nnx.Embed):
        self.embedding = embedding
        self.bias = nnx.Param(jnp.zeros(embedding.num_embeddings))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs (..., tokens) of states (..., features)."""
        return self.embedding.attend(x) + self.bias


def _singular_values(layer: Any) -> jax.Array | None:
    """Those of W, of every gate's own in one array; None of flax's free cells."""
    if isinstance(layer, svdrnn.TransitionRNN):
        weight: Any = layer.cell.weight
        return weight.singular_values()
    kernel = getattr(getattr(layer.cell, "dense_h", None), "kernel", None)
    if not isinstance(kernel, kernels.Kernel):
        return None
    return kernel.singular_values().ravel()


def directions(layer: Any) -> tuple[Any, ...]:
    """The layer, or the two of one that runs in both directions; of a block its own."""
    if isinstance(layer, Block):
        layer = layer.layer
    if isinstance(layer, nnx.Bidirectional):
        return layer.forward_rnn, layer.backward_rnn
    return (layer,)


def output_every(layer: Any) -> int:
    """k, where the layer or block gives every k-th of its states alone."""
    return getattr(directions(layer)[0], "output_every", 1)


def _run(
    layer: Any, x: jax.Array, carry: Any, lengths: jax.Array | None, last: bool
) -> tuple[jax.Array, Any]:
    """(output, carry) of a layer; with `last` the output is where it ends alone."""
    if not isinstance(layer, nnx.Bidirectional):
        return _run_one_way(layer, x, carry, lengths, last)
    # Apart and not by its own call, which has no `last_only`.
    forward, f = _run_one_way(layer.forward_rnn, x, carry[0], lengths, last)
    backward, b = _run_one_way(
        layer.backward_rnn, x, carry[1], lengths, last, reverse=True
    )
    return jnp.concatenate([forward, backward], axis=-1), (f, b)


def _run_one_way(
    layer: Any,
    x: jax.Array,
    carry: Any,
    lengths: jax.Array | None,
    last: bool,
    reverse: bool = False,
) -> tuple[jax.Array, Any]:
    options: dict[str, Any] = {"initial_carry": carry}
    if lengths is not None:
        options["seq_lengths"] = lengths
    if reverse:  # the last of the states is where it ends, in the order of its steps
        options |= {"reverse": True, "keep_order": not last}
    if last and isinstance(layer, svdrnn.TransitionRNN):
        h = layer(x, last_only=True, **options)
        return h, h
    carry, states = layer(x, return_carry=True, **options)
    if not last:
        return states, carry
    return _at_end(states, lengths), carry


def _step(layer: Any) -> Callable[[Any, jax.Array], tuple[Any, jax.Array]]:
    """(carry, inputs) -> (carry, outputs) of a layer in one direction."""
    if isinstance(layer, Block):
        inner = _step(layer.layer)

        def step(carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            carry, z = inner(carry, layer.norm(x))
            return carry, x + layer.gate(z)

        return step
    if isinstance(layer, svdrnn.TransitionRNN):
        return layer.prepare()[0]
    return layer.cell


def _at_end(states: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """The state (batch, n) that an item ends in, of all (batch, time, n)."""
    if lengths is None:
        return states[:, -1]
    # Not `len`: the batch of an exported model has no number.
    return states[jnp.arange(states.shape[0]), lengths - 1]


def _where(chosen: jax.Array, new: Any, old: Any) -> Any:
    """Of two trees of arrays (batch, ...) the new ones of those that are chosen."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(chosen.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)


def _own_steps(lengths: jax.Array, x: jax.Array) -> jax.Array:
    """Which steps of x (batch, time, ...) are an item's own, (batch, time, 1 ...)."""
    own = jnp.arange(x.shape[1]) < lengths[:, None]
    return own.reshape(own.shape + (1,) * (x.ndim - 2))


def _pooled(states: jax.Array, lengths: jax.Array | None, pool: str) -> jax.Array:
    """The mean or the maximum (batch, n) of an item's states (batch, time, n)."""
    own = None if lengths is None else _own_steps(lengths, states)
    if pool == "mean":
        return jnp.mean(states, axis=1, where=own)
    return jnp.max(states, axis=1, where=own, initial=-jnp.inf)


def _pooled_with(x: jax.Array, before: Any, pool: str) -> tuple[jax.Array, Any]:
    """What is pooled of a step's x (batch, n) and of the steps before, and the carry.

    The carry, and `before`, is how many steps were and their sum or maximum.
    """
    count, value = before
    if pool == "mean":
        total = value + x
        return total / (count + 1)[:, None], (count + 1, total)
    most = jnp.where(count[:, None] > 0, jnp.maximum(value, x), x)
    return most, (count + 1, most)


def _features(layer: Any) -> int:
    """Of what a layer or a block gives."""
    if isinstance(layer, Block):
        return int(layer.norm.num_features)
    return sum(way.cell.hidden_features for way in directions(layer))


# ---- A layer of each model.


def spectral(config: Any, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """Singular values within `radius` of `center`."""
    own = {"radius": config.radius, "init_sigma": config.init_sigma}
    return _spectral(config, features, rngs, **own)


def ornn(config: Any, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """Singular values all at `center`."""
    return _spectral(config, features, rngs, radius=0.0)


def exprnn(config: Any, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """W = exp(A), which starts as Henaff's rotation where `init` is "random"."""
    return _orthogonal(config, features, "exponential", "henaff", rngs)


def scornn(config: Any, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """W = Cayley(A) D, which starts as Cayley's rotation where `init` is "random"."""
    return _orthogonal(
        config,
        features,
        "cayley",
        "cayley",
        rngs,
        negative_fraction=config.negative_fraction,
    )


def rnn(config: Any, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """W without a constraint, as flax draws it."""
    return svdrnn.DenseRNN(features, config.hidden, rngs=rngs, **_cell(config))


def irnn(config: Any, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """W without a constraint, from a random orthogonal matrix or the identity."""
    firsts = {"random": "orthogonal", "identity": "identity"}
    svdrnn.checks.check_name("init", config.init, tuple(firsts))
    init = firsts[config.init]
    cell = _cell(config)
    return svdrnn.DenseRNN(features, config.hidden, init=init, rngs=rngs, **cell)


def spectral_lstm(config: Any, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """Flax's own, each gate's recurrent matrix as that of `spectral`."""
    return _gates(config, nnx.OptimizedLSTMCell, features, rngs)


def spectral_gru(config: Any, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """Flax's own, each gate's recurrent matrix as that of `spectral`."""
    return _gates(config, nnx.GRUCell, features, rngs)


def lstm(config: Any, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """Flax's own."""
    cell = nnx.OptimizedLSTMCell(features, config.hidden, rngs=rngs)
    return nnx.RNN(cell, rngs=False)


def gru(config: Any, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """Flax's own."""
    return nnx.RNN(nnx.GRUCell(features, config.hidden, rngs=rngs), rngs=False)


def input_scale(time_steps: int) -> float:
    """The factor on the first input weights for sequences of T steps, 3 / sqrt(T).

    A transition near the identity sums what it reads. The 3 was measured (docs/guide.md
    has the figures); short sequences have 1.
    """
    return min(1.0, 3 / math.sqrt(time_steps))


def _cell(config: Any) -> dict[str, Any]:
    """What the fields say of every layer of the library."""
    return {
        **activation.arguments(config),
        "input_scale": config.input_scale,
        "activation_every": config.activation_every,
        "output_every": config.output_every,
    }


def _gates(
    config: Any, kind: Callable[..., nnx.Module], features: int, rngs: nnx.Rngs
) -> nnx.RNN:
    """A cell of flax with its recurrent kernel constrained gate by gate."""
    svdrnn.checks.check_name("init", config.init, ("random", "identity"))
    reflectors = config.reflectors
    if not isinstance(reflectors, int | None):
        reflectors = tuple(reflectors)
    constraint = svdrnn.Spectral(config.radius, config.center, reflectors)
    cell: Any = kind(features, config.hidden, rngs=rngs)
    where = "dense_h/kernel"
    svdrnn.constrain(cell, constraint, where, init=config.init, rngs=rngs)
    return nnx.RNN(cell, rngs=False)


def _spectral(
    config: Any, features: int, rngs: nnx.Rngs, **own: Any
) -> svdrnn.SpectralRNN:
    return svdrnn.SpectralRNN(
        features,
        config.hidden,
        reflectors=config.reflectors,
        center=config.center,
        init=config.init,
        method=config.method,
        rngs=rngs,
        **own,
        **_cell(config),
    )


def _orthogonal(
    config: Any, features: int, map: str, first: str, rngs: nnx.Rngs, **own: Any
) -> svdrnn.OrthogonalRNN:
    """The first W is `first` where the config says "random"."""
    svdrnn.checks.check_name(
        "init", config.init, ("random", *svdrnn.OrthogonalMatrix.INITS)
    )
    init = first if config.init == "random" else config.init
    return svdrnn.OrthogonalRNN(
        features, config.hidden, map=map, init=init, rngs=rngs, **_cell(config), **own
    )
