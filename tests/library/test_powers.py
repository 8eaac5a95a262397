"""Linear steps taken at once, by powers of W, against the loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from svdrnn import SpectralRNN, powers, recurrence
from svdrnn.activations import Activation
from svdrnn.transitions import Dense, DiagonalPlusLowRank
from tests import oracles

N, BATCH = 8, 40
x64 = pytest.mark.usefixtures("x64")


def draw(steps, features=1, *, batch=BATCH, n=N, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = {
        "w": (n, n),
        "inputs": (steps, batch, features),
        "carry": (batch, n),
        "input_weights": (n, features),
    }
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    arrays["w"] = np.linalg.qr(rng.normal(size=(n, n)))[0] * 1.01
    return {name: array.astype(dtype) for name, array in arrays.items()}


def loop(w, inputs, carry, input_weights):
    h = carry
    for x in inputs:
        h = h @ w.T + x @ input_weights.T
    return h


@x64
@pytest.mark.parametrize(
    "steps,features",
    [
        *((0, 1), (1, 1), (13, 3)),
        *(
            pytest.param(*sizes, marks=pytest.mark.slow)
            for sizes in ((2, 3), (3, 1), (5, 1), (8, 3))
        ),
    ],
)
def test_the_loop_and_its_gradients(steps, features):
    given = draw(steps, features)
    weights = np.random.default_rng(1).normal(size=(BATCH, N))

    def with_gradients(last_state):
        def call(given, weights):
            last, pull = jax.vjp(lambda given: last_state(**given), given)
            return last, pull(weights)[0]

        return oracles.jit(call)(given, weights)

    (last, gradients), (expected, of_loop) = map(
        with_gradients, (powers.last_state, loop)
    )
    np.testing.assert_allclose(last, expected, rtol=1e-11, atol=1e-11)
    for name, gradient in of_loop.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@x64
def test_finite_differences_in_both_modes():
    given = draw(6, batch=2)
    check_grads(powers.last_state, tuple(given.values()), order=2)


def test_float32_over_784_steps():
    given = draw(784, n=32, dtype=np.float32)
    given["w"] = given["w"] / np.float32(1.01)
    found = oracles.jit(powers.last_state)(**given)
    wide = {name: array.astype(np.float64) for name, array in given.items()}
    expected = loop(**wide)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_carries_have_powers_in_float32(dtype):
    given = draw(100)
    given["w"] = given["w"] / 1.01
    narrow = {name: jnp.asarray(array, dtype) for name, array in given.items()}
    narrow["w"] = jnp.asarray(given["w"], jnp.float32)
    found = oracles.jit(powers.last_state)(**narrow)
    assert found.dtype == dtype
    expected = loop(**given)
    error = np.abs(np.asarray(found, np.float64) - expected).max()
    assert error < 10 * float(jnp.finfo(dtype).eps) * np.abs(expected).max()


@pytest.mark.parametrize(
    "name,shape,words",
    [
        ("w", (N, N + 1), r"w and input_weights must have .*got \(8, 9\)"),
        ("carry", (BATCH, N + 1), r"carry must have shape \(40, 8\), got \(40, 9\)"),
        ("carry", (BATCH + 1, N), r"carry must have shape \(40, 8\), got \(41, 8\)"),
        ("inputs", (3, BATCH, 2), r"inputs and input_weights must .*\(3, 40, 2\)"),
        ("inputs", (3, BATCH), r"inputs and input_weights must .*got \(3, 40\)"),
        ("input_weights", (N,), r"w and input_weights must .*got .* and \(8,\)"),
    ],
)
def test_shapes_that_do_not_fit(name, shape, words):
    given = draw(3) | {name: np.zeros(shape)}
    with pytest.raises(ValueError, match=words):
        powers.last_state(**given)
    with pytest.raises(ValueError, match="w must have a floating dtype"):
        powers.last_state(**(draw(3) | {"w": np.zeros((N, N), int)}))


def multiplications(given):
    """Those of the matrix products of `last_state`."""
    total = 0
    for equation in jax.make_jaxpr(lambda kw: powers.last_state(**kw))(given).eqns:
        if equation.primitive.name == "dot_general":
            ((inner,), _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * left[inner]
    return total


@x64
@pytest.mark.parametrize(
    "n,steps,batch,taken",
    [(32, 784, 128, True), (32, 784, 1, False), (8, 5, 4, False), (8, 5, 64, True)],
)
def test_what_takes_fewer_multiplications_is_taken(n, steps, batch, taken):
    given = draw(steps, 2, n=n, batch=batch)
    # Counted above, but not there: one product of the carry for every bit of the steps.
    counted = multiplications(given) - (steps.bit_count() - 1) * batch * n * n
    of_inputs = batch * steps * n * 2  # which a loop has too
    dense = batch * steps * n * n + of_inputs
    assert (counted < dense) == taken
    sizes = {"steps": steps, "items": batch}
    assert powers.cheaper(n, 2, **sizes, multiplications=n * n) == taken
    least = (counted - of_inputs) / (batch * steps)
    assert powers.cheaper(n, 2, **sizes, multiplications=int(1.2 * least) + 1)
    assert not powers.cheaper(n, 2, **sizes, multiplications=int(0.8 * least) - 1)


@x64
@pytest.mark.parametrize("steps", [1, 2, 3, 6, 13])
def test_a_block_is_so_many_steps(steps):
    given = draw(3 * steps, 2)
    power, columns = powers.block(given["w"], given["input_weights"], steps)
    expected = np.linalg.matrix_power(given["w"], steps)
    np.testing.assert_allclose(power, expected, rtol=1e-12, atol=1e-12)
    h = given["carry"]
    for x in powers.lagged(given["inputs"], steps):
        h = h @ power.T + x @ columns.T
    np.testing.assert_allclose(h, loop(**given), rtol=1e-11, atol=1e-11)


def test_blocks_that_do_not_fit():
    with pytest.raises(ValueError, match="steps must divide the 7 of the .*got 2"):
        powers.lagged(np.zeros((7, 2, 1)), 2)
    with pytest.raises(ValueError, match="steps must be an integer of at least 1"):
        powers.block(np.eye(2), np.zeros((2, 1)), 0)


# ---- Where the recurrence takes them.


FORMS = ("dense", "low_rank")


def form_of(w, form):
    if form == "dense":
        return Dense(w)
    q, _ = np.linalg.qr(np.random.default_rng(2).normal(size=w.shape))
    return DiagonalPlusLowRank(np.ones(len(w)), (w - np.eye(len(w))) @ q.T, q)


def run(given, form="dense", name="identity", leak=None, **options):
    return recurrence.recurrence(
        form_of(given["w"], form),
        given["inputs"],
        given["carry"],
        activation=Activation(name, leak),
        input_weights=given["input_weights"],
        **options,
    )


def compiled(given, *arguments, **options):
    """`run` as one program."""
    return oracles.jit(lambda given: run(given, *arguments, **options))(given)


@pytest.fixture
def taken(monkeypatch):
    """Which of the functions were called."""
    calls = []

    def counted(name, original):
        def call(*args):
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(powers, name, call)

    for name in ("block", "last_state"):
        counted(name, getattr(powers, name))
    return calls


@x64
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_a_linear_recurrence_takes_them(taken, form, features, bias):
    given = draw(9, features)
    b = np.arange(1.0, N + 1) if bias else None
    states, last = compiled(given, form, bias=b, last_only=True)
    assert len(taken) == 1 and states is None
    plain = compiled(given, form, bias=b, last_only=True, custom_backward=False)[1]
    np.testing.assert_allclose(last, plain, rtol=1e-11, atol=1e-11)
    assert len(taken) == 1


@x64
@pytest.mark.parametrize(
    "options",
    [
        {"name": "tanh"},
        {"name": "leaky_relu", "leak": 0.999},
        {"last_only": False},
        {"last_only": False, "output_every": 3, "unroll": 2},
        {"last_only": False, "output_every": 3, "lengths": np.full(BATCH, 5)},
        {"last_only": False, "output_every": 3, "name": "tanh", "activation_every": 2},
        {"chunk": 2},
        {"unroll": 2},
        {"custom_backward": False},
        {"lengths": np.full(BATCH, 5)},
        {"perturbations": np.zeros((9, BATCH, N))},
    ],
)
def test_what_needs_the_states_takes_the_loop(taken, options):
    given = draw(9)
    jax.eval_shape(lambda given: run(given, **{"last_only": True, **options}), given)
    assert not taken
    _, linear = compiled(given, name="leaky_relu", leak=1, last_only=True)
    assert len(taken) == 1
    np.testing.assert_allclose(linear, loop(**given), rtol=1e-11, atol=1e-11)


# ---- An activation every so many steps.

ACTIVATIONS = {
    "leaky_relu": (0.1, lambda z: np.where(z >= 0, z, 0.1 * z)),
    "tanh": (None, np.tanh),
    "modrelu": (None, lambda z: np.sign(z) * np.maximum(np.abs(z) - 0.1, 0)),
}


def kinked(w, inputs, carry, input_weights, phi, every):
    h, states = carry, []
    for t, x in enumerate(inputs, 1):
        h = h @ w.T + x @ input_weights.T
        h = phi(h) if t % every == 0 else h
        states.append(h)
    return np.array(states)


@x64
@pytest.mark.slow
@pytest.mark.parametrize(
    "name,form,steps,every",
    [
        ("leaky_relu", "dense", 12, 3),
        ("leaky_relu", "low_rank", 13, 4),
        ("tanh", "low_rank", 9, 9),
        ("tanh", "dense", 3, 4),
        ("tanh", "dense", 1, 2),
        ("modrelu", "dense", 13, 4),
    ],
)
def test_an_activation_every_so_many_steps(taken, name, form, steps, every):
    given = draw(steps)
    leak, phi = ACTIVATIONS[name]
    offset = {"offset": np.full(N, -0.1)} if name == "modrelu" else {}
    kept = functools.partial(run, form=form, name=name, leak=leak, **offset)
    expected = kinked(**given, phi=phi, every=every)
    _, last = kept(given, last_only=True, activation_every=every)
    if form == "dense" and steps > 1:
        blocks, rest = divmod(steps, every)
        assert taken == ["block"] * (blocks > 0) + ["last_state"] * (rest > 0)
    np.testing.assert_allclose(last, expected[-1], rtol=1e-11, atol=1e-11)
    calls = len(taken)
    states, last = kept(given, activation_every=every)
    np.testing.assert_allclose(states, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(last, states[-1])
    lengths = np.arange(BATCH) % (steps + 1)
    for chunk in (None, 2):
        options = {"lengths": lengths, "last_only": True, "chunk": chunk}
        _, ended = kept(given, activation_every=every, **options)
        for item in (0, 1, BATCH - 1):
            all_states = np.concatenate([given["carry"][None], expected])
            found = all_states[lengths[item], item]
            np.testing.assert_allclose(ended[item], found, rtol=1e-11, atol=1e-11)
    assert len(taken) == calls  # what needs every state takes every step


@x64
@pytest.mark.parametrize("chunk", [None, 2])
def test_gradients_of_blocks_are_those_of_every_step(taken, chunk):
    given = draw(23, n=N)
    options = {"name": "tanh", "activation_every": 3, "last_only": True, "chunk": chunk}
    weights = np.random.default_rng(1).normal(size=(BATCH, N))

    def loss(given, **more):
        return jnp.sum(run(given, **options, **more)[1] * weights)

    found = oracles.jit(jax.grad(loss))(given)
    assert taken == ["block", "last_state"]
    step_by_step = functools.partial(loss, custom_backward=False)
    expected = oracles.jit(jax.grad(step_by_step))(given)
    assert len(taken) == 2
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_an_activation_every_so_many_steps_of_a_layer():
    inputs = jnp.asarray(np.moveaxis(draw(7)["inputs"], 0, 1), jnp.float32)
    every_third, each = layer("tanh", activation_every=3), layer("tanh")
    states = every_third(inputs)
    last = every_third(inputs, last_only=True)
    np.testing.assert_allclose(last, states[:, -1], rtol=1e-4, atol=1e-5)
    h = jnp.zeros((BATCH, N))
    linear = layer("identity")
    for t in range(7):
        one = each if (t + 1) % 3 == 0 else linear
        h = one(inputs[:, t : t + 1], initial_carry=h)[:, 0]
        np.testing.assert_allclose(states[:, t], h, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="activation_every must be 1 for steps one"):
        every_third.prepare((2,))
    for name, every, words in (
        ("tanh", 0, "activation_every must be an integer of at least 1, got 0"),
        ("identity", 2, "activation_every must be 1 with an identity .* got 2"),
    ):
        with pytest.raises(ValueError, match=words):
            layer(name, activation_every=every)


# ---- Outputs of every so many steps.


@x64
@pytest.mark.parametrize(
    "name,steps,acts,given_every,calls",
    [
        ("identity", 13, 1, 4, ["block", "last_state"]),
        ("identity", 3, 1, 4, ["last_state"]),
        ("tanh", 14, 3, 6, ["block", "last_state"]),
        ("tanh", 12, 4, 4, ["block"]),
        ("tanh", 12, 4, 6, []),
        ("leaky_relu", 13, 1, 4, []),
    ],
)
def test_outputs_of_every_so_many_steps(taken, name, steps, acts, given_every, calls):
    given = draw(steps)
    leak, phi = ACTIVATIONS.get(name, (None, lambda z: z))
    options = {"activation_every": acts, "output_every": given_every}
    kept = functools.partial(run, name=name, leak=leak, **options)
    expected = kinked(**given, phi=phi, every=acts)
    weights = np.random.default_rng(1).normal(size=expected.shape)

    def loss(given, **more):
        states, last = kept(given, **more)
        at = weights[given_every - 1 :: given_every]
        return jnp.sum(states * at) + jnp.sum(last**2), (states, last)

    gradient = jax.grad(loss, has_aux=True)
    gradients, (states, last) = oracles.jit(gradient)(given)
    assert taken == calls
    at = slice(given_every - 1, None, given_every)
    np.testing.assert_allclose(states, expected[at], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(last, expected[-1], rtol=1e-11, atol=1e-11)
    step_by_step = functools.partial(gradient, custom_backward=False)
    for array, found in oracles.jit(step_by_step)(given)[0].items():
        np.testing.assert_allclose(gradients[array], found, rtol=1e-9, atol=1e-10)
    lengths = np.arange(BATCH) % (steps + 1)
    states, last = compiled(given, name=name, leak=leak, lengths=lengths, **options)
    np.testing.assert_allclose(states, expected[at], rtol=1e-11, atol=1e-11)
    of_all = np.concatenate([given["carry"][None], expected])
    ended = of_all[lengths, np.arange(BATCH)]
    np.testing.assert_allclose(last, ended, rtol=1e-11, atol=1e-11)


def test_outputs_of_every_so_many_steps_of_a_layer():
    given = draw(7, dtype=np.float32)
    inputs = np.moveaxis(given["inputs"], 0, 1)
    third, all_states = layer("identity", output_every=3), layer("identity")
    states = all_states(inputs)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    carry, found = third(inputs, return_carry=True)
    close(found, states[:, 2::3])
    close(carry, states[:, -1])
    close(third(inputs, last_only=True), states[:, -1])
    close(third(given["inputs"], time_major=True), jnp.moveaxis(found, 0, 1))
    step, h = third.prepare((BATCH,))
    for t in range(3):
        h, _ = step(h, inputs[:, t])
    close(h, found[:, 0])
    lengths = np.arange(BATCH) % 8
    options = {"seq_lengths": lengths, "reverse": True}
    backwards = all_states(inputs, **options)
    given_on = third(inputs, **options)
    close(given_on, backwards[:, 2::3])
    kept = third(inputs, keep_order=True, **options)
    for item, length in enumerate(lengths):  # their own outputs come first
        own = given_on[item, : length // 3]
        close(kept[item, : length // 3], own[::-1])
    assert third(inputs[:, :2]).shape == (BATCH, 0, N)
    with pytest.raises(ValueError, match="output_every must be an .* least 1, got 0"):
        layer("identity", output_every=0)


# ---- Devices.


def layer(name, **options):
    options = {"reflectors": 2, "radius": 0.1, "activation": name, **options}
    return SpectralRNN(1, N, rngs=nnx.Rngs(0), **options)


def loss_and_gradients(params, graph, inputs, carry):
    def loss(params):
        rnn = nnx.merge(graph, params)
        last, states = rnn(inputs, initial_carry=carry, return_carry=True)
        ends = rnn(inputs, initial_carry=carry, last_only=True) ** 2
        return jnp.sum(ends) + jnp.sum(last**3) + jnp.sum(states**2)

    return jax.value_and_grad(loss)(params)


@pytest.mark.slow
@pytest.mark.parametrize("period", [1, 2])
@pytest.mark.parametrize("kind", ["explicit", "shard_map"])
def test_over_two_devices(taken, kind, period):
    if jax.device_count() < 2:
        pytest.skip("needs two devices: JAX was started before the tests' settings")
    given = draw(9, dtype=np.float32)
    arrays = (np.moveaxis(given["inputs"], 0, 1), given["carry"])
    rnn = layer("identity") if period == 1 else layer("tanh", activation_every=period)
    rnn.output_every = 2 * period
    rnn.cell.method = "dense"
    graph, params = nnx.split(rnn)
    step = functools.partial(loss_and_gradients, graph=graph)
    expected = oracles.jit(lambda p, x, h: step(p, inputs=x, carry=h))(params, *arrays)
    axis = AxisType.Explicit if kind == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((2,), ("b",), axis_types=(axis,))
    batch, every = PartitionSpec("b"), PartitionSpec()
    if kind == "explicit":
        arrays = [jax.device_put(a, NamedSharding(mesh, batch)) for a in arrays]
        params = jax.device_put(params, NamedSharding(mesh, every))
        split = lambda p, x, h: step(p, inputs=x, carry=h)  # noqa: E731
    else:

        def part(p, x, h):
            value, gradients = step(p, inputs=x, carry=h)
            return jax.lax.psum(value, "b"), gradients

        specs = {"in_specs": (every, batch, batch), "out_specs": (every, every)}
        split = jax.shard_map(part, mesh=mesh, **specs)
    found = oracles.jit(split)(params, *arrays)
    both = ["block", "last_state"]
    assert taken == (both + both[period == 1 :]) * 2
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * np.abs(b).max())
