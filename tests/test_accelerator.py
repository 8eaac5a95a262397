"""What may differ on a GPU or a TPU: products, precision, training, against numpy.

python -m pytest -q -m accelerator             # skipped where JAX has a CPU alone
python -m pytest -q -m accelerator --on-cpu    # to try the tests themselves
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import svdrnn
from experiments.runs import logs
from experiments.training import loop
from svdrnn import householder
from tests import oracles
from tests.experiments.training import test_resume

pytestmark = [pytest.mark.accelerator, pytest.mark.slow]

N, STEPS, BATCH, FEATURES, REFLECTORS, RADIUS = 64, 20, 4, 3, 8, 0.1
METHODS = ("scan", "wy", "low_rank", "dense")


def layer(**options):
    kwargs = {"reflectors": REFLECTORS, "radius": RADIUS, "rngs": nnx.Rngs(0)}
    return svdrnn.SpectralRNN(FEATURES, N, **kwargs | options)


def draw(seed=0):
    """Inputs (batch, time, features) and weights of all states (time, batch, n)."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(BATCH, STEPS, FEATURES))
    return inputs.astype(np.float32), rng.normal(size=(STEPS, BATCH, N))


def numpy_parameters(model):
    """{name: float64 array}, sigma away from the center."""
    flat = nnx.to_pure_dict(nnx.state(model, nnx.Param))["cell"]
    return {
        key: np.asarray(value, np.float64)
        for key, value in (flat | flat.pop("weight")).items()
    }


def numpy_states(parameters, inputs):
    """(time, batch, n), in float64."""
    half = 1 / (1 + np.exp(-parameters["sigma_raw"])) - 0.5
    w = oracles.svd_matrix(
        parameters["u_vectors"], parameters["v_vectors"], 2 * RADIUS * half + 1
    )
    states, _ = oracles.run_recurrence(
        w,
        np.asarray(inputs, np.float64).swapaxes(0, 1),
        np.zeros((BATCH, N)),
        input_weights=parameters["input_weights"],
        bias=parameters["bias"],
    )
    return states


def moved(model, seed=1):
    """The layer with bias and sigma that are not those of the start."""
    rng = np.random.default_rng(seed)
    for parameter in (model.cell.bias, model.cell.weight.sigma_raw):
        parameter[...] = jnp.asarray(rng.normal(size=N), jnp.float32)
    return model


@pytest.fixture(scope="module")
def expected():
    """Parameters, states and slopes of the weighted sum of states along directions."""
    parameters = numpy_parameters(moved(layer()))
    inputs, weights = draw()
    rng = np.random.default_rng(2)
    directions = {name: rng.normal(size=x.shape) for name, x in parameters.items()}
    slopes = {}
    for name, direction in directions.items():

        def loss(step, name=name, direction=direction):
            changed = parameters[name] + step * direction
            return (numpy_states({**parameters, name: changed}, inputs) * weights).sum()

        slopes[name] = (loss(1e-6) - loss(-1e-6)) / 2e-6
    return numpy_states(parameters, inputs), directions, slopes


def states_and_gradients(model, inputs, weights):
    graph, params = nnx.split(model, nnx.Param)

    @jax.jit
    def run(params):
        def loss(params):
            states = nnx.merge(graph, params)(inputs).swapaxes(0, 1)
            return jnp.sum(states * weights), states

        return jax.grad(loss, has_aux=True)(params)

    gradients, states = run(params)
    flat = nnx.to_pure_dict(gradients)["cell"]
    return states, flat | flat.pop("weight")


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_in_full_float32_is_that_of_numpy(method, expected):
    inputs, weights = draw()
    model = moved(layer(method=method, precision="highest"))
    found, gradients = states_and_gradients(
        model, jnp.asarray(inputs), jnp.asarray(weights, jnp.float32)
    )
    states, directions, slopes = expected
    np.testing.assert_allclose(found, states, rtol=2e-5, atol=2e-5)
    for name, direction in directions.items():
        gradient = np.asarray(gradients[name], np.float64)
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        slope = (gradient * direction).sum()
        assert abs(slope - slopes[name]) < 2e-5 * scale, name


def test_the_default_precision_is_stated_from_outside(expected):
    """JAX's default may be TF32 or bfloat16; its own context makes that float32."""
    inputs, _ = draw()
    model = moved(layer(method="dense"))
    with jax.default_matmul_precision("highest"):
        found = nnx.jit(lambda model, x: model(x))(model, jnp.asarray(inputs))
    states, _, _ = expected
    np.testing.assert_allclose(found.swapaxes(0, 1), states, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("n", [256, 1024])
def test_reflectors_make_an_orthogonal_matrix_in_float32(n):
    """Without TF32, whose products have an error of 1e-3, whatever JAX's default is."""
    vectors = jax.random.normal(jax.random.key(0), (n, n))
    q = jax.jit(lambda x: householder.orthogonal_matrix(x, method="wy"))(vectors)
    q = np.asarray(q, np.float64)
    assert q.dtype == np.float64 and np.abs(q.T @ q - np.eye(n)).max() < 1e-5


def test_w_itself_is_built_without_tf32():
    model = moved(layer())
    parameters = numpy_parameters(model)
    half = 1 / (1 + np.exp(-parameters["sigma_raw"])) - 0.5
    sigma = 2 * RADIUS * half + 1
    w = jax.jit(lambda: model.cell.weight.matrix())()
    expected = oracles.svd_matrix(
        parameters["u_vectors"], parameters["v_vectors"], sigma
    )
    np.testing.assert_allclose(w, expected, atol=2e-6)


def test_bfloat16_follows_float64_and_leaves_parameters_as_they_are(expected):
    inputs, weights = draw()
    model = moved(layer(dtype=jnp.bfloat16))
    found, gradients = states_and_gradients(
        model, jnp.asarray(inputs), jnp.asarray(weights, jnp.float32)
    )
    assert found.dtype == jnp.bfloat16
    states, _, _ = expected
    error = np.linalg.norm(np.asarray(found, np.float64) - states)
    assert error < 0.05 * np.linalg.norm(states)
    for gradient in gradients.values():
        assert gradient.dtype == jnp.float32 and bool(jnp.isfinite(gradient).all())


def test_a_baked_constraint_is_the_constraint():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(FEATURES, N, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(4, N, decode=False, rngs=rngs)

        def __call__(self, x):
            return self.attention(jax.nn.relu(self.first(x)))

    model = Net(nnx.Rngs(0))
    svdrnn.constrain(model, svdrnn.Spectral(radius=RADIUS), where="attention/*")
    graph, params = nnx.split(model, nnx.Param)
    inputs = jnp.asarray(draw()[0])

    def loss(params, prepare):
        return jnp.sum(jnp.square(prepare(nnx.merge(graph, params))(inputs)))

    with jax.default_matmul_precision("highest"):
        results = [
            jax.jit(jax.value_and_grad(lambda p, prepare=prepare: loss(p, prepare)))(
                params
            )
            for prepare in (svdrnn.bake, lambda model: model)
        ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max() + 1)
        ),
        *results,
    )
    kernel = np.asarray(svdrnn.bake(model).attention.query.kernel[...], np.float64)
    sigma = np.linalg.svd(kernel.reshape(N, N), compute_uv=False)
    assert sigma.min() > 1 - RADIUS - 1e-5 and sigma.max() < 1 + RADIUS + 1e-5


def test_a_short_run_learns_and_resumes(tmp_path):
    config = test_resume.make_config(steps=50)
    whole = loop.train(config, tmp_path / "whole")
    test_resume.run_until(tmp_path / "stopped", 30, steps=50)
    resumed = loop.train(config, tmp_path / "stopped")
    assert test_resume.events(tmp_path / "stopped", "resumed_from") == [20]
    assert whole["backend"] == jax.default_backend()
    curves, _ = logs.read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert whole["metrics"]["test"]["loss"] < 0.7 * curves["train"][0]["loss"]
    for name, value in whole["metrics"]["test"].items():
        assert resumed["metrics"]["test"][name] == pytest.approx(value, rel=1e-3), name
