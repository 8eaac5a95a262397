"""What is traced for accelerators computes what is traced for a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import svdrnn
from svdrnn import _platform, householder, transitions

slow = pytest.mark.slow
N, STEPS, BATCH, FEATURES = 12, 7, 3, 2
CASES = {
    "low_rank": {"method": "low_rank"},
    "dense": {"method": "dense"},
    "chunk": {"method": "low_rank", "chunk": 3},
    "projected": {"in_features": 3, "method": "low_rank"},
    "modrelu": {"activation": "modrelu"},
    "a callable": {"activation": jax.nn.softplus},
    "unroll": {"unroll": 2},
    "differentiated by JAX": {"custom_backward": False},
}


def run(case, lengths, platform):
    """Outputs, and gradients of parameters, inputs and the initial carry."""
    options = {"in_features": FEATURES, "reflectors": 2, "radius": 0.3} | CASES[case]
    features = options.pop("in_features")
    layer = svdrnn.SpectralRNN(
        features, N, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options
    )
    rng = np.random.default_rng(0)
    layer.cell.bias[...] = jnp.asarray(rng.normal(size=N))
    layer.cell.weight.sigma_raw[...] = jnp.asarray(rng.normal(size=N))
    x, h = rng.normal(size=(BATCH, STEPS, features)), rng.normal(size=(BATCH, N))
    weights = rng.normal(size=(BATCH, STEPS, N))
    graph, params = nnx.split(layer, nnx.Param)

    def loss(params, x, h):
        layer = nnx.merge(graph, params)
        if case == "chunk":
            out = layer(x, initial_carry=h, last_only=True, seq_lengths=lengths)
            return jnp.sum(out * weights[:, 0])
        carry, out = layer(x, initial_carry=h, seq_lengths=lengths, return_carry=True)
        return jnp.sum(out * weights) + jnp.sum(carry * weights[:, 1])

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    with _platform.stated(platform):
        return both.lower(params, x, h).as_text(), both(params, x, h)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize(
    "case",
    [
        case if case in ("low_rank", "chunk") else pytest.param(case, marks=slow)
        for case in CASES
    ],
)
@pytest.mark.parametrize("lengths", [None, pytest.param((0, 3, STEPS), marks=slow)])
def test_a_layer_computes_the_same(case, lengths, platform, x64):
    lengths = None if lengths is None else jnp.asarray(lengths)
    (program, here), (other, there) = (
        run(case, lengths, name) for name in ("cpu", platform)
    )
    assert program != other
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11),
        here,
        there,
    )


def test_no_step_at_all_returns_the_carry(x64):
    layer = svdrnn.SpectralRNN(1, N, reflectors=2, radius=0.1, rngs=nnx.Rngs(0))
    h = jnp.ones((BATCH, N))

    def last(h):
        x = jnp.ones((BATCH, 0, 1))
        return jnp.sum(layer(x, initial_carry=h, last_only=True) ** 2)

    with _platform.stated("gpu"):
        np.testing.assert_array_equal(jax.grad(last)(h), 2 * h)


@pytest.mark.parametrize("m,n", [(130, 130), (129, 140)])
def test_reflectors_in_a_loop_over_blocks_are_the_same(m, n, x64):
    rng = np.random.default_rng(0)
    vectors, x, g = (rng.normal(size=shape) for shape in ((m, n), (5, n), (n, n)))
    vectors[3] = 0  # the identity

    def values(vectors, x):
        q = householder.orthogonal_matrix(vectors)
        there = householder.apply_reflectors(vectors, x)
        back = householder.apply_reflectors(vectors, x, transpose=True)
        return jnp.sum(q * g) + jnp.sum(there * g[:5]) + jnp.sum(back * g[5:10])

    results, programs = [], set()
    for platform in ("cpu", "tpu"):
        with _platform.stated(platform):
            both = jax.jit(jax.value_and_grad(values, argnums=(0, 1)))
            results.append(both(vectors, x))
            programs.add(both.lower(vectors, x).as_text())
    assert len(programs) == 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), *results)


def test_programs_are_for_the_default_device():
    assert _platform.name() == jax.default_backend()
    with jax.default_device(jax.devices("cpu")[0]):
        assert _platform.name() == "cpu"
    with jax.default_device("tpu"):
        assert _platform.name() == "tpu"
    with _platform.stated("gpu"):
        assert _platform.name() == "gpu"
    with pytest.raises(ValueError, match="platform must be .* got 'cuda'"):
        _platform.stated("cuda").__enter__()


@pytest.mark.parametrize(
    "platform,n,method",
    [
        *(("cpu", 95, "dense"), ("cpu", 96, "low_rank"), ("cpu", 1024, "low_rank")),
        *(("gpu", 512, "dense"), ("tpu", 512, "dense"), ("tpu", 513, "low_rank")),
    ],
)
def test_auto_is_the_form_of_fewer_operations_on_accelerators(platform, n, method):
    with _platform.stated(platform):
        assert transitions.auto_method(n, 32) == method
