"""Constraints as pure functions: matrices, parameters, layouts, trees."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from flax import nnx

import svdrnn
from svdrnn import constraint, initializers, layouts, skew
from tests import oracles
from tests.oracles import reflector_product, svd_matrix


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


SHAPES = [(4, 4), (3, 5), (4, 1)]
KEY = jax.random.key(7)
NEGATIVE = svdrnn.Spectral(radius=0.3, center=-1.0)
CASES = [
    svdrnn.Spectral(radius=0.2),
    NEGATIVE,
    svdrnn.Spectral(radius=1.5, center=0.0),
    svdrnn.Spectral(radius=0.0, center=2.0),
    svdrnn.SpectralNorm(at_most=0.7),
    svdrnn.Orthogonal(),
    svdrnn.Orthogonal("exponential"),
    svdrnn.Orthogonal("cayley"),
]


def random_matrix(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def moved(case, w):
    """The singular values of w, put into the interval by hand."""
    low, high = case.interval
    u, sigma, v_transposed = np.linalg.svd(w, full_matrices=False)
    if low == high:
        sigma = np.full_like(sigma, low)
    else:
        center, radius = (high + low) / 2, (high - low) / 2
        if isinstance(case, svdrnn.Spectral) and case.center == 0:
            center, radius = 0.0, high
        away = sigma - center
        outside = np.abs(away) >= radius
        sigma = np.where(outside, center + 0.99 * radius * np.sign(away), sigma)
    return (u * sigma) @ v_transposed


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_start_from_a_matrix(x64, case, shape):
    w = random_matrix(shape)
    parameters = case.parameters(jnp.asarray(w))
    built = case.matrix(parameters, shape)
    np.testing.assert_allclose(built, moved(case, w), atol=1e-10)
    assert case.violation(built) < 1e-12
    # Allowed already: kept.
    again = case.matrix(case.parameters(built), shape)
    np.testing.assert_allclose(again, built, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_no_parameters_leave_the_set(x64, case, shape):
    key = jax.random.key(1)
    for start in (case.random(key, shape, jnp.float64), case.identity(shape, float)):
        far = {
            name: value
            if name in case.fixed
            else value + 3 * jax.random.normal(key, value.shape)
            for name, value in start.items()
        }
        low, high = case.interval
        for parameters in (start, far):
            sigma = np.linalg.svd(case.matrix(parameters, shape), compute_uv=False)
            assert low - 1e-12 < sigma.min() and sigma.max() < high + 1e-12


@pytest.mark.parametrize(
    "case", [svdrnn.Spectral(0.0, 0.9), svdrnn.Spectral(0.01, 0.9)]
)
def test_singular_values_of_narrow_parameters_are_not_rounded(case):
    parameters = case.random(KEY, (4, 4), jnp.bfloat16)
    w = case.transition(parameters, (4, 4), "dense").matrix()
    assert w.dtype == jnp.float32
    sigma = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(sigma, 0.9, rtol=1e-6)


@pytest.mark.parametrize("sigma, expected", [(1.5, 0.3), (0.5, 0.3), (1.1, 0.0)])
def test_a_violation_is_the_distance_to_the_interval(sigma, expected):
    case, w = svdrnn.Spectral(radius=0.2), np.diag([1.0, sigma])
    assert case.violation(w) == pytest.approx(expected)
    stack = np.stack([[np.eye(2), w], [np.eye(2), np.eye(2)]])
    assert constraint.largest_violation(case, stack) == pytest.approx(expected)
    assert constraint.largest_violation(case, stack[:, ::-1]) == pytest.approx(expected)


@pytest.mark.slow
def test_spectral_matrix_by_hand(x64):
    case = svdrnn.Spectral(radius=0.4, center=1.2, reflectors=(2, 3))
    p = case.random(jax.random.key(0), (4, 3), jnp.float64)
    p["sigma_raw"] = jnp.array([0.3, -2.0, 5.0])
    sigma = 2 * 0.4 * (1 / (1 + np.exp(-np.asarray(p["sigma_raw"]))) - 0.5) + 1.2
    expected = svd_matrix(np.asarray(p["u_vectors"]), np.asarray(p["v_vectors"]), sigma)
    np.testing.assert_allclose(case.matrix(p, (4, 3)), expected, atol=1e-12)


def test_householder_matrix_by_hand(x64):
    case = svdrnn.Orthogonal()
    p = case.random(jax.random.key(0), (5, 3), jnp.float64)
    expected = -reflector_product(p["vectors"])[:, :3] * np.asarray(p["signs"])
    np.testing.assert_allclose(case.matrix(p, (5, 3)), expected, atol=1e-12)
    np.testing.assert_allclose(case.matrix(p, (3, 5)), expected.T, atol=1e-12)


@pytest.mark.parametrize("case", [*CASES, svdrnn.Free()], ids=str)
def test_what_a_constraint_knows_of_its_matrix(x64, case):
    for shape in SHAPES[:2]:
        parameters = case.random(KEY, shape, jnp.float64)
        w = np.asarray(case.matrix(parameters, shape))
        np.testing.assert_allclose(
            case.singular_values(parameters, shape),
            np.linalg.svd(w, compute_uv=False),
            atol=1e-12,
        )
        redundant = sum(
            value.shape[0] * (value.shape[0] - 1) // 2
            for name, value in parameters.items()
            if name in ("u_vectors", "v_vectors", "vectors")
        )
        assert case.redundant(shape) == redundant
    square = (4, 4)
    parameters = case.random(KEY, square, jnp.float64)
    w = np.asarray(case.matrix(parameters, square))
    methods = ("auto", "low_rank") if isinstance(case, svdrnn.Spectral) else ("auto",)
    for method in (*methods, "dense"):
        form = case.transition(parameters, square, method)
        rows = form.apply(jnp.eye(4), None)[0]
        np.testing.assert_allclose(rows.T, w, atol=1e-12)


@pytest.mark.parametrize("init", initializers.BLOCK_ROTATIONS)
@pytest.mark.parametrize("case", [*CASES, svdrnn.Free()], ids=str)
def test_start_at_a_rotation(x64, case, init):
    parameters = case.rotation(init, KEY, (5, 5), jnp.float64)
    w = np.asarray(case.matrix(parameters, (5, 5)))
    assert case.violation(w) < 1e-12
    if isinstance(case, svdrnn.Spectral):
        if case.center == 0:
            return
        # Every reflector that matters can be trained.
        for rows in (parameters["u_vectors"], parameters["v_vectors"]):
            assert np.all(np.linalg.norm(rows, axis=1) > 0)
        w = w / case.center
        _, _, key = jax.random.split(KEY, 3)
    else:
        key = KEY
    angles = initializers.rotation_angles(key, 5, init, jnp.float64)
    np.testing.assert_allclose(w, skew.block_rotation(angles, 5), atol=1e-12)


def test_a_module_and_a_kernel_are_one_parameterization(x64):
    """The same matrix has the same parameters, transition and singular values."""
    case = svdrnn.Spectral(radius=0.3, center=-1.0)
    u, _, v_transposed = np.linalg.svd(random_matrix((4, 4)))
    w = jnp.asarray(u * [1.2, 1.1, 0.9, 0.8]) @ v_transposed
    made = svdrnn.SpectralMatrix(
        *(4, 4), radius=0.3, center=-1.0, reflectors=None, init=w,
        param_dtype=jnp.float64, rngs=nnx.Rngs(0),
    )  # fmt: skip
    found = case.parameters(w)
    assert set(found) == set(made.parameters())
    for name, value in made.parameters().items():
        np.testing.assert_allclose(found[name], value, atol=1e-12)
    np.testing.assert_array_equal(
        case.transition(found, (4, 4), "dense").w, made.transition("dense").w
    )
    assert made.num_redundant == case.redundant((4, 4)) == 12


def test_a_free_matrix_is_its_parameter():
    w = jnp.asarray(random_matrix((3, 4)))
    case = svdrnn.Free()
    assert set(case.parameters(w)) == {"w"}
    assert case.interval == (0, np.inf) and case.violation(1e6 * w) == 0
    np.testing.assert_array_equal(case.matrix(case.parameters(w), (3, 4)), w)
    layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    before = np.asarray(layer.kernel)
    svdrnn.constrain(layer, case)
    np.testing.assert_array_equal(layer.kernel, before)
    assert layer.kernel.num_redundant == 0


STARTS = {
    "eye": np.eye(4),
    "minus": -np.eye(4),
    "nearly": -np.eye(4) + 1e-9 * random_matrix((4, 4)),
    "signed permutation": np.diag([1.0, -1, 1, 1])[[1, 0, 2, 3]],
    "tall": -np.eye(4, 2),
}


@functools.cache
def started(case):
    """(parameters of w or, of None, the identity; W; gradient of sum(W g))."""

    def start(w, g):
        p = case.identity(g.shape, g.dtype) if w is None else case.parameters(w)

        def total(p):
            built = case.matrix(p, g.shape)
            return jnp.sum(built * g), built

        gradient, built = jax.grad(total, has_aux=True)(p)
        return p, built, gradient

    return jax.jit(start)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("start", ["identity", *STARTS])
def test_every_start_can_move(x64, case, start):
    """No reflector is stuck at zero, where it would have no gradient."""
    w = STARTS.get(start)
    shape = (4, 4) if w is None else w.shape
    p, built, gradient = started(case)(w, random_matrix(shape))
    if w is not None:
        np.testing.assert_allclose(built, moved(case, w), atol=1e-10)
    for name in set(gradient) - set(case.fixed):
        assert np.max(np.abs(gradient[name])) > 1e-4, name
        if name.endswith("vectors"):
            m, n = p[name].shape
            turning = m if m < n else m - 1  # The last row of a square turns nothing.
            sizes = np.linalg.norm(gradient[name], axis=1)[:turning]
            assert np.min(sizes) > 1e-3, name


def rotation(n, plane=None):
    """By a radian: in one plane of coordinates, or in planes of no special kind."""
    a = random_matrix((n, n), seed=1)
    if plane is not None:
        a = np.zeros((n, n))
        a[plane] = 1.0
    a = a - a.T
    return scipy.linalg.expm(a / np.linalg.norm(a, 2))


@functools.cache
def trained(case):
    """The squared distance to a target after 300 steps of Adam."""

    def train(w, target):
        p = case.parameters(w)
        fixed = {name: p.pop(name) for name in case.fixed}
        optimizer = optax.adam(0.05)

        def loss(p):
            return jnp.sum((case.matrix({**p, **fixed}, w.shape) - target) ** 2)

        def step(carry, _):
            p, state = carry
            changes, state = optimizer.update(jax.grad(loss)(p), state)
            return (optax.apply_updates(p, changes), state), None

        (p, _), _ = jax.lax.scan(step, (p, optimizer.init(p)), None, 300)
        return loss(p)

    return jax.jit(train)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    "case",
    [
        svdrnn.Orthogonal(),
        pytest.param(svdrnn.Spectral(0.2), marks=pytest.mark.slow),
        pytest.param(NEGATIVE, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_start_can_be_trained(x64, case, start):
    w = moved(case, STARTS[start])
    for plane in (None, (0, 1), (0, 3), (2, 3)):
        left = trained(case)(w, rotation(4, plane) @ w)
        assert left < 1e-6, (plane, left)


def test_training_from_minus_one():
    layer = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))
    svdrnn.constrain(layer, svdrnn.Orthogonal())
    svdrnn.set_matrix(layer.kernel, -np.eye(4))
    np.testing.assert_array_equal(layer.kernel[...], -np.eye(4))
    optimizer = nnx.Optimizer(layer, optax.adam(0.05), wrt=nnx.Param)
    target = jnp.asarray(-rotation(4), jnp.float32)

    @nnx.jit
    def step(layer, optimizer):
        def loss(layer):
            return jnp.sum((layer.kernel[...] - target) ** 2)

        value, gradient = nnx.value_and_grad(loss)(layer)
        optimizer.update(layer, gradient)
        return value

    values = [step(layer, optimizer) for _ in range(150)]
    assert values[0] > 1 and values[-1] < 1e-4


@pytest.mark.parametrize(
    "map", ["householder", pytest.param("cayley", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "start",
    ["minus", *(pytest.param(s, marks=pytest.mark.slow) for s in ("nearly", "random"))],
)
def test_orthogonal_starts_have_a_derivative(x64, map, start):
    w = STARTS.get(start, random_matrix((4, 3)))
    weights = random_matrix(w.shape, seed=2)

    @jax.jit
    def loss(w):
        raw, dense = svdrnn.constrain_tree({"w": w}, "w", svdrnn.Orthogonal(map))
        return jnp.sum(dense(raw)["w"] * weights)

    gradient = jax.grad(loss)(w)
    expected = oracles.finite_difference(loss, w)
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


def test_spectral_starts_refuse_to_be_differentiated():
    def loss(w):
        raw, dense = svdrnn.constrain_tree({"w": w}, "w", svdrnn.Spectral(0.1))
        return jnp.sum(dense(raw)["w"])

    for gradient in (jax.grad(loss), jax.grad(jax.jit(loss)), jax.jit(jax.grad(loss))):
        with pytest.raises(
            ValueError, match="must not be differentiated .* outside of the function"
        ):
            gradient(jnp.eye(3))
    assert np.isfinite(loss(jnp.eye(3)))
    # Nothing is in the way of what does not go through the start.
    kept = jax.grad(lambda w: loss(jax.lax.stop_gradient(w)) * w[0, 0])(jnp.eye(3))
    assert np.all(np.isfinite(kept))


@pytest.mark.slow
def test_identity_is_the_nearest_multiple(x64):
    eye = np.eye(3, 5)
    for case, factor in [
        (svdrnn.Spectral(radius=0.2), 1.0),
        (svdrnn.Spectral(radius=0.2, reflectors=1), 1.0),
        (svdrnn.Spectral(radius=0.1, center=2.0), 2 - 0.099),
        (svdrnn.Spectral(radius=0.1, center=-1.0), -1.0),
        (svdrnn.SpectralNorm(at_most=4.0), 1.0),
        (svdrnn.Orthogonal(), 1.0),
        (svdrnn.Orthogonal("cayley"), 1.0),
    ]:
        w = case.matrix(case.identity((3, 5), jnp.float64), (3, 5))
        np.testing.assert_allclose(w, factor * eye, atol=1e-10, err_msg=str(case))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes(dtype):
    w = jnp.asarray(random_matrix((4, 6)), dtype)
    for case in (svdrnn.Spectral(radius=0.2), svdrnn.Orthogonal()):
        parameters = case.parameters(w)
        assert {v.dtype for v in parameters.values()} == {jnp.dtype(dtype)}
        built = case.matrix(parameters, w.shape)
        assert built.dtype == dtype
        assert case.violation(built) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[0], CASES[-1]], ids=str)
def test_traced_starts(x64, case):
    w = jnp.asarray(random_matrix((3, 5)))
    plain = case.matrix(case.parameters(w), (3, 5))
    start = jax.vmap(lambda w: case.matrix(case.parameters(w), (3, 5)))
    np.testing.assert_allclose(jax.jit(start)(w[None])[0], plain, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [lambda **k: svdrnn.Spectral(0.2, **k), lambda **k: svdrnn.Orthogonal(**k)]
)
def test_forward_mode(x64, make):
    w = jnp.asarray(random_matrix((4, 4)))
    p = make().parameters(w)
    tangent = jax.tree.map(lambda v: 1.0 * (v != 0), p)  # not into rows of zeros

    def slope(case):
        return jax.jvp(lambda p: case.matrix(p, (4, 4)), (p,), (tangent,))[1]

    with pytest.raises(TypeError, match="custom_backward must be False"):
        slope(make())
    step = 1e-6
    ends = [
        make().matrix(jax.tree.map(lambda v, t, s=s: v + s * t, p, tangent), (4, 4))
        for s in (-step, step)
    ]
    expected = (ends[1] - ends[0]) / (2 * step)
    slopes = slope(make(custom_backward=False))
    np.testing.assert_allclose(slopes, expected, atol=1e-7)


def test_constraints_are_values():
    assert svdrnn.Spectral(radius=1) == svdrnn.Spectral(radius=np.float32(1))
    assert hash(svdrnn.Spectral(0.1, reflectors=[2, 3])) == hash(
        svdrnn.Spectral(0.1, reflectors=(2, 3))
    )
    assert svdrnn.SpectralNorm(2.0) != svdrnn.Spectral(1.0, 1.0)
    assert svdrnn.SpectralNorm(2.0) == svdrnn.SpectralNorm(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: svdrnn.Spectral(radius=-1), "radius must be finite and at least 0"),
        (lambda: svdrnn.Spectral(radius=np.nan), "radius must be finite"),
        (lambda: svdrnn.Spectral(radius=0, center=0), "radius and center must"),
        (lambda: svdrnn.SpectralNorm(at_most=0), "at_most must be finite and above 0"),
        (lambda: svdrnn.Orthogonal("qr"), "map must be one of householder, expo"),
        (
            lambda: svdrnn.Spectral(0.1, reflectors=2).parameters(jnp.eye(3)),
            "reflectors must be None or at least 3 in U and in V .*'random' and "
            "'identity' take fewer.*got 2 and 2",
        ),
        (
            lambda: svdrnn.Spectral(0.1, reflectors=(2, 3)).identity((3, 3), float),
            "reflectors must be equally many",
        ),
        (
            lambda: svdrnn.Spectral(0.1).rotation("cayley", KEY, (3, 4), float),
            r"init 'cayley' needs a square matrix, got shape \(3, 4\)",
        ),
        (
            lambda: svdrnn.Orthogonal().rotation("henaff", KEY, (3, 4), float),
            r"init 'henaff' needs a square matrix, got shape \(3, 4\)",
        ),
        (
            lambda: svdrnn.Spectral(0.1, reflectors=2).rotation(
                "henaff", KEY, (3, 3), float
            ),
            "at least 3 in U and in V for init 'henaff' .* got 2 and 2",
        ),
        (
            lambda: svdrnn.Orthogonal().with_sigma({}, (3, 3), 1.0),
            r"init_sigma must be None under Orthogonal\(.*got 1.0",
        ),
        (
            lambda: svdrnn.Free().transition({"w": jnp.eye(3, 4)}, (3, 4)),
            "a transition must be square",
        ),
        (
            lambda: svdrnn.Free().transition({"w": jnp.eye(3)}, (3, 3), "wy"),
            "method must be one of auto, dense, got 'wy'",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- layouts ------------------------------------------------------------------------


def test_layout_by_hand():
    kernel = np.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).astype(np.float32)
    read = layouts.layout((3, 4, 6), ((0,), (2,)), blocks=2)
    assert read.stack_shape == (4, 2) and read.matrix_shape == (3, 3)
    w = read.matrices(jnp.asarray(kernel))
    assert w.shape == (2, 4, 2, 3, 3)
    for lead, s, b in np.ndindex(2, 4, 2):
        expected = kernel[lead, :, s, 3 * b : 3 * b + 3].T
        np.testing.assert_array_equal(w[lead, s, b], expected)
    np.testing.assert_array_equal(read.kernel(w), kernel)


def test_layout_leaves_out_leading_axes():
    read = layouts.layout((7, 3, 4), ((-2,), (-1,)))
    assert read == layouts.layout((3, 4), (0, 1))


@pytest.mark.parametrize(
    ("axes", "blocks", "message"),
    [
        (((0,), (0,)), 1, "axes must be .*each axis once"),
        (((0,), (5,)), 1, "axes must be"),
        (((0,), ()), 1, "axes must be"),
        ((0,), 1, "axes must be"),
        ("io", 1, "axes must be"),
        (((0,), (1,)), 3, "blocks must divide the 4 outputs, got 3"),
        (((0,), (1,)), 0, "blocks must be an integer"),
    ],
)
def test_layout_errors(axes, blocks, message):
    with pytest.raises(ValueError, match=message):
        layouts.layout((2, 4), axes, blocks)


# --- a constraint of one's own, trees ----------------------------------------------


@dataclasses.dataclass(frozen=True)
class Positive(svdrnn.Constraint):
    """W > 0, entry by entry."""

    def matrix(self, parameters, shape):
        return jax.nn.softplus(parameters["raw"])

    def parameters(self, w):
        w = jnp.maximum(w, 1e-2)
        return {"raw": w + jnp.log(-jnp.expm1(-w))}

    def violation(self, w):
        return max(0.0, -float(w.min()))


def test_own_constraint_in_a_tree():
    params = {"a": jnp.asarray(random_matrix((3, 4))), "b": jnp.zeros(4)}
    raw, dense = svdrnn.constrain_tree(params, "a", Positive())
    np.testing.assert_allclose(
        dense(raw)["a"], np.maximum(params["a"], 1e-2), rtol=1e-5
    )
    raw, dense = svdrnn.constrain_tree(
        params, "a", Positive(), init="random", key=jax.random.key(0)
    )
    assert float(dense(raw)["a"].min()) > 0
    with pytest.raises(ValueError, match="violates it by"):
        svdrnn.constrain_tree(params, "a", Positive(), init="strict")


@pytest.mark.slow
def test_tree_of_linen_parameters(x64):
    from flax import linen

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = jnp.tanh(linen.Dense(3, param_dtype=jnp.float64)(x))
            return linen.Dense(3, param_dtype=jnp.float64)(x)

    net, x = Net(), jnp.asarray(random_matrix((5, 4)))
    params = net.init(jax.random.key(0), x)
    raw, dense = svdrnn.constrain_tree(params, "**/kernel", svdrnn.Spectral(0.1))
    assert dense.paths == ("params/Dense_0/kernel", "params/Dense_1/kernel")
    assert jax.tree.structure(dense(raw)) == jax.tree.structure(params)

    @jax.jit
    def loss(raw):
        return jnp.mean(net.apply(dense(raw), x) ** 2)

    for _ in range(20):
        raw = jax.tree.map(lambda p, g: p - g, raw, jax.grad(loss)(raw))
    for name in ("Dense_0", "Dense_1"):
        kernel = np.asarray(dense(raw)["params"][name]["kernel"])
        sigma = np.linalg.svd(kernel, compute_uv=False)
        assert 0.9 - 1e-9 <= sigma.min() and sigma.max() <= 1.1 + 1e-9


def test_tree_keeps_fixed_arrays_out_of_training():
    params = {"w": jnp.asarray(random_matrix((4, 4)), jnp.float32)}
    raw, dense = svdrnn.constrain_tree(params, "w", svdrnn.Orthogonal("cayley"))
    assert set(raw["w"]) == {"skew_entries"}
    # A pytree: its arrays go through jit and into checkpoints.
    assert [leaf.shape for leaf in jax.tree.leaves(dense)] == [(4, 4)]
    built = jax.jit(lambda dense, raw: dense(raw))(dense, raw)["w"]
    np.testing.assert_allclose(built.T @ built, np.eye(4), atol=1e-5)


def test_tree_starts_with_given_singular_values():
    params = {"w": jnp.zeros((2, 4, 4))}
    options = {"axes": (1, 2), "key": KEY, "init_sigma": (1.05, 0.95)}
    for init in ("henaff", "identity"):
        raw, dense = svdrnn.constrain_tree(
            params, "w", svdrnn.Spectral(0.1), init=init, **options
        )
        sigma = np.linalg.svd(dense(raw)["w"], compute_uv=False)
        expected = np.tile([1.05, 1.05, 0.95, 0.95], (2, 1))
        np.testing.assert_allclose(sigma, expected, atol=1e-5)


@pytest.mark.slow
def test_tree_stacks_and_axes():
    params = {"w": jnp.asarray(random_matrix((2, 3, 4)), jnp.float32)}
    with pytest.raises(ValueError, match="axes must be given.* w of shape"):
        svdrnn.constrain_tree(params, "w", svdrnn.Spectral(0.1))
    raw, dense = svdrnn.constrain_tree(
        params, lambda path, leaf: path == "w", svdrnn.Spectral(0.1), axes=(1, 2)
    )
    assert raw["w"]["u_vectors"].shape == (2, 3, 4)
    each = np.linalg.svd(np.asarray(dense(raw)["w"]), compute_uv=False)
    assert 0.9 - 1e-5 <= each.min() and each.max() <= 1.1 + 1e-5
    # The leading axis may be taken away again by a map over the parameters.
    one = jax.vmap(dense)(raw)["w"]
    np.testing.assert_allclose(one, dense(raw)["w"], atol=1e-6)


def test_unhashable_constraints():
    @dataclasses.dataclass
    class Loose(svdrnn.Constraint):
        matrix = parameters = None

    with pytest.raises(ValueError, match="constraint must be hashable, as a frozen"):
        svdrnn.constrain_tree({"w": jnp.ones((2, 2))}, "w", Loose())


def test_tree_errors():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match="where must match a leaf of two axes.*b, w"):
        svdrnn.constrain_tree(params, "b", svdrnn.Spectral(0.1))
    with pytest.raises(ValueError, match="constraint must be a svdrnn.Constraint"):
        svdrnn.constrain_tree(params, "w", 0.1)
    with pytest.raises(ValueError, match="without a source of random"):
        svdrnn.constrain_tree(params, "w", svdrnn.Spectral(0.1), init="random")
    with pytest.raises(ValueError, match="init must be one of project"):
        svdrnn.constrain_tree(params, "w", svdrnn.Spectral(0.1), init="zeros")
    with pytest.raises(ValueError, match="init_sigma must be None where a matrix is"):
        svdrnn.constrain_tree(params, "w", svdrnn.Spectral(0.1), init_sigma=1.0)
    params["w"] = params["w"].at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="kernel must be finite"):
        svdrnn.constrain_tree(params, "w", svdrnn.Spectral(0.1))
    assert constraint.largest_violation(svdrnn.Spectral(0.1), params["w"]) == np.inf
