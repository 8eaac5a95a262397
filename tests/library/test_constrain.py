"""Kernels of flax layers under constraints, each read by hand in numpy."""

import copy
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import svdrnn
from svdrnn.kernels import Kernel


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


SPECTRAL = svdrnn.Spectral(radius=0.2)


def attend(query, key, value, **_):
    """Attention in the dtype of its inputs; flax's own is in float32."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)


class Zoo(nnx.Module):
    """Every layer that is known, and a number that depends on all their kernels."""

    def __init__(self, rngs, dtype=jnp.float32):
        kw = dict(param_dtype=dtype, rngs=rngs)
        self.linear = nnx.Linear(4, 3, **kw)
        self.general = nnx.LinearGeneral((2, 2), (3,), axis=(-2, -1), **kw)
        self.batched = nnx.LinearGeneral(4, 3, batch_axis={0: 2}, **kw)
        self.einsum = nnx.Einsum("bta,hac->bthc", (2, 4, 2), **kw)
        self.stacked = nnx.Einsum("bha,ach->bch", (4, 3, 2), **kw)
        self.conv = nnx.Conv(2, 3, (1, 2), **kw)
        self.groups = nnx.Conv(4, 6, (2,), feature_group_count=2, **kw)
        up = dict(strides=(2, 2), **kw)
        self.up = nnx.ConvTranspose(3, 2, (2, 1), **up)
        self.flipped = nnx.ConvTranspose(3, 2, (2, 1), transpose_kernel=True, **up)
        self.attention = nnx.MultiHeadAttention(
            2, 4, decode=False, attention_fn=attend, **kw
        )
        self.embed = nnx.Embed(4, 3, **kw)
        self.lstm = nnx.RNN(nnx.OptimizedLSTMCell(3, 3, **kw), rngs=False)
        self.gru = nnx.RNN(nnx.GRUCell(3, 3, **kw), rngs=False)
        self.slow = nnx.RNN(nnx.LSTMCell(3, 3, **kw), rngs=False)
        self.simple = nnx.RNN(nnx.SimpleCell(3, 3, dtype=dtype, **kw), rngs=False)
        self.ours = svdrnn.DenseRNN(3, 3, **kw)
        self.dtype = dtype

    def __call__(self):
        def x(*shape):
            return jax.random.normal(jax.random.key(len(shape)), shape, self.dtype)

        zero = jnp.zeros((2, 3), self.dtype)
        outputs = [
            self.linear(x(2, 4)),
            self.general(x(2, 2, 2)),
            self.batched(x(2, 5, 4)),
            self.einsum(x(2, 3, 4)),
            self.stacked(x(3, 2, 4)),
            self.conv(x(2, 3, 3, 2)),
            self.groups(x(2, 5, 4)),
            self.up(x(2, 2, 2, 3)),
            self.flipped(x(2, 2, 2, 3)),
            self.attention(x(2, 3, 4)),
            self.embed(jnp.array([0, 1, 3])),
            self.embed.attend(x(2, 3)),
            self.lstm(x(2, 4, 3), initial_carry=(zero, zero)),
            self.gru(x(2, 4, 3), initial_carry=zero),
            self.slow(x(2, 4, 3), initial_carry=(zero, zero)),
            self.simple(x(2, 4, 3), initial_carry=zero),
            self.ours(x(2, 4, 3)),
        ]
        return sum(jnp.mean(y**2) + jnp.mean(jnp.sin(y)) for y in outputs)


def by_hand(path, kernel):
    """Every matrix (n_out, n_in) of a kernel of the zoo, by loops and slices."""
    layer = path.split("/")[0]
    if layer == "general":  # (i, j, o)
        return [np.array([kernel[..., o].ravel() for o in range(3)])]
    if layer == "batched":
        return [kernel[0].T, kernel[1].T]
    if layer == "einsum":  # (h, a, c): y[h, c] = sum_a W[h c, a] x[a]
        return [np.array([kernel[h, :, c] for h in range(2) for c in range(2)])]
    if layer == "stacked":  # (a, c, h): one matrix (c, a) for each h
        return [kernel[:, :, h].T for h in range(2)]
    if layer == "conv":
        return [np.array([kernel[..., o].ravel() for o in range(3)])]
    if layer == "groups":  # outputs 0, 1, 2 see the first two inputs
        each = np.array([kernel[..., o].ravel() for o in range(6)])
        return [each[:3], each[3:]]
    if layer == "up":  # (k, l, i, o)
        return [np.array([kernel[:, :, i].ravel() for i in range(3)]).T]
    if layer == "flipped":  # (k, l, o, i)
        return [np.array([kernel[..., i].ravel() for i in range(3)]).T]
    if layer == "attention" and path.endswith("out/kernel"):  # (head, depth, out)
        return [np.array([kernel[..., o].ravel() for o in range(4)])]
    if layer == "attention":  # (in, head, depth)
        return [np.array([kernel[:, h, d] for h in range(2) for d in range(2)])]
    if layer in ("lstm", "gru"):
        gates = 4 if layer == "lstm" else 3
        return [kernel[:, 3 * g : 3 * g + 3].T for g in range(gates)]
    if layer == "ours":
        return [kernel]
    return [kernel.T]


ALL = (
    "linear general batched einsum stacked conv groups up flipped attention embed lstm "
    "gru slow simple ours"
).split()
NUM_KERNELS = 9 + 4 + 1 + 2 + 2 + 8 + 2 + 2


# All in float64, made once.
@functools.cache
def made(constraint=None):
    if constraint is None:
        graph = nnx.graphdef(nnx.eval_shape(lambda: Zoo(nnx.Rngs(0), jnp.float64)))
        state = jax.jit(lambda: nnx.state(Zoo(nnx.Rngs(0), jnp.float64)))()
        return nnx.merge(graph, state), ()
    zoo = nnx.clone(made()[0])
    return zoo, svdrnn.constrain(zoo, constraint)


@functools.cache
def compiled(constraint, bake=True):
    """(value and gradient of parameters, parameters, parameters -> zoo)."""
    graph, params, rest = nnx.split(made(constraint)[0], nnx.Param, ...)

    def zoo(params):
        return nnx.merge(graph, params, rest)

    def loss(params):
        return svdrnn.bake(zoo(params))() if bake else zoo(params)()

    return jax.jit(jax.value_and_grad(loss)), nnx.to_pure_dict(params), zoo


def constrained(constraint=SPECTRAL):
    zoo, paths = made(constraint)
    return nnx.clone(zoo), paths


def at(model, path):
    for part in path.split("/"):
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model


def singular_values(path, kernel):
    matrices = by_hand(path, np.asarray(kernel, np.float64))
    return np.concatenate([np.linalg.svd(w, compute_uv=False) for w in matrices])


@pytest.mark.slow
def test_the_kernels_by_hand(x64):
    before = nnx.clone(made()[0])
    zoo, paths = constrained()
    assert {path.split("/")[0] for path in paths} == set(ALL)
    assert len(paths) == NUM_KERNELS
    for path in paths:
        was, kernel = np.asarray(at(before, path)[...]), at(zoo, path)
        assert isinstance(kernel, Kernel)
        assert kernel.shape == kernel[...].shape == was.shape, path
        assert (kernel.ndim, kernel.size) == (was.ndim, was.size)
        assert kernel.dtype == kernel[...].dtype == was.dtype
        now = by_hand(path, np.asarray(kernel))
        read = np.asarray(kernel.matrix())
        np.testing.assert_array_equal(read.reshape(np.shape(now)), now, err_msg=path)
        for old, new in zip(by_hand(path, was), now, strict=True):
            u, sigma, v_transposed = np.linalg.svd(old, full_matrices=False)
            outside = np.abs(sigma - 1) >= 0.2
            sigma = np.where(outside, 1 + 0.198 * np.sign(sigma - 1), sigma)
            np.testing.assert_allclose(
                new, (u * sigma) @ v_transposed, atol=1e-10, err_msg=path
            )


@pytest.mark.slow
def test_layers_compute_with_the_kernel(x64):
    zoo, paths = constrained()
    plain = nnx.clone(made()[0])
    for path in paths:
        at(plain, path)[...] = at(zoo, path)[...]
    call = jax.jit(lambda zoo: zoo())
    np.testing.assert_allclose(call(zoo), call(plain), rtol=1e-12)
    np.testing.assert_allclose(call(svdrnn.bake(zoo)), call(plain), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "constraint",
    [SPECTRAL, svdrnn.Orthogonal()],
    ids=str,
)
def test_a_hundred_steps_stay_inside(x64, constraint):
    gradient, params, zoo = compiled(constraint)
    optimizer = optax.adam(-0.05)  # Upwards: large outputs pull at the interval's ends.
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    values = []
    for _ in range(100):
        value, g = gradient(params)
        changes, state = update(g, state)
        params = optax.apply_updates(params, changes)
        values.append(value)
    assert values[-1] > values[0] + 0.1
    low, high = constraint.interval
    trained = zoo(params)
    for path in made(constraint)[1]:
        sigma = singular_values(path, at(trained, path)[...])
        assert low - 1e-9 <= sigma.min() and sigma.max() <= high + 1e-9, path
    reports = svdrnn.constraints(trained)
    assert {r.path for r in reports} == set(made(constraint)[1])
    assert max(r.violation for r in reports) < 1e-9


@pytest.mark.slow
def test_gradients_and_bake(x64):
    """Against finite differences, for every parameter; baked, to 1e-9."""
    gradient, params, _ = compiled(SPECTRAL)
    baked = gradient(params)[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
        baked,
        compiled(SPECTRAL, bake=False)[0](params)[1],
    )
    leaves, treedef = jax.tree.flatten(params)
    random = np.random.default_rng(0)
    for i, g in enumerate(jax.tree.leaves(baked)):
        # A row of zeros is no reflector, and one beside it is: no derivative there.
        direction = random.normal(size=leaves[i].shape) * (leaves[i] != 0)

        def moved(step, i=i, direction=direction):
            other = list(leaves)
            other[i] = leaves[i] + step * direction
            return float(gradient(treedef.unflatten(other))[0])

        difference = (moved(1e-5) - moved(-1e-5)) / 2e-5
        expected = float(np.sum(np.asarray(g) * direction))
        assert abs(difference - expected) < 1e-7 * max(1, abs(expected)), i


# --- where --------------------------------------------------------------------------


class Net(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (2, 2), rngs=rngs)
        self.blocks = nnx.List(
            [
                nnx.Dict(
                    attention=nnx.MultiHeadAttention(2, 4, rngs=rngs, decode=False),
                    norm=nnx.BatchNorm(4, rngs=rngs),
                    drop=nnx.Dropout(0.5, rngs=rngs),
                )
                for _ in range(2)
            ]
        )
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x).reshape(x.shape[0], -1, 4)
        for block in self.blocks:
            x = block.drop(block.norm(x + block.attention(x)))
        return self.head(x.mean(1))


ATTENTION = [
    f"blocks/{i}/attention/{name}/kernel"
    for i in range(2)
    for name in ("key", "out", "query", "value")
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("blocks/*/attention/*", ATTENTION),
        ("blocks/*/attention", ATTENTION),
        ("blocks/1/**/kernel", ATTENTION[4:]),
        ("**/query", [ATTENTION[2], ATTENTION[6]]),
        ("stem", ["stem/kernel"]),
        ("**", [*ATTENTION, "head/kernel", "stem/kernel"]),
        (lambda path, module: path == "head", ["head/kernel"]),
        (lambda path, module: isinstance(module, nnx.Conv), ["stem/kernel"]),
        (nnx.MultiHeadAttention, ATTENTION),
        (nnx.Linear, ["head/kernel"]),
        (nnx.PathContains("head"), ["head/kernel"]),
        (nnx.PathContains(1), ATTENTION[4:]),
        (nnx.All(nnx.Param, nnx.PathContains("stem")), ["stem/kernel"]),
        (nnx.Param, [*ATTENTION, "head/kernel", "stem/kernel"]),
        (["stem", nnx.Linear], ["head/kernel", "stem/kernel"]),
        (..., [*ATTENTION, "head/kernel", "stem/kernel"]),
    ],
)
def test_where(where, expected):
    net = Net(nnx.Rngs(0))
    asked = svdrnn.Spectral(radius=0.2, reflectors=1)
    paths = svdrnn.constrain(net, asked, where=where, init="identity")
    assert sorted(paths) == sorted(expected)
    assert sorted(r.path for r in svdrnn.constraints(net)) == sorted(expected)


def test_what_cannot_be_constrained_is_listed():
    net = Net(nnx.Rngs(0))
    paths = svdrnn.constrain(net, SPECTRAL, where="blocks/0")
    assert paths.skipped["blocks/0/norm/scale"] == "a vector"
    query = "blocks/0/attention/query/bias"
    assert paths.skipped[query] == "not the kernel of a LinearGeneral"
    assert f"{query} (not the kernel" in repr(paths)
    assert copy.deepcopy(paths) == paths
    assert copy.deepcopy(paths).skipped == paths.skipped
    with pytest.raises(ValueError, match=r"where must match a kernel.*bias \(a vector"):
        svdrnn.constrain(net, SPECTRAL, where="stem/bias")


def test_nothing_matches():
    net = Net(nnx.Rngs(0))
    with pytest.raises(
        ValueError, match="where must match a par.*query/kernel.*got 'sten'"
    ):
        svdrnn.constrain(net, SPECTRAL, where="sten")
    with pytest.raises(
        ValueError, match=r"where must match a constrained kernel .*\(none\)"
    ):
        svdrnn.unconstrain(net)
    with pytest.raises(ValueError, match="where must be a glob"):
        svdrnn.constrain(net, SPECTRAL, where=3)
    with pytest.raises(ValueError, match="constraint must be a svdrnn.Constraint"):
        svdrnn.constrain(net, 0.1, where="stem")


@pytest.mark.parametrize("what", [3, None, nnx.Param(jnp.eye(3)), jnp.eye(3)])
@pytest.mark.parametrize(
    "function",
    [
        lambda model: svdrnn.constrain(model, SPECTRAL),
        svdrnn.unconstrain,
        svdrnn.bake,
        svdrnn.constraints,
    ],
)
def test_what_is_no_model(function, what):
    with pytest.raises(ValueError, match="model must be an nnx.Module, or a list"):
        function(what)


@pytest.mark.parametrize("rngs", [0, jax.random.key(0), nnx.Rngs(dropout=0)])
def test_rngs_have_to_have_the_stream(rngs):
    layer = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="rngs must be nnx.Rngs with a stream params"):
        svdrnn.constrain(layer, SPECTRAL, init="random", rngs=rngs)


def test_a_start_that_draws_nothing_leaves_the_stream():
    layer, rngs = nnx.Linear(3, 3, rngs=nnx.Rngs(0)), nnx.Rngs(0)
    svdrnn.constrain(layer, SPECTRAL, rngs=rngs)
    assert rngs.params() == nnx.Rngs(0).params()


@pytest.mark.parametrize(
    "norm",
    [
        lambda rngs: nnx.LayerNorm(4, rngs=rngs),
        lambda rngs: nnx.RMSNorm(4, rngs=rngs),
        lambda rngs: nnx.BatchNorm(4, rngs=rngs),
        lambda rngs: nnx.GroupNorm(4, num_groups=2, rngs=rngs),
        lambda rngs: nnx.InstanceNorm(4, rngs=rngs),
    ],
)
def test_vectors_of_stacked_layers_are_no_kernels(norm):
    def block(rngs):
        return nnx.List([nnx.Linear(4, 4, rngs=rngs), norm(rngs)])

    for axes in (None, (-2, -1)):
        model = nnx.vmap(block)(nnx.Rngs(0).split(3))
        paths = svdrnn.constrain(model, SPECTRAL, init="identity", axes=axes)
        assert paths == ("0/kernel",)
        assert model[0].kernel.matrix().shape == (3, 4, 4)
        of_norm = [path for path in paths.skipped if path.startswith("1/")]
        assert of_norm and set(of_norm) <= {"1/bias", "1/scale"}


@pytest.mark.slow
def test_twice_is_an_error_and_changes_nothing():
    net = Net(nnx.Rngs(0))
    svdrnn.constrain(net, SPECTRAL, where="stem")
    with pytest.raises(ValueError, match="no constrained kernel.*stem/kernel under Sp"):
        svdrnn.constrain(net, svdrnn.Orthogonal())
    assert len(svdrnn.constraints(net)) == 1
    svdrnn.unconstrain(net, "stem")
    assert len(svdrnn.constrain(net, svdrnn.Orthogonal())) == len(ATTENTION) + 2


class Odd(nnx.Module):
    """A layer that the library does not know, with a kernel (out, in)."""

    def __init__(self, rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (3, 4)))

    def __call__(self, x):
        return x @ self.w.T + (2.0 * self.w).sum()


@pytest.mark.slow
def test_axes_of_unknown_layers():
    odd = Odd(nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"axes must be given.* of shape \(3, 4\).*Odd.*\(.*w\)$"
    ):
        svdrnn.constrain(odd, SPECTRAL)
    svdrnn.constrain(odd, SPECTRAL, axes=(1, 0))
    w = odd.w.matrix()
    np.testing.assert_array_equal(w, odd.w[...])
    x = jnp.ones((2, 4))
    np.testing.assert_allclose(odd(x), x @ w.T + 2 * w.sum(), rtol=1e-6)
    np.testing.assert_allclose(odd.w @ x.T, w @ x.T, rtol=1e-6)
    np.testing.assert_allclose(x @ odd.w.T, x @ w.T, rtol=1e-6)


@pytest.mark.slow
def test_axes_and_blocks_override():
    head = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    svdrnn.constrain(head, SPECTRAL, blocks=3)
    assert head.kernel.matrix().shape == (3, 2, 4)
    np.testing.assert_allclose(head.kernel.matrix()[1], head.kernel[:, 2:4].T)
    conv = nnx.Conv(3, 4, (2, 2), rngs=nnx.Rngs(0))
    svdrnn.constrain(conv, SPECTRAL, axes=(2, 3))  # a matrix for every tap
    assert conv.kernel.matrix().shape == (2, 2, 4, 3)
    np.testing.assert_allclose(conv.kernel.matrix()[1, 0], conv.kernel[1, 0].T)


@pytest.mark.parametrize(
    "layer",
    [
        lambda kw: nnx.Einsum("ab,ab->b", (3, 4), **kw),
        lambda kw: nnx.Einsum("...a,...ab->...b", (3, 4), **kw),
        lambda kw: nnx.Conv(2, 3, 2, mask=jnp.ones((2, 2, 3)), **kw),
    ],
)
def test_no_one_reading(layer):
    with pytest.raises(ValueError, match="axes must be given.*where must leave it out"):
        svdrnn.constrain(layer({"rngs": nnx.Rngs(0)}), SPECTRAL)


# --- sharing, first values, assignment, back ---------------------------------------


@pytest.mark.slow
def test_shared_kernels_stay_shared():
    net = nnx.Dict(
        a=nnx.Linear(3, 3, rngs=nnx.Rngs(0)), b=nnx.Linear(3, 3, rngs=nnx.Rngs(1))
    )
    net.b.kernel = net.a.kernel
    assert svdrnn.constrain(net, SPECTRAL, where="a") == ("a/kernel", "b/kernel")
    assert net.a.kernel is net.b.kernel
    assert len(svdrnn.constraints(net)) == 1
    baked = svdrnn.bake(net)
    assert baked.a.kernel is baked.b.kernel
    assert svdrnn.unconstrain(net, "b") == ("a/kernel", "b/kernel")
    assert net.a.kernel is net.b.kernel and type(net.a.kernel) is nnx.Param


def test_kernels_read_in_two_ways():
    net = nnx.Dict(
        a=nnx.Linear(3, 6, rngs=nnx.Rngs(0)),
        b=nnx.LinearGeneral(3, 6, rngs=nnx.Rngs(1)),
    )
    cell = nnx.GRUCell(3, 2, rngs=nnx.Rngs(0))
    cell.dense_i.kernel = net.a.kernel
    net.c = cell
    with pytest.raises(
        ValueError, match="axes must be given.*two ways, as a/kernel and"
    ):
        svdrnn.constrain(net, SPECTRAL)
    assert not svdrnn.constraints(net)


def test_inits():
    def linear():
        return nnx.Linear(4, 4, rngs=nnx.Rngs(0))

    allowed, other = linear(), linear()
    svdrnn.constrain(allowed, SPECTRAL)
    w = allowed.kernel[...]
    other.kernel[...] = w
    svdrnn.constrain(other, SPECTRAL, init="strict")
    np.testing.assert_allclose(other.kernel[...], w, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"kernel must be inside .*'strict'.*\(kernel\)"
    ):
        svdrnn.constrain(linear(), SPECTRAL, init="strict")
    one = linear()
    svdrnn.constrain(one, SPECTRAL, init="identity")
    np.testing.assert_allclose(one.kernel[...], np.eye(4), atol=1e-6)
    few = svdrnn.Spectral(radius=0.2, reflectors=2)
    with pytest.raises(ValueError, match="reflectors must be None or at least 4"):
        svdrnn.constrain(linear(), few)
    with pytest.raises(ValueError, match="without a source of random"):
        svdrnn.constrain(linear(), few, init="random")
    with pytest.raises(ValueError, match="init must be one of project, strict, random"):
        svdrnn.constrain(linear(), few, init="zeros")
    one, two = linear(), linear()
    svdrnn.constrain(one, few, init="random", rngs=nnx.Rngs(1))
    svdrnn.constrain(two, few, init="random", rngs=nnx.Rngs(2))
    assert one.kernel.u_vectors.shape == (2, 4)
    assert float(jnp.max(jnp.abs(one.kernel[...] - two.kernel[...]))) > 0.1
    np.testing.assert_allclose(
        np.linalg.svd(one.kernel[...], compute_uv=False), np.ones(4), atol=1e-5
    )


def test_starts_that_modules_have():
    """A rotation, and given singular values, of both matrices of a kernel."""
    layer = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="without a source of random .* got 'henaff'"):
        svdrnn.constrain(layer, SPECTRAL, blocks=2, init="henaff")
    with pytest.raises(ValueError, match=r"needs a square matrix, .*\(kernel\)"):
        svdrnn.constrain(layer, SPECTRAL, init="henaff", rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="init_sigma must be None where a matrix is"):
        svdrnn.constrain(layer, SPECTRAL, init_sigma=1.0)
    with pytest.raises(ValueError, match="init_sigma must be None or 1 to 4 numbers"):
        svdrnn.constrain(layer, SPECTRAL, init="identity", init_sigma=9.0)
    options = {"blocks": 2, "init": "henaff", "rngs": nnx.Rngs(1)}
    svdrnn.constrain(layer, SPECTRAL, **options, init_sigma=(1.1, 0.9))
    w = np.asarray(layer.kernel.matrix())
    assert np.abs(w[0] - w[1]).max() > 0.1  # each has angles of its own
    sigma = np.linalg.svd(w, compute_uv=False)
    expected = np.tile([1.1, 1.1, 0.9, 0.9], (2, 1))
    np.testing.assert_allclose(sigma, expected, atol=1e-5)
    np.testing.assert_allclose(layer.kernel.singular_values(), expected, atol=1e-5)
    # Below the trapezoids of U and of V, of both.
    assert layer.kernel.num_redundant == 2 * (6 + 6)
    for case in (SPECTRAL, svdrnn.Orthogonal("cayley")):
        layer = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
        svdrnn.constrain(layer, case, **options)
        w = np.asarray(layer.kernel.matrix())
        blocks = np.kron(np.eye(2), np.ones((2, 2)))
        np.testing.assert_allclose(w * (1 - blocks), 0, atol=1e-5)
        np.testing.assert_allclose(w @ w.mT, np.tile(np.eye(4), (2, 1, 1)), atol=1e-5)
        np.testing.assert_allclose(layer.kernel.singular_values(), np.ones((2, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("map", ["householder", "exponential"])
def test_set_matrix(map):
    cell = nnx.GRUCell(2, 3, rngs=nnx.Rngs(0))
    svdrnn.constrain(cell, svdrnn.Orthogonal(map), where="dense_h")
    w = np.stack([np.eye(3)[[1, 2, 0]], -np.eye(3), np.eye(3)])
    svdrnn.set_matrix(cell.dense_h.kernel, w)
    np.testing.assert_allclose(cell.dense_h.kernel.matrix(), w, atol=1e-6)
    np.testing.assert_allclose(cell.dense_h.kernel[:, :3], w[0].T, atol=1e-6)
    with pytest.raises(ValueError, match="kernel must be inside Orthogonal"):
        svdrnn.set_matrix(cell.dense_h.kernel, 2 * w)
    svdrnn.set_matrix(cell.dense_h.kernel, 2 * w, init="project")
    np.testing.assert_allclose(cell.dense_h.kernel.matrix(), w, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"w must have shape \(3, 3, 3\), got \(3, 3\)"
    ):
        svdrnn.set_matrix(cell.dense_h.kernel, w[0])
    with pytest.raises(ValueError, match="kernel must be a constrained kernel"):
        svdrnn.set_matrix(cell.dense_i.kernel, w)
    with pytest.raises(ValueError, match="init must be one of project, strict"):
        svdrnn.set_matrix(cell.dense_h.kernel, w, init="random")
    with pytest.raises(ValueError, match="w must be real, got complex"):
        svdrnn.set_matrix(cell.dense_h.kernel, w + 0j)


def test_unconstrain_gives_the_matrix_of_now():
    linear = nnx.Linear(3, 4, rngs=nnx.Rngs(0), kernel_metadata={"note": "kept"})
    svdrnn.constrain(linear, SPECTRAL)
    now = linear.kernel[...]
    assert svdrnn.unconstrain(linear) == ("kernel",)
    assert type(linear.kernel) is nnx.Param and linear.kernel.note == "kept"
    np.testing.assert_array_equal(linear.kernel[...], now)


@pytest.mark.slow
def test_repr_and_reports():
    net = Net(nnx.Rngs(0))
    svdrnn.constrain(net, svdrnn.Spectral(radius=0.2), where="head")
    svdrnn.constrain(net, svdrnn.Orthogonal("cayley"), where="stem")
    text = str(net)
    assert "constraint=Spectral(radius=0.2, center=1.0, reflectors=None)" in text
    assert re.search(
        r"interval=\(0.8, 1.2\),\s+reflectors=\(2, 2\),\s+violation='measured by", text
    )
    head, stem = svdrnn.constraints(net)
    assert (head.path, head.shape, head.reflectors) == ("head/kernel", (4, 2), (2, 2))
    assert (stem.interval, stem.reflectors) == ((1.0, 1.0), None)
    assert 0 <= head.violation < 1e-5
    table = str(svdrnn.constraints(net)).splitlines()
    assert len(table) == 3 and "[0.8, 1.2]" in table[1]
    # Measured on the kernel, not believed of the parameters.
    net.head.kernel.sigma_raw[...] = jnp.array([jnp.nan, 0.0])
    assert svdrnn.constraints(net)[0].violation == np.inf
    assert "violation=None" in str(nnx.eval_shape(lambda: net).head)


def test_printing_measures_nothing(monkeypatch):
    layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    svdrnn.constrain(layer, SPECTRAL)
    monkeypatch.setattr(Kernel, "value", property(lambda self: pytest.fail("built")))
    for name in ("matrix", "violation"):
        monkeypatch.setattr(Kernel, name, lambda self: pytest.fail("measured"))
    assert "shape=(3, 4)" in repr(layer) and "Kernel" in str(nnx.Dict(a=layer))


# --- in the place of a variable and its array ---------------------------------------


def a_kernel(n_in=3, n_out=4):
    """A constrained kernel, and a dense parameter that is like it."""
    layer = nnx.Linear(n_in, n_out, rngs=nnx.Rngs(0), kernel_metadata={"note": "kept"})
    dense = layer.kernel.copy()
    svdrnn.constrain(layer, SPECTRAL)
    dense[...] = layer.kernel[...]
    return layer.kernel, dense


# What is asked of a name, where that is not the attribute or a call without arguments.
ASKED = {
    "addressable_data": lambda x: x.addressable_data(0),
    "add_axis": lambda x: x.add_axis(0, "a"),
    "argpartition": lambda x: x.argpartition(1),
    "astype": lambda x: x.astype(jnp.bfloat16),
    "at": lambda x: x.at[0].add(1),
    "choose": lambda x: x.astype(int).choose([x, x]),
    "clip": lambda x: x.clip(-0.1, 0.1),
    "compress": lambda x: x.compress(np.array([True, False, True])),
    "copy_from": lambda x: x.copy_from(nnx.Param(jnp.ones((3, 4)))),
    "create_value": lambda x: x.create_value(3),
    "del_metadata": lambda x: x.del_metadata("note"),
    "dot": lambda x: x.dot(np.ones(4, np.float32)),
    "from_metadata": lambda x: x.from_metadata(x[0], x.get_metadata()),
    "get_metadata": lambda x: (x.get_metadata(), x.get_metadata("note")),
    "get_value": lambda x: (x.get_value(), x.get_value(index=(0, slice(1, 3)))),
    "has_metadata": lambda x: (x.has_metadata("note"), x.has_metadata("other")),
    "item": lambda x: x.item(3),
    "remove_axis": lambda x: x.remove_axis(0, "a"),
    "repeat": lambda x: x.repeat(2),
    "reshape": lambda x: x.reshape(2, 6),
    "searchsorted": lambda x: x[0].sort().searchsorted(0.1),
    "set_metadata": lambda x: x.set_metadata("note", "lost"),
    "set_raw_value": lambda x: x.set_raw_value(jnp.ones((3, 4))),
    "set_value": lambda x: x.set_value(jnp.ones((3, 4))),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "take": lambda x: x.take(np.array([0, 5])),
    "to_device": lambda x: x.to_device(jax.devices()[0]),
    "update_from_state": lambda x: x.update_from_state(nnx.Param(jnp.ones((3, 4)))),
    "view": lambda x: x.view(jnp.int32),
}
# What writes: a dense parameter takes it, a kernel must not seem to.
WRITING = (
    *("add_axis", "copy_from", "del_metadata", "remove_axis", "set_metadata"),
    *("set_raw_value", "set_value", "update_from_state", "delete"),
)
# Not to be called.
TYPES = ("type", "var_type")
# Addresses and the like, of which two arrays have two.
OWN = (
    *("addressable_shards", "global_shards", "traceback", "unsafe_buffer_pointer"),
    *("device_buffer", "device_buffers", "format", "is_ready"),
)


def public(x):
    return {name for name in dir(x) if not name.startswith("_")}


def outcome(ask, x):
    """What comes of asking: a result, or the type of an error."""
    try:
        return ask(x)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        return type(error)


def assert_like(found, expected):
    if isinstance(expected, nnx.Variable):
        assert type(found) is type(expected)
        assert found.get_metadata() == expected.get_metadata()
        found, expected = found.get_value(), expected.get_value()
    if isinstance(expected, (tuple, list)):
        assert type(found) is type(expected) and len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_like(*pair)
    elif isinstance(expected, (jax.Array, np.ndarray)):
        assert type(found) is type(expected) and found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_public_name_of_a_parameter_and_its_array():
    kernel, dense = a_kernel()
    names = public(dense) | public(dense.get_value())
    assert {"get_value", "sharding", "mean", "mT", "at"} <= names
    for name in sorted(names):
        if name in OWN:
            assert hasattr(kernel, name) == hasattr(dense, name), name
            continue

        def ask(x, name=name):
            if name in ASKED:
                return ASKED[name](x)
            value = getattr(x, name)
            return value() if callable(value) and name not in TYPES else value

        if name in WRITING:
            with pytest.raises(TypeError, match=f"{name} must not be called on a con"):
                ask(kernel)
            continue
        try:
            assert_like(outcome(ask, kernel), outcome(ask, dense))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
    assert kernel.note == dense.note == "kept"
    assert not hasattr(kernel, "other")


# Of Python's own protocols for objects, not of arrays; and `bool`, of which a parameter
# knows its length.
OBJECT = (
    *dir(nnx.Module),
    *("__orig_bases__", "__parameters__", "__class_getitem__", "__call__", "__del__"),
    *("__copy__", "__bool__", "__annotations__", "__slots__", "__array_module__"),
    *("__numpy_dtype__", "__hex__", "__oct__", "__cuda_array_interface__"),
)
COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
IN_PLACE = re.compile(
    "__i(add|sub|(true|floor)div|(mat)?mul|mod|pow|[lr]shift|and|x?or)__"
)
EXAMPLES = {
    "__len__": len,
    "__iter__": lambda x: list(iter(x)),
    "__contains__": lambda x: 7.0 in x[0],
    "__getitem__": lambda x: (x[0], x[..., 1:], x[:, None], x[x[:, 0] > 0]),
    "__array__": np.asarray,
    "__array_priority__": lambda x: np.ones((2, 3), np.float32) @ x,
    "__jax_array__": jnp.asarray,
    "__dlpack__": np.from_dlpack,
    "__getattr__": lambda x: x.sharding,
}


@pytest.mark.slow
def test_every_operator_of_a_parameter_and_its_array():
    kernel, dense = a_kernel()
    array = dense.get_value()
    names = {n for n in (*dir(dense), *dir(array)) if n.startswith("__")}
    names = (names | set(COMPARISONS)) - set(OBJECT)
    assert {"__add__", "__rfloordiv__", "__imul__", "__abs__", "__iter__"} <= names
    other = jnp.full((3, 4), 2.0)
    for name in sorted(names):
        assert hasattr(type(kernel), name), name
        if name in ("__setitem__", "__delitem__") or IN_PLACE.fullmatch(name):
            with pytest.raises(TypeError, match=f"{name} must not be called on a con"):
                getattr(kernel, name)(0, other)
            continue
        asked = [
            lambda x, n=name, others=others: getattr(x, n)(*others)
            for others in ((), (2.0,), (other,), (other.T,))
        ]
        for ask in [EXAMPLES[name]] if name in EXAMPLES else asked:
            try:
                assert_like(outcome(ask, kernel), outcome(ask, array))
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error


def test_iteration_ends():
    kernel, dense = a_kernel()
    rows = list(dense.get_value())
    for found in (
        list(kernel),
        [*kernel],
        [row for row in kernel],
        list(map(abs, rows)),
    ):
        assert len(found) == 3
    assert_like([row for row, _ in zip(kernel, range(9), strict=False)], rows)
    assert_like(list(reversed(kernel)), rows[::-1])
    first, *rest = kernel
    assert_like([first, *rest], rows)
    assert_like(dict(enumerate(kernel))[2], rows[2])
    with pytest.raises(IndexError):
        a_kernel(1, 1)[0][1:][0]


def test_arithmetic_among_kernels_and_parameters():
    kernel, dense = a_kernel()
    w = np.asarray(dense.get_value())
    for found, expected in [
        (kernel + kernel, w + w),
        (dense - kernel, 0 * w),
        (kernel * dense, w * w),
        (w @ kernel.T, w @ w.T),
        (jnp.sin(kernel), np.sin(w)),
        (abs(kernel) // 0.1, abs(w) // np.float32(0.1)),
        (kernel == dense, w == w),
    ]:
        assert isinstance(found, jax.Array)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    @nnx.jit
    def inside(kernel):
        assert kernel.sum().shape == () and len(list(kernel)) == 3
        return np.ones((1, 3), np.float32) @ kernel, kernel.mean(), divmod(kernel, 2)

    assert_like(inside(kernel), inside(dense.get_value()))


def test_a_kernel_is_not_overwritten():
    layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    svdrnn.constrain(layer, SPECTRAL)
    kernel, before = layer.kernel, np.asarray(layer.kernel)
    with pytest.raises(TypeError, match="__iadd__ must not be called .*set_matrix"):
        layer.kernel += 1
    with pytest.raises(TypeError, match="__setitem__ must not be called .*unconstr"):
        kernel[...] = 0.0
    for name in ("value", "raw_value", "T", "sharding", "note"):
        with pytest.raises(AttributeError, match=f"{name} must not be set on a cons"):
            setattr(kernel, name, 1.0)
    assert layer.kernel is kernel
    np.testing.assert_array_equal(kernel, before)
    # Not so its parameters.
    kernel.sigma_raw = nnx.Param(jnp.zeros(3))
    kernel.u_vectors[...] = jnp.eye(3, 4)
    assert float(jnp.max(jnp.abs(kernel.value - before))) > 0.1


def test_a_parameter_named_as_something_of_arrays():
    @dataclasses.dataclass(frozen=True)
    class Diagonal(svdrnn.Constraint):
        def matrix(self, parameters, shape):
            return jnp.diag(parameters["diagonal"])

        def parameters(self, w):
            return {"diagonal": jnp.diagonal(w)}

    layer = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    svdrnn.constrain(layer, Diagonal())
    assert type(layer.kernel.diagonal) is nnx.Param
    layer.kernel.diagonal[...] = jnp.arange(3.0)
    np.testing.assert_array_equal(layer.kernel, np.diag([0.0, 1, 2]))
    assert layer.kernel.trace() == 3


def test_looking_for_what_is_not_there_builds_nothing(monkeypatch):
    kernel, _ = a_kernel()
    monkeypatch.setattr(Kernel, "value", property(lambda self: pytest.fail("built")))
    assert not hasattr(kernel, "deterministic") and not hasattr(kernel, "_private")
    assert (kernel.shape, kernel.ndim, kernel.size, len(kernel)) == ((3, 4), 2, 12, 3)
    nnx.Sequential(kernel).eval()


# --- bake ---------------------------------------------------------------------------


@pytest.mark.slow
def test_baked_outside_is_a_copy():
    net = Net(nnx.Rngs(0))
    svdrnn.constrain(net, SPECTRAL)
    plain = svdrnn.bake(net)
    assert not svdrnn.constraints(plain) and len(svdrnn.constraints(net)) == 10
    assert jax.tree.structure(nnx.state(plain)) == jax.tree.structure(
        nnx.state(Net(nnx.Rngs(0)))
    )
    bias = plain.head.bias[...]
    net.head.bias[...] += 1
    np.testing.assert_array_equal(plain.head.bias[...], bias)


@pytest.mark.slow
def test_baked_inside_shares_what_is_updated():
    block = nnx.Dict(
        linear=nnx.Linear(3, 3, rngs=nnx.Rngs(0)),
        norm=nnx.BatchNorm(3, rngs=nnx.Rngs(0)),
        drop=nnx.Dropout(0.5, rngs=nnx.Rngs(0)),
    )
    svdrnn.constrain(block, SPECTRAL)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    mean = block.norm.mean[...]

    def loss(block):
        block = svdrnn.bake(block)
        return jnp.sum(block.drop(block.norm(block.linear(x))) ** 2)

    nnx.grad(loss)(block)  # Without jit only the parameters are traced.
    assert float(jnp.max(jnp.abs(block.norm.mean[...] - mean))) > 0
    assert int(block.drop.rngs.count[...]) == 1
    nnx.jit(nnx.grad(loss))(block)
    assert int(block.drop.rngs.count[...]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_training_with_flax_alone(frozen):
    """The lines that users have: nnx.jit, nnx.value_and_grad, nnx.Optimizer."""
    model = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(1))
    )
    svdrnn.constrain(model, svdrnn.Orthogonal("cayley"), where="layers/0")
    wrt = nnx.All(nnx.Param, nnx.PathContains(1)) if frozen else nnx.Param
    optimizer = nnx.Optimizer(model, optax.adamw(0.1), wrt=wrt)
    x = jax.random.normal(jax.random.key(0), (8, 3))

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return jnp.mean((model(x) - x[:, :2]) ** 2)

        value, gradient = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, wrt))(model)
        optimizer.update(model, gradient)
        return value

    before = model.layers[0].kernel[...]
    values = [step(model, optimizer) for _ in range(10)]
    assert values[-1] < values[0]
    w = np.asarray(model.layers[0].kernel.matrix())
    np.testing.assert_allclose(w.T @ w, np.eye(3), atol=1e-5)
    assert bool(np.any(w.T != before)) is not frozen


@pytest.mark.parametrize("parametrization", ["householder", "cayley", "exponential"])
def test_what_is_fixed_stays_where_a_filter_by_path_trains_it(parametrization):
    kwargs = {"use_bias": False, "rngs": nnx.Rngs(0)}
    model = nnx.Sequential(nnx.Linear(4, 4, **kwargs), nnx.Linear(4, 4, **kwargs))
    svdrnn.constrain(model, svdrnn.Orthogonal(parametrization))
    wrt = nnx.PathContains("kernel")
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=wrt)
    x = jax.random.normal(jax.random.key(0), (8, 4))
    before = nnx.clone(model)

    @nnx.jit
    def step(model, optimizer):
        gradient = nnx.grad(
            lambda model: jnp.sum((model(x) - 1) ** 2), argnums=nnx.DiffState(0, wrt)
        )(model)
        optimizer.update(model, gradient)

    for _ in range(5):
        step(model, optimizer)
    assert max(report.violation for report in svdrnn.constraints(model)) < 1e-5
    assert not np.allclose(model.layers[0].kernel[...], before.layers[0].kernel[...])
    fixed = [nnx.state(each, svdrnn.kernels.Fixed) for each in (before, model)]
    jax.tree.map(np.testing.assert_array_equal, *fixed)


def test_parameters_that_are_mapped_apart_are_named():
    @nnx.vmap
    def stacked(key):
        return nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(key))

    model = stacked(jax.random.split(jax.random.key(0), 3))
    svdrnn.constrain(model, svdrnn.Orthogonal(), "kernel", axes=(1, 2))

    def apply(axes):
        run = nnx.scan(
            lambda x, layer: layer(x), in_axes=(nnx.Carry, axes), out_axes=nnx.Carry
        )
        return run(jnp.ones((2, 4)), model)

    with pytest.raises(ValueError, match="equal axes in front.* svdrnn.kernels.Fixed"):
        apply(nnx.StateAxes({nnx.Param: 0, ...: None}))
    both = (nnx.Param, svdrnn.kernels.Fixed)
    found = apply(nnx.StateAxes({both: 0, ...: None}))
    expected = jnp.ones((2, 4))
    for kernel in model.kernel[...]:
        expected = expected @ kernel
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_constrained_kernel_counts_as_the_variable_it_stands_for():
    def model():
        return nnx.Sequential(
            nnx.Linear(3, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 3, rngs=nnx.Rngs(1))
        )

    some = model()
    svdrnn.constrain(some, SPECTRAL, "layers/0")
    with pytest.raises(ValueError, match="no constrained kernel.*layers/0/kernel"):
        svdrnn.constrain(some, SPECTRAL, nnx.Param)
    assert svdrnn.unconstrain(some, nnx.Param) == ("layers/0/kernel",)

    tagged = nnx.Linear(3, 4, kernel_metadata={"tag": "own"}, rngs=nnx.Rngs(0))
    svdrnn.constrain(tagged, SPECTRAL, nnx.filterlib.WithTag("own"))
    of_shape = nnx.All(nnx.Param, lambda path, value: value.shape == (3, 4))
    assert svdrnn.unconstrain(nnx.clone(tagged), of_shape) == ("kernel",)
    assert svdrnn.unconstrain(tagged, nnx.filterlib.WithTag("own")) == ("kernel",)


def test_a_predicate_is_asked_for_a_parameter_without_a_module():
    model = {"w": nnx.Param(jnp.eye(3))}
    paths = svdrnn.constrain(model, SPECTRAL, lambda path, module: True, axes=(0, 1))
    assert paths == ("w",)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"init": np.eye(4)}, "^init must be one of project, strict, .* got"),
        ({"axes": ((0.0,), (1,))}, r"^axes must be .*\(kernel\)$"),
        ({"blocks": 3}, r"^blocks must divide the 4 outputs, got 3 \(kernel\)$"),
    ],
)
def test_what_constrain_refuses_is_named(options, message):
    model = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        svdrnn.constrain(model, SPECTRAL, "kernel", **options)
    with pytest.raises(ValueError, match="^init must be one of project, strict, got"):
        svdrnn.constrain(model, SPECTRAL, "kernel", axes=(np.int64(0), np.int64(1)))
        svdrnn.set_matrix(model.kernel, np.eye(4), init=np.eye(4))


def test_fixed_names_that_no_parameter_has_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Misnamed(svdrnn.Free):
        @property
        def fixed(self):
            return ("q",)

    message = r"fixed of Misnamed must name parameters \(w\), got q"
    model = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        svdrnn.constrain(model, Misnamed(), "kernel")
    with pytest.raises(ValueError, match=message):
        svdrnn.constrain_tree({"w": jnp.eye(3)}, "w", Misnamed())


# --- transformations, checkpoints ---------------------------------------------------


@pytest.mark.slow
def test_created_under_transformations():
    eager = Net(nnx.Rngs(0))
    svdrnn.constrain(eager, SPECTRAL, where="head")

    def create():
        net = Net(nnx.Rngs(0))
        for init in ("strict", "project"):
            svdrnn.constrain(net, SPECTRAL, where="head", init=init)
            if init == "strict":
                svdrnn.unconstrain(net)
        return net

    jitted = nnx.jit(create)()
    np.testing.assert_allclose(
        jitted.head.kernel[...], eager.head.kernel[...], atol=1e-5
    )
    abstract = nnx.eval_shape(create)
    assert abstract.head.kernel.shape == (4, 2)
    assert nnx.graphdef(abstract) == nnx.graphdef(jitted)
    np.testing.assert_allclose(
        nnx.merge(*nnx.split(eager)).head.kernel[...], eager.head.kernel[...]
    )


@pytest.mark.parametrize("init", ["random", "identity"])
@pytest.mark.parametrize(
    "constraint",
    [
        svdrnn.Spectral(0.2, reflectors=2),
        pytest.param(svdrnn.Orthogonal(), marks=pytest.mark.slow),
        pytest.param(svdrnn.Orthogonal("cayley"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_models_without_values(constraint, init):
    def create():
        return nnx.Sequential(
            nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.GRUCell(4, 4, rngs=nnx.Rngs(0))
        )

    def constrained(model):
        where = ["layers/0", "layers/1/dense_h"]
        svdrnn.constrain(model, constraint, where, init=init, rngs=nnx.Rngs(1))
        return model

    abstract = constrained(nnx.eval_shape(create))
    inside = nnx.eval_shape(lambda: constrained(create()))
    assert nnx.graphdef(abstract) == nnx.graphdef(inside)
    assert nnx.to_pure_dict(nnx.state(abstract)) == nnx.to_pure_dict(nnx.state(inside))
    if constraint != svdrnn.Spectral(0.2, reflectors=2):
        other = create()
        svdrnn.constrain(other, constraint, ["layers/0", "layers/1/dense_h"])
        assert nnx.graphdef(abstract) == nnx.graphdef(other)
    kernel = abstract.layers[0].kernel
    assert (
        kernel.get_value() == kernel[...] == jax.ShapeDtypeStruct((3, 4), jnp.float32)
    )
    assert svdrnn.constraints(abstract)[0].violation is None
    assert "violation=None" in str(abstract)
    for plain in (svdrnn.bake(abstract), abstract):
        if plain is abstract:
            svdrnn.unconstrain(abstract)
        assert type(plain.layers[0].kernel) is nnx.Param
        assert plain.layers[0].kernel.shape == (3, 4)


def test_trees_without_values():
    tree = {"w": jax.ShapeDtypeStruct((2, 3, 4), jnp.float32), "b": jnp.ones(4)}
    raw, dense = svdrnn.constrain_tree(
        tree, "w", svdrnn.Orthogonal(), axes=(1, 2), init="identity"
    )
    assert raw["w"]["vectors"] == jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)
    built = jax.eval_shape(lambda dense, raw: dense(raw), dense, raw)
    assert built["w"] == tree["w"]


@pytest.mark.parametrize("init", ["project", "strict"])
def test_starts_that_need_values(init):
    model = nnx.eval_shape(lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    message = f"init must be one of random, .*, cayley where .* got '{init}'.*inside"
    with pytest.raises(ValueError, match=message):
        svdrnn.constrain(model, SPECTRAL, init=init)
    assert type(model.kernel) is nnx.Param
    with pytest.raises(ValueError, match=message):
        svdrnn.constrain_tree(
            {"w": jax.ShapeDtypeStruct((3, 4), float)}, "w", SPECTRAL, init=init
        )


class Parallel(nnx.Module):
    """Two layers whose kernels are split over the mesh, one of each way."""

    def __init__(self, rngs, split=True):
        def init(*names):
            normal = nnx.initializers.lecun_normal()
            return nnx.with_partitioning(normal, names) if split else normal

        kw = dict(use_bias=False, rngs=rngs)
        self.up = nnx.Linear(4, 8, kernel_init=init(None, "model"), **kw)
        self.conv = nnx.Conv(8, 4, 1, kernel_init=init(None, "model", None), **kw)
        self.down = nnx.Linear(8, 4, kernel_init=init("model", None), **kw)

    def __call__(self, x, **sharding):
        return self.down(jnp.tanh(self.up(x)), **sharding)


@pytest.mark.slow
@pytest.mark.parametrize("constraint", [svdrnn.Orthogonal(), SPECTRAL], ids=str)
@pytest.mark.parametrize("axis_type", ["Explicit", "Auto"])
def test_partitioned_kernels(axis_type, constraint):
    axis_type = jax.sharding.AxisType[axis_type]
    mesh = jax.make_mesh((2,), ("model",), axis_types=(axis_type,))
    x = jax.random.normal(jax.random.key(0), (4, 4))

    def losses(model, x, baked, **sharding):
        optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)

        def loss(model):
            model = svdrnn.bake(model) if baked else model
            return jnp.mean(model(x, **sharding) ** 2)

        @nnx.jit
        def step(model, optimizer):
            value, gradient = nnx.value_and_grad(loss)(model)
            optimizer.update(model, gradient)
            return value

        return [float(step(model, optimizer)) for _ in range(2)]

    whole = Parallel(nnx.Rngs(0), split=False)
    svdrnn.constrain(whole, constraint)
    expected = losses(whole, x, baked=False)
    with jax.set_mesh(mesh):
        explicit = axis_type == jax.sharding.AxisType.Explicit
        sharding = {"out_sharding": jax.P(None, None)} if explicit else {}
        x = jax.device_put(x, jax.NamedSharding(mesh, jax.P(None, None)))
        for baked in (False, True):
            model = Parallel(nnx.Rngs(0))
            assert model.up.kernel.sharding.spec == jax.P(None, "model")
            assert len(svdrnn.constrain(model, constraint)) == 3
            kernel = model.up.kernel
            assert all(
                not any(variable.sharding.spec)
                for variable in jax.tree.leaves(nnx.state(kernel))
            )
            assert not any(kernel.sharding.spec)
            found = losses(model, x, baked, **sharding)
            np.testing.assert_allclose(found, expected, rtol=1e-4)
        split = jax.NamedSharding(mesh, jax.P("model", None))
        w = jax.device_put(kernel.matrix(), split)
        svdrnn.set_matrix(kernel, w)
        np.testing.assert_allclose(kernel.matrix(), w, atol=1e-5)
        assert kernel.get_metadata("out_sharding") == (None, "model")
        plain = svdrnn.bake(model)
        svdrnn.unconstrain(model)
        for each in (plain, model):
            assert each.up.kernel.sharding.spec == jax.P(None, "model")


@pytest.mark.slow
def test_stacked_layers():
    """Made under nnx.vmap, or stacked already: one matrix for each, scanned over."""

    def create(rngs, constrain):
        layer = nnx.Linear(3, 3, rngs=rngs)
        if constrain:
            svdrnn.constrain(layer, SPECTRAL)
        return layer

    def stack(constrain):
        keys = nnx.Rngs(0).split(2)
        return nnx.vmap(lambda rngs: create(rngs, constrain))(keys)

    inside, outside = stack(True), stack(False)
    before = np.asarray(outside.kernel[...])
    svdrnn.constrain(outside, SPECTRAL)
    for layer in (inside, outside):
        assert layer.kernel.shape == (2, 3, 3)
        assert layer.kernel.u_vectors.shape == (2, 3, 3)
        for i in range(2):
            u, sigma, v_transposed = np.linalg.svd(before[i].T)
            sigma = np.where(
                np.abs(sigma - 1) >= 0.2, 1 + 0.198 * np.sign(sigma - 1), sigma
            )
            np.testing.assert_allclose(
                layer.kernel.matrix()[i], (u * sigma) @ v_transposed, atol=1e-5
            )

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, layer):
            return layer(x)

        x = jnp.ones((1, 3))
        expected = x
        for i in range(2):
            expected = expected @ layer.kernel[i] + layer.bias[i]
        np.testing.assert_allclose(run(x, layer), expected, rtol=1e-5)


@pytest.mark.slow
def test_orbax_round_trip(tmp_path):
    import orbax.checkpoint as ocp

    net = Net(nnx.Rngs(0))
    svdrnn.constrain(net, SPECTRAL, where="blocks")
    svdrnn.constrain(net, svdrnn.Orthogonal("exponential"), where="stem")

    def create():
        net = Net(nnx.Rngs(1))
        svdrnn.constrain(net, SPECTRAL, where="blocks")
        svdrnn.constrain(net, svdrnn.Orthogonal("exponential"), where="stem")
        return net

    with ocp.StandardCheckpointer() as checkpointer:
        pure = nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState)))
        checkpointer.save(tmp_path / "state", pure)
        checkpointer.wait_until_finished()
        graph, abstract, rest = nnx.split(
            nnx.eval_shape(create), nnx.Not(nnx.RngState), ...
        )
        restored = checkpointer.restore(tmp_path / "state", nnx.to_pure_dict(abstract))
    nnx.replace_by_pure_dict(abstract, restored)
    back = nnx.merge(graph, abstract, nnx.state(net, nnx.RngState))
    for path in ("stem/kernel", *ATTENTION):
        np.testing.assert_array_equal(at(back, path)[...], at(net, path)[...])


@pytest.mark.parametrize(
    "make",
    [
        lambda rngs: nnx.Linear(4, 5, rngs=rngs),
        lambda rngs: nnx.LinearGeneral((2, 3), 4, axis=(-2, -1), rngs=rngs),
        lambda rngs: nnx.Embed(6, 4, rngs=rngs),
        lambda rngs: nnx.Conv(4, 6, (2, 2), rngs=rngs),
        lambda rngs: nnx.ConvTranspose(4, 6, (3, 2), rngs=rngs),
        lambda rngs: nnx.Einsum("ab,bc->ac", (3, 4), rngs=rngs),
    ],
)
def test_layers_stacked_along_another_axis_are_not_misread(make):
    layer = nnx.vmap(make, out_axes=1)(nnx.Rngs(0).split(7))
    with pytest.raises(ValueError, match="axes must be given"):
        svdrnn.constrain(layer, SPECTRAL, init="identity")


@pytest.mark.slow
def test_narrow_and_other_variables():
    class Special(nnx.Param):
        pass

    linear = nnx.Linear(3, 4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    linear.kernel = Special(linear.kernel[...])
    svdrnn.constrain(linear, svdrnn.Orthogonal("cayley"))
    assert type(linear.kernel.skew_entries) is Special
    assert linear.kernel.dtype == linear(jnp.ones((1, 3), jnp.bfloat16)).dtype
    assert not isinstance(linear.kernel.base, nnx.Param)
    assert len(jax.tree.leaves(nnx.state(linear, Special))) == 1


def test_a_model_that_cannot_be_changed_whole_is_left_as_it_was():
    class Tuple(nnx.Module):
        def __init__(self):
            self.first = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
            self.others = nnx.data((nnx.Param(3 * jnp.eye(4)),))

    model = Tuple()
    before = model.first.kernel
    with pytest.raises(ValueError, match="others/0 must be in a module, list or dict"):
        svdrnn.constrain(model, SPECTRAL, "**", axes=((0,), (1,)))
    assert model.first.kernel is before


@dataclasses.dataclass(frozen=True)
class Transposed(svdrnn.Constraint):
    """Gives W the other way around."""

    def matrix(self, parameters, shape):
        return parameters["w"]

    def parameters(self, w):
        return {"w": w.T}


def test_a_constraint_has_to_give_the_shape_of_its_matrix():
    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    svdrnn.constrain(layer, Transposed())
    with pytest.raises(ValueError, match=r"Transposed must give .* \(3, 2\), got \(2"):
        layer.kernel.matrix()


def test_errors_of_a_tree_name_the_leaf():
    tree = {"a": {"kernel": jnp.eye(3)}, "b": {"kernel": jnp.ones((3, 3), jnp.int32)}}
    with pytest.raises(ValueError, match=r"kernel must have a floating .*b/kernel\)$"):
        svdrnn.constrain_tree(tree, "**/kernel", SPECTRAL)


@pytest.mark.parametrize(
    "given, words",
    [
        (
            {"where": None},
            "where must be a glob or a predicate of path and leaf, got N",
        ),
        ({"where": ["kernel"]}, r"where must be a glob .*\['kernel'\]"),
        (
            {"init": "random", "key": 0},
            "key must be a key of jax.random or None, got 0",
        ),
    ],
)
def test_arguments_of_a_tree_are_checked(given, words):
    given = {"where": "**", "constraint": SPECTRAL} | given
    with pytest.raises(ValueError, match=words):
        svdrnn.constrain_tree({"kernel": jnp.eye(3)}, **given)


def test_forward_mode_says_what_it_needs():
    layer = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    for backward in (True, False):
        constraint = svdrnn.Spectral(radius=0.2, custom_backward=backward)
        raw, dense = svdrnn.constrain_tree(
            {"kernel": layer.kernel[...]}, "**", constraint
        )
        jvp = functools.partial(jax.jvp, dense, (raw,), (raw,))
        if not backward:
            assert jnp.all(jnp.isfinite(jvp()[1]["kernel"]))
            continue
        with pytest.raises(TypeError, match="custom_backward=False to the .*constrai"):
            jvp()
