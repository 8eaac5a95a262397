"""The recurrence against a numpy loop, finite differences and plain autodiff."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdrnn import spectral
from svdrnn.activations import NAMES, Activation
from svdrnn.recurrence import recurrence
from svdrnn.transitions import Dense, DiagonalPlusLowRank, Factored
from tests import oracles

pytestmark = pytest.mark.usefixtures("x64")

STEPS, BATCH, N, RANK = 7, 3, 5, 2
LENGTHS = np.array([0, 3, STEPS])
LEAK = 0.1
FAST_FORMS = pytest.mark.parametrize("form", ["dense", "low_rank"])


def draw_params(form, features=2, *, steps=STEPS, batch=BATCH, n=N, seed=0):
    """Everything a recurrence depends on, with the transition in one of its forms."""
    rng = np.random.default_rng(seed)
    if form == "dense":
        transition = Dense(rng.normal(size=(n, n)) / np.sqrt(n))
    elif form == "low_rank":
        transition = DiagonalPlusLowRank(
            rng.uniform(0.7, 1.3, size=n),
            rng.normal(size=(n, RANK)) / np.sqrt(n),
            rng.normal(size=(RANK, n)) / np.sqrt(n),
        )
    else:
        transition = spectral.SVD(
            rng.normal(size=(2, n)),
            rng.normal(size=(3, n)),
            rng.uniform(0.7, 1.3, size=n),
        )
    return {
        "transition": transition,
        "input_weights": rng.normal(size=(n, features)),
        "bias": rng.normal(size=n),
        "offset": np.where(np.arange(n) % 2, -0.3, 0.2) + 0.1 * rng.normal(size=n),
        "inputs": rng.normal(size=(steps, batch, features)),
        "carry": rng.normal(size=(batch, n)),
    }


def draw_weights(steps=STEPS, batch=BATCH, n=N, seed=1):
    """Weights of all states and of the last ones in a scalar loss."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, batch, n)), rng.normal(size=(batch, n))


def form_of(svd, form, **options):
    if form == "dense":
        return Dense(spectral.materialize(svd, **options))
    if form == "low_rank":
        return DiagonalPlusLowRank(*spectral.diagonal_plus_low_rank(svd))
    return Factored(svd, form)


def dense_matrix(transition):
    if isinstance(transition, Dense):
        return transition.w
    if isinstance(transition, DiagonalPlusLowRank):
        return np.diag(transition.diagonal) + transition.a @ transition.c
    return oracles.svd_matrix(
        transition.u_vectors, transition.v_vectors, transition.sigma
    )


def run(params, activation, **options):
    leak = LEAK if activation == "leaky_relu" else None
    activation = Activation(activation, leak)
    return recurrence(
        params["transition"],
        params["inputs"],
        params["carry"],
        activation=activation,
        input_weights=params["input_weights"],
        bias=params["bias"],
        offset=params["offset"] if activation.needs_offset else None,
        **options,
    )


def run_numpy(params, activation, lengths=None, perturbations=None):
    return oracles.run_recurrence(
        dense_matrix(params["transition"]),
        params["inputs"],
        params["carry"],
        input_weights=params["input_weights"],
        bias=params["bias"],
        activation=activation,
        leak=LEAK,
        offset=params["offset"],
        lengths=lengths,
        perturbations=perturbations,
    )


def scalar(states, last, weights):
    """The loss: weighted states (where there are any) plus weighted last states."""
    loss = (last * weights[1]).sum()
    return loss if states is None else loss + (states * weights[0]).sum()


def gradients(params, activation, *, weights=None, prepare=None, **options):
    """((states, last), gradients) of one compiled function.

    `prepare` makes a form of the transition inside of that function.
    """
    weights = draw_weights() if weights is None else weights

    def loss(params):
        if prepare is not None:
            params = {**params, "transition": prepare(params["transition"])}
        out = run(params, activation, **options)
        return scalar(*out, weights), out

    (_, out), grads = oracles.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return out, grads


def differences(params, activation, lengths=None, *, weights=None, last_only=False):
    """The gradients by finite differences of the numpy loop."""
    weights = draw_weights() if weights is None else weights
    leaves, tree = jax.tree.flatten(params)

    def loss(i, leaf):
        changed = jax.tree.unflatten(tree, leaves[:i] + [leaf] + leaves[i + 1 :])
        states, last = run_numpy(changed, activation, lengths)
        return scalar(None if last_only else states, last, weights)

    return jax.tree.unflatten(
        tree,
        [
            oracles.finite_difference(functools.partial(loss, i), leaf)
            for i, leaf in enumerate(leaves)
        ],
    )


def assert_trees_close(actual, expected, **tolerance):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **tolerance), actual, expected
    )


close = functools.partial(assert_trees_close, rtol=1e-11, atol=1e-11)
close_to_differences = functools.partial(assert_trees_close, rtol=1e-6, atol=1e-6)


# Values and gradients.


@pytest.mark.slow
@FAST_FORMS
@pytest.mark.parametrize("activation", NAMES)
def test_against_numpy_and_finite_differences(form, activation):
    # One input feature: the projection is applied inside the loop.
    params = draw_params(form, features=1)
    out, grads = gradients(params, activation, lengths=LENGTHS)
    close(out, run_numpy(params, activation, LENGTHS))
    close_to_differences(grads, differences(params, activation, LENGTHS))


@pytest.mark.slow
def test_every_form_of_one_svd():
    # Three input features: M x_t + b is one product before the loop.
    params = draw_params("svd", features=3)
    expected = run_numpy(params, "modrelu")
    numeric = differences(params, "modrelu")
    reference = None
    for form in ("scan", "wy", "low_rank", "dense"):
        prepare = functools.partial(form_of, form=form)
        out, grads = gradients(params, "modrelu", prepare=prepare)
        close(out, expected)
        close_to_differences(grads, numeric)
        # Of the scan, by plain autodiff.
        reference = reference or grads
        close(grads, reference)


@pytest.mark.parametrize("features", [1, 3])
def test_without_bias(features):
    params = draw_params("dense", features)
    params["bias"] = None
    states, _ = run(params, "tanh")
    close(states, run_numpy(params, "tanh")[0])


# modReLU depends on every argument there is.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("dense", {}),
        ("low_rank", {"unroll": 2, "chunk": 2, "lengths": LENGTHS}),
        ("dense", {"last_only": True}),
        ("low_rank", {"last_only": True, "lengths": LENGTHS}),
        ("dense", {"last_only": True, "chunk": 1}),
        ("dense", {"last_only": True, "chunk": 3, "lengths": LENGTHS}),
        ("low_rank", {"last_only": True, "chunk": 3, "lengths": LENGTHS}),
        ("low_rank", {"last_only": True, "chunk": STEPS, "lengths": LENGTHS}),
        ("dense", {"last_only": True, "chunk": 100}),
        ("low_rank", {"last_only": True, "chunk": 2, "unroll": 2}),
    ],
    ids=str,
)
def test_options(form, options):
    check_options(draw_params(form), options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"last_only": True, "lengths": LENGTHS},
        {"last_only": True, "chunk": 3, "lengths": LENGTHS, "unroll": 2},
    ],
    ids=str,
)
def test_options_without_the_custom_backward_pass(options):
    check_options(draw_params("low_rank"), {"custom_backward": False, **options})


def test_chunks_of_hoisted_projections():
    check_options(draw_params("dense", features=3), {"last_only": True, "chunk": 3})


def check_options(params, options):
    lengths, last_only = options.get("lengths"), options.get("last_only", False)
    (states, last), grads = gradients(params, "modrelu", **options)
    expected_states, expected_last = run_numpy(params, "modrelu", lengths)
    if last_only:
        assert states is None
    else:
        close(states, expected_states)
    close(last, expected_last)
    close_to_differences(
        grads, differences(params, "modrelu", lengths, last_only=last_only)
    )


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [None, 3])
def test_length_zero_gives_the_initial_carry(chunk):
    params = draw_params("dense")
    (_, last), grads = gradients(
        params, "relu", lengths=np.zeros(BATCH, int), last_only=True, chunk=chunk
    )
    np.testing.assert_array_equal(last, params["carry"])
    np.testing.assert_array_equal(grads.pop("carry"), draw_weights()[1])
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
@pytest.mark.parametrize("last_only", [True, False])
def test_narrow_lengths_count_steps_beyond_their_range(last_only):
    params = draw_params("dense", steps=400)  # 120 + 256 is 120 in int8
    lengths = np.array([120, 3, 0], np.int8)
    _, last = run(params, "tanh", lengths=lengths, last_only=last_only)
    close(last, run_numpy(params, "tanh", lengths)[1])


@pytest.mark.parametrize("lengths", [[STEPS + 1, 0, 0], [0, -1, 0], [1.0] * 3, [1]])
def test_lengths_that_are_none_are_refused(lengths):
    with pytest.raises(ValueError, match="^lengths must "):
        run(draw_params("dense"), "tanh", lengths=np.array(lengths))


@pytest.mark.parametrize("form", ["dense", "low_rank", "scan"])
def test_a_transition_is_hashed_as_itself(form):
    first, other = (draw_params(form)["transition"] for _ in range(2))
    if form == "scan":
        first, other = Factored(first, form), Factored(other, form)
    assert first == first and first != other and len({first, other}) == 2


@FAST_FORMS
@pytest.mark.parametrize("steps", [0, 1])
def test_no_step_and_one_step(form, steps):
    params = draw_params(form, steps=steps)
    weights = draw_weights(steps)
    out, grads = gradients(params, "tanh", weights=weights)
    close(out, run_numpy(params, "tanh"))
    close_to_differences(grads, differences(params, "tanh", weights=weights))


def test_empty_batch():
    params = draw_params("low_rank", batch=0)
    weights = draw_weights(batch=0)
    (states, last), grads = gradients(params, "tanh", weights=weights)
    assert states.shape == (STEPS, 0, N) and last.shape == (0, N)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads))


# Derivatives of other kinds.


@pytest.mark.slow
@pytest.mark.parametrize("form", ["scan", "wy", "low_rank", "dense"])
def test_forward_mode_without_the_custom_backward_pass(form):
    params, tangents = draw_params("svd"), draw_params("svd", seed=3)

    def last(params):
        options = {"custom_backward": False} if form == "dense" else {}
        transition = form_of(params["transition"], form, **options)
        params = {**params, "transition": transition}
        return run(params, "modrelu", custom_backward=False)[1]

    _, actual = oracles.jit(lambda p, t: jax.jvp(last, (p,), (t,)))(params, tangents)
    step = 1e-6
    above, below = (
        run_numpy(jax.tree.map(lambda p, t: p + s * t, params, tangents), "modrelu")[1]
        for s in (step, -step)
    )
    close_to_differences(actual, (above - below) / (2 * step))


@FAST_FORMS
def test_the_custom_backward_pass_refuses_forward_mode(form):
    params = draw_params(form)
    with pytest.raises(TypeError, match="pass custom_backward=False"):
        jax.jvp(lambda params: run(params, "tanh")[1], (params,), (params,))


@pytest.mark.slow
@pytest.mark.parametrize(("form", "chunk"), [("low_rank", None), ("dense", 3)])
def test_gradient_of_gradient(form, chunk):
    # tanh has a second derivative.
    params, direction = draw_params(form, steps=4), draw_params(form, steps=4, seed=4)

    def slope(params, custom_backward):
        def loss(params):
            options = {"chunk": chunk, "custom_backward": custom_backward}
            last = run(params, "tanh", last_only=True, **options)[1]
            return scalar(None, last, draw_weights())

        grads = jax.grad(loss)(params)
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, grads, direction)))

    second = oracles.jit(jax.grad(slope), static_argnums=1)
    close(second(params, True), second(params, False))


@pytest.mark.slow
def test_hessian_against_finite_differences_of_the_gradient():
    params = draw_params("dense")

    def loss(carry, custom_backward):
        out = run({**params, "carry": carry}, "tanh", custom_backward=custom_backward)
        return scalar(*out, draw_weights())

    hessian = oracles.jit(jax.hessian(loss), static_argnums=1)(params["carry"], False)
    slope = oracles.jit(jax.grad(loss), static_argnums=1)
    for index in np.ndindex(BATCH, N):
        numeric = oracles.finite_difference(
            lambda carry: slope(carry, True)[index], params["carry"]
        )
        close_to_differences(hessian[index], numeric)


def test_vmap():
    both = [draw_params("low_rank", seed=5), draw_params("low_rank", seed=6)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *both)
    lengths = np.array([[0, 3, 7], [2, 7, 1]])

    def loss(params, lengths):
        return scalar(*run(params, "modrelu", lengths=lengths), draw_weights())

    actual = oracles.jit(jax.vmap(jax.value_and_grad(loss)))(stacked, lengths)
    one = oracles.jit(jax.value_and_grad(loss))
    expected = [
        one(params, length) for params, length in zip(both, lengths, strict=True)
    ]
    close(actual, jax.tree.map(lambda *leaves: np.stack(leaves), *expected))


@pytest.mark.parametrize("last_only", [False, True])
def test_perturbations_give_the_gradient_to_every_state(last_only):
    params = draw_params("low_rank")
    weights = draw_weights()
    zeros = np.zeros((STEPS, BATCH, N))

    def loss(perturbations):
        out = run(
            params,
            "tanh",
            lengths=LENGTHS,
            last_only=last_only,
            perturbations=perturbations,
        )
        return scalar(*out, weights)

    def loss_numpy(perturbations):
        states, last = run_numpy(params, "tanh", LENGTHS, perturbations)
        return scalar(None if last_only else states, last, weights)

    value, actual = oracles.jit(jax.value_and_grad(loss))(zeros)
    np.testing.assert_allclose(value, loss_numpy(zeros), rtol=1e-12)
    close_to_differences(actual, oracles.finite_difference(loss_numpy, zeros))
    if last_only:
        # Nothing after the end of an item moves its last state.
        for j, length in enumerate(LENGTHS):
            np.testing.assert_array_equal(actual[length:, j], 0)


# Bounds, memory, precision.


@pytest.mark.parametrize("activation", NAMES)
def test_gradient_norm_bound(activation):
    # ||dh_T/dh_0|| <= (L (|center| + r))^T, also for a center below zero.
    steps, radius, center = 12, 0.2, -0.9
    params = draw_params("svd", steps=steps, batch=1)
    sigma = center + radius * np.array([-1.0, -0.5, 0.1, 0.6, 1.0])
    svd = params["transition"]
    w = oracles.svd_matrix(svd.u_vectors, svd.v_vectors, sigma)
    params["transition"] = Dense(w)
    params["offset"] = -np.abs(params["offset"])
    # Small inputs: tanh does not saturate.
    params["inputs"] *= 0.1

    def last(h0):
        return run({**params, "carry": h0[None]}, activation)[1][0]

    jacobian = oracles.jit(jax.jacobian(last))(params["carry"][0])
    values = np.linalg.svd(jacobian, compute_uv=False)
    assert values[0] <= (abs(center) + radius) ** steps
    if activation == "identity":
        assert values[-1] >= (abs(center) - radius) ** steps
        np.testing.assert_allclose(
            jacobian, np.linalg.matrix_power(w, steps), rtol=1e-10, atol=1e-12
        )


def test_the_bounds_are_reached():
    # Equal reflectors in U and V: W is symmetric, its powers keep its directions.
    steps, radius = 12, 0.2
    params = draw_params("svd", steps=steps, batch=1)
    u_vectors, sigma = params["transition"].u_vectors, np.linspace(0.8, 1.2, N)
    params["transition"] = Dense(oracles.svd_matrix(u_vectors, u_vectors, sigma))

    def last(h0):
        return run({**params, "carry": h0[None]}, "identity")[1][0]

    jacobian = oracles.jit(jax.jacobian(last))(params["carry"][0])
    values = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose(values[0], (1 + radius) ** steps, rtol=1e-12)
    np.testing.assert_allclose(values[-1], (1 - radius) ** steps, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "custom_backward"), [("dense", True), ("low_rank", False)]
)
def test_chunks_save_memory(form, custom_backward):
    steps, batch, n = 2048, 4, 64
    params = draw_params(form, 1, steps=steps, batch=batch, n=n)

    def temporaries(chunk):
        def loss(params):
            options = {"chunk": chunk, "custom_backward": custom_backward}
            return run(params, "tanh", last_only=True, **options)[1].sum()

        compiled = oracles.jit(jax.grad(loss)).lower(params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    states = 8 * steps * batch * n
    assert temporaries(None) > states
    assert temporaries(45) < states / 4


@pytest.mark.parametrize("features", [1, 3])  # the bias acts inside the loop, or not
def test_bfloat16_sums_are_kept_in_float32(features):
    # With W = 0 the gradient of the bias counts steps and items: 2,000 ones, which
    # a sum in bfloat16 would stop counting at 256.
    steps, batch, n = 500, 4, 2
    zeros = jnp.zeros((n, n), jnp.bfloat16)

    def loss(bias, inputs):
        states, last = recurrence(
            DiagonalPlusLowRank(zeros[0], zeros, zeros),
            inputs,
            jnp.zeros((batch, n), jnp.bfloat16),
            activation=Activation("identity"),
            input_weights=jnp.ones((n, features), jnp.bfloat16),
            bias=bias,
        )
        assert states.dtype == last.dtype == jnp.bfloat16
        return states.sum()

    inputs = jnp.zeros((steps, batch, features), jnp.bfloat16)
    gradient = oracles.jit(jax.grad(loss))(zeros[0], inputs)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(gradient, float), steps * batch)


@pytest.mark.parametrize("name", ["chunk", "unroll"])
@pytest.mark.parametrize("value", [0, -3])
def test_bad_chunk_and_unroll(name, value):
    message = f"{name} must be an integer of at least 1, got {value}"
    with pytest.raises(ValueError, match=message):
        run(draw_params("dense"), "tanh", last_only=True, **{name: value})
