"""What a model makes while it is called is the same with `bake` and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import svdrnn

SPECTRAL = svdrnn.Spectral(0.1)
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def linear(rngs):
    return nnx.Linear(4, 4, rngs=rngs)


class Sowing(nnx.Module):
    def __init__(self, rngs):
        self.linear = linear(rngs)

    def __call__(self, x):
        y = self.linear(x)
        self.sow(nnx.Intermediate, "y", y)
        return y


class Making(nnx.Module):
    """Makes, changes and drops attributes wherever a model may have them."""

    def __init__(self, rngs):
        self.blocks = nnx.List([Sowing(rngs), Sowing(rngs)])
        self.shared = self.blocks[0]
        self.named = nnx.Dict(one=Sowing(rngs))
        self.plain = nnx.data({"one": [Sowing(rngs)]})
        self.fixed = nnx.data((Sowing(rngs),))
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.calls = 0
        self.first = nnx.Param(jnp.ones(2))

    def __call__(self, x):
        layers = (*self.blocks[:2], self.shared, self.named.one, self.fixed[0])
        for layer in (*layers, self.plain["one"][0], self.norm, self.drop):
            x = layer(x)
        if self.calls == 0:
            del self.first
        self.calls += 1
        self.blocks.append(nnx.Cache(x))
        self.named["made"] = nnx.Cache(jnp.sum(x))
        return self.perturb("change", x)


class Circular(nnx.Module):
    """A layer that knows the module it is in."""

    def __init__(self, rngs):
        self.linear, self.inner = linear(rngs), Sowing(rngs)
        self.inner.outer = self

    def __call__(self, x):
        x = self.inner(self.linear(x))
        self.inner.outer.sow(nnx.Intermediate, "x", x)
        return x


class Transformed(nnx.Module):
    """Layers under transformations, which give back all attributes."""

    def __init__(self, rngs):
        self.kept, self.compiled = Sowing(rngs), Sowing(rngs)
        self.stacked = nnx.vmap(Sowing)(rngs.fork(split=2))

    def __call__(self, x):
        x = nnx.remat(lambda layer, x: layer(x))(self.kept, x)
        x = nnx.jit(lambda layer, x: layer(x))(self.compiled, x)
        axes = {"in_axes": (nnx.Carry, 0), "out_axes": nnx.Carry}
        return nnx.scan(lambda x, layer: layer(x), **axes)(x, self.stacked)


class Registered(nnx.Module):
    """A class that asks something of its subclasses."""

    def __init_subclass__(cls, *, key):
        super().__init_subclass__()
        cls.key = key


class OfBare(Registered, key="bare"):
    def __init__(self, rngs):
        self.linear = linear(rngs)

    def __call__(self, x):
        self.sow(nnx.Intermediate, "x", x)
        return self.linear(x)


class NoPytree(nnx.Module, pytree=False):
    def __init__(self, rngs):
        self.layers = [linear(rngs)]

    def __call__(self, x):
        self.sow(nnx.Intermediate, "x", x)
        return self.layers[0](x)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


def after_two_calls(kind, transform, prepare):
    """What a model is, and what the transformed loss gave, in the end."""
    model = kind(nnx.Rngs(0))
    svdrnn.constrain(model, SPECTRAL)

    def loss(model):
        return jnp.sum(prepare(model)(X))

    given = [transform(loss)(model) for _ in range(2)]
    graph, _, state = nnx.split(model, nnx.RngKey, ...)
    return graph, nnx.to_pure_dict(state), jax.tree.leaves(given)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of sow and perturb
@pytest.mark.parametrize(
    ("kind", "transform"),
    [
        (Sowing, nnx.jit),
        pytest.param(OfBare, nnx.jit, marks=pytest.mark.slow),
        pytest.param(NoPytree, nnx.jit, marks=pytest.mark.slow),
        pytest.param(Sowing, nnx.grad, marks=pytest.mark.slow),
        pytest.param(Circular, nnx.jit, marks=pytest.mark.slow),
        pytest.param(Making, lambda f: nnx.jit(nnx.grad(f)), marks=pytest.mark.slow),
        pytest.param(Transformed, nnx.jit, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_a_model_makes_is_there_afterwards(kind, transform):
    baked = after_two_calls(kind, transform, svdrnn.bake)
    plain = after_two_calls(kind, transform, lambda model: model)
    before = after_two_calls(kind, lambda loss: lambda model: None, svdrnn.bake)
    assert baked[0] == plain[0] != before[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), baked[1:], plain[1:]
    )
