"""U Sigma V^T of any shape against a dense numpy oracle, in float64 unless named."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svdrnn import spectral
from svdrnn.spectral import SVD
from tests import oracles

pytestmark = pytest.mark.usefixtures("x64", "strict")

METHODS = ("scan", "wy")
# (n_out, n_in, m1, m2)
SHAPES = [(5, 5, 2, 3), (3, 5, 3, 2), (5, 3, 2, 3), (4, 4, 0, 0), (1, 1, 1, 1)]
SQUARE = [(5, 5, 2, 3), (4, 4, 4, 4), (4, 4, 0, 1), (1, 1, 1, 1)]


def random_svd(n_out, n_in, m1, m2, seed=0):
    random = np.random.default_rng(seed)
    sigma = random.uniform(0.5, 1.5, size=min(n_out, n_in))
    return SVD(
        random.normal(size=(m1, n_out)),
        random.normal(size=(m2, n_in)),
        sigma * random.choice([-1, 1], size=sigma.shape),
    )


def dense(svd):
    """W by definition: rectangular diagonal between two dense factors."""
    middle = np.zeros(svd.shape)
    np.fill_diagonal(middle, svd.sigma)
    return (
        oracles.reflector_product(svd.u_vectors)
        @ middle
        @ oracles.reflector_product(svd.v_vectors).T
    )


def finite_difference(f, svd, step=1e-6):
    """Gradient of a numpy function of an SVD by central differences, as an SVD."""
    leaves, structure = jax.tree.flatten(svd)

    def at(i, changed):
        changed_leaves = leaves[:i] + [changed] + leaves[i + 1 :]
        return f(jax.tree.unflatten(structure, changed_leaves))

    gradients = [np.zeros_like(leaf) for leaf in leaves]
    for i, leaf in enumerate(leaves):
        for index in np.ndindex(leaf.shape):
            change = np.zeros_like(leaf)
            change[index] = step
            difference = at(i, leaf + change) - at(i, leaf - change)
            gradients[i][index] = difference / (2 * step)
    return jax.tree.unflatten(structure, gradients)


def check_gradients(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def batch(n, seed=1):
    return np.random.default_rng(seed).normal(size=(2, 3, n))


@functools.cache
def compiled(f):
    """f compiled once a shape, shared by all tests."""

    def fresh(*args, **options):
        return f(*args, **options)

    return jax.jit(fresh, static_argnames="method")


check = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)


# Singular values.


def test_bounded_singular_values_against_the_formula():
    raw = np.array([-1e3, -3.0, -1e-9, 0.0, 0.5, 40.0, np.inf])
    for radius, center in [(0.01, 1.0), (0.3, 0.0), (2.0, -1.5), (0.0, 0.7)]:
        actual = spectral.bounded_singular_values(raw, radius=radius, center=center)
        sigmoid = 1 / (1 + np.exp(-raw.astype(np.longdouble)))
        check(actual, 2 * radius * (sigmoid - 0.5) + center, atol=2e-16)
        assert np.all(actual >= center - radius)
        assert np.all(actual <= center + radius)
        assert actual[3] == center
    # Small raw values keep their relative precision.
    actual = spectral.bounded_singular_values(raw, radius=1.0, center=0.0)
    np.testing.assert_allclose(actual[2], raw[2] / 2, rtol=1e-15)


def test_bounded_singular_values_have_the_right_gradient():
    raw = np.array([-2.0, 0.0, 3.0])
    values = functools.partial(spectral.bounded_singular_values, center=1.0)
    for radius in (0.0, 0.3):
        actual = jax.jit(jax.grad(lambda r: jnp.sum(values(r, radius=radius))))(raw)
        # 2 r sigmoid (1 - sigmoid)
        sigmoid = 1 / (1 + np.exp(-raw))
        check(actual, 2 * radius * sigmoid * (1 - sigmoid))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_bounded_singular_values_keep_shape_and_dtype(dtype):
    raw = jnp.zeros((2, 3), dtype)
    values = spectral.bounded_singular_values(raw, radius=0.01)
    assert values.shape == (2, 3) and values.dtype == dtype
    np.testing.assert_array_equal(values, jnp.ones((2, 3), dtype))


@pytest.mark.parametrize(
    "radius, center, message",
    [
        (-0.1, 1.0, "radius must be finite and at least 0, got -0.1"),
        (float("nan"), 1.0, "radius must be finite and at least 0, got nan"),
        (float("inf"), 1.0, "radius must be finite and at least 0, got inf"),
        (None, 1.0, "radius must be finite and at least 0, got None"),
        (0.1, float("nan"), "center must be finite, got nan"),
        (0.1, float("-inf"), "center must be finite, got -inf"),
        (0.1, "one", "center must be finite, got 'one'"),
    ],
)
def test_bad_interval(radius, center, message):
    with pytest.raises(ValueError, match=message):
        spectral.bounded_singular_values(jnp.zeros(2), radius=radius, center=center)


def test_raw_values_must_be_floating():
    with pytest.raises(ValueError, match="raw must have a floating dtype.*int"):
        spectral.bounded_singular_values(jnp.zeros(2, jnp.int32), radius=0.1)


# Values.


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_against_the_dense_matrix(shape, method):
    svd = random_svd(*shape)
    w = dense(svd)
    x, y = batch(shape[1]), batch(shape[0])

    @jax.jit
    def compute(svd, x, y):
        return (
            spectral.materialize(svd, method=method),
            spectral.apply(svd, x, method=method),
            spectral.apply_transpose(svd, y, method=method),
            spectral.pseudo_inverse_apply(svd, y, method=method),
        )

    assert svd.shape == shape[:2]
    matrix, applied, transposed, pseudo = compute(svd, x, y)
    check(matrix, w)
    check(applied, x @ w.T)
    check(transposed, y @ w)
    check(pseudo, y @ np.linalg.pinv(w).T)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SQUARE)
def test_square_values_against_numpy(shape):
    svd = random_svd(*shape)
    w, y = dense(svd), batch(shape[0])
    check(compiled(spectral.inverse_apply)(svd, y), y @ np.linalg.inv(w).T)
    sign, logabsdet = compiled(spectral.slogdet)(svd)
    expected = np.linalg.slogdet(w)
    assert sign == np.sign(expected[0])
    check(logabsdet, expected[1])
    sigma, a, c = compiled(spectral.diagonal_plus_low_rank)(svd)
    n, reflectors = shape[0], shape[2] + shape[3]
    assert a.shape == (n, reflectors) and c.shape == (reflectors, n)
    np.testing.assert_array_equal(sigma, svd.sigma)
    check(np.diag(sigma) + np.asarray(a) @ c, w)


def test_inverse_by_the_scan():
    svd, y = random_svd(5, 5, 2, 3), batch(5)
    actual = compiled(spectral.inverse_apply)(svd, y, method="scan")
    check(actual, y @ np.linalg.inv(dense(svd)).T)


def test_equal_reflectors_give_a_multiple_of_the_identity():
    vectors = random_svd(5, 5, 3, 3).u_vectors
    svd = SVD(vectors, vectors, np.full(5, 0.9))
    check(compiled(spectral.materialize)(svd), 0.9 * np.eye(5))


@pytest.mark.slow
def test_singular_values_are_the_magnitudes_of_sigma():
    for shape in [(4, 4, 2, 3), (3, 5, 3, 2)]:
        svd = random_svd(*shape)
        w = compiled(spectral.materialize)(svd)
        expected = np.sort(np.abs(svd.sigma))[::-1]
        check(np.linalg.svd(w, compute_uv=False), expected)


def test_zero_reflectors_do_not_count_in_the_determinant():
    for zeros in ([], [0], [1, 2], [0, 1, 2]):
        svd = random_svd(4, 4, 3, 2)
        svd.u_vectors[zeros] = 0
        # Zero where it counts only.
        svd.v_vectors[1, 1:] = 0
        sign, _ = compiled(spectral.slogdet)(svd)
        assert sign == np.round(np.linalg.slogdet(dense(svd))[0])


@pytest.mark.slow
def test_zero_sigma_in_slogdet_and_pseudo_inverse():
    svd = random_svd(5, 5, 2, 3)
    svd.sigma[2] = 0
    sign, logabsdet = compiled(spectral.slogdet)(svd)
    assert sign == 0 and logabsdet == -np.inf
    pseudo = compiled(spectral.pseudo_inverse_apply)(svd, batch(5))
    check(pseudo, batch(5) @ np.linalg.pinv(dense(svd)).T)

    def loss(s):
        return jnp.sum(spectral.pseudo_inverse_apply(s, jnp.ones(5)))

    gradient = jax.jit(jax.grad(loss))(svd)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert gradient.sigma[2] == 0


@pytest.mark.slow
def test_inverse_undoes_apply():
    svd, x = random_svd(4, 4, 4, 4), batch(4)
    y = compiled(spectral.apply)(svd, x)
    check(compiled(spectral.inverse_apply)(svd, y), x)
    check(compiled(spectral.pseudo_inverse_apply)(svd, y), x)


def test_inverses_are_rounded_once():
    # 1 / sigma has no place in float16, the result has.
    svd = SVD(*(jnp.asarray(a, jnp.float16) for a in (np.eye(2), np.eye(2), [1e-5, 1])))
    y = jnp.asarray([1e-4, 1], jnp.float16)
    expected = np.asarray(y, float) / np.asarray(svd.sigma, float)
    for invert in (spectral.inverse_apply, spectral.pseudo_inverse_apply):
        found = invert(svd, y)
        assert found.dtype == jnp.float16
        np.testing.assert_allclose(np.asarray(found, float), expected, rtol=1e-3)


# Parameters from a matrix.


def low_rank_matrix(n_out, n_in, rank, seed):
    random = np.random.default_rng(seed)
    return random.normal(size=(n_out, rank)) @ random.normal(size=(rank, n_in))


@pytest.mark.slow
@given(
    shape=st.sampled_from([(1, 1), (4, 4), (2, 4), (4, 2), (1, 3), (3, 1)]),
    rank=st.integers(0, 4),
    kind=st.sampled_from(["random", "rotation", "identity", "minus", "tiny", "huge"]),
    seed=st.integers(0, 3),
)
@settings(max_examples=60)
def test_any_matrix_is_rebuilt(shape, rank, kind, seed):
    # T2, and T4: min(n_out, n_in) reflectors on either side.
    w = low_rank_matrix(*shape, min(rank, *shape), seed)
    if kind == "rotation":
        # Clustered singular values.
        u, _, vt = np.linalg.svd(low_rank_matrix(*shape, min(shape), seed), False)
        w = u @ vt
    w = {
        "identity": np.eye(*shape),
        "minus": -np.eye(*shape),
        "tiny": 1e-200 * w,
        "huge": 1e200 * w,
    }.get(kind, w)
    svd = compiled(spectral.from_matrix)(w)
    k = min(shape)
    assert svd.u_vectors.shape == (k, shape[0])
    assert svd.v_vectors.shape == (k, shape[1])
    assert svd.sigma.shape == (k,) and svd.shape == shape
    assert np.all(svd.sigma >= 0) and np.all(np.diff(svd.sigma) <= 0)
    rebuilt = compiled(spectral.materialize)(svd)
    check(rebuilt, w, atol=2e-14 * max(np.max(np.abs(w)), 1e-300))


@pytest.mark.slow
def test_from_matrix_outside_of_jit_and_at_float32():
    w = low_rank_matrix(5, 4, 4, seed=0).astype(np.float32)
    svd = spectral.from_matrix(w)
    assert {leaf.dtype for leaf in jax.tree.leaves(svd)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(compiled(spectral.materialize)(svd), w, atol=1e-5)


# Derivatives.


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 3, 2, 3), (2, 3, 2, 2), (3, 2, 1, 2)])
def test_gradients_against_finite_differences(shape):
    svd, x, y = random_svd(*shape), batch(shape[1])[0], batch(shape[0])[0]
    weights = np.random.default_rng(5).normal(size=shape[:2])

    def losses(svd, x, y):
        return [
            jnp.sum(spectral.materialize(svd) * weights),
            jnp.sum(spectral.apply(svd, x) * y),
            jnp.sum(spectral.apply_transpose(svd, y) * x),
            jnp.sum(spectral.pseudo_inverse_apply(svd, y) * x),
        ]

    @jax.jit
    def compute(svd, x, y):
        _, pullback = jax.vjp(losses, svd, x, y)
        return [pullback(list(unit))[0] for unit in np.eye(4)]

    gradients = compute(svd, x, y)

    def dense_losses(svd):
        w = dense(svd)
        on_matrix, on_vectors = np.sum(w * weights), np.sum((x @ w.T) * y)
        pseudo = np.sum((y @ np.linalg.pinv(w).T) * x)
        return [on_matrix, on_vectors, on_vectors, pseudo]

    for i, gradient in enumerate(gradients):
        expected = finite_difference(lambda s, i=i: dense_losses(s)[i], svd)
        check_gradients(gradient, expected)


@pytest.mark.slow
def test_gradients_of_square_functions_against_finite_differences():
    svd, y = random_svd(4, 4, 3, 2), batch(4)[0]
    weights = np.random.default_rng(5).normal(size=(4, 4))

    def losses(svd):
        sigma, a, c = spectral.diagonal_plus_low_rank(svd)
        low_rank = jnp.diag(sigma) + jnp.matmul(a, c)
        return [
            jnp.sum(low_rank * weights),
            jnp.sum(spectral.inverse_apply(svd, y) ** 2),
            spectral.slogdet(svd)[1],
        ]

    @jax.jit
    def compute(svd):
        _, pullback = jax.vjp(losses, svd)
        return [pullback(list(unit))[0] for unit in np.eye(3)]

    def dense_losses(svd):
        w = dense(svd)
        return [
            np.sum(w * weights),
            np.sum((y @ np.linalg.inv(w).T) ** 2),
            np.linalg.slogdet(w)[1],
        ]

    for i, gradient in enumerate(compute(svd)):
        expected = finite_difference(lambda s, i=i: dense_losses(s)[i], svd)
        check_gradients(gradient, expected)


@pytest.mark.slow
def test_hessian_and_gradient_of_gradient():
    svd = random_svd(2, 3, 2, 1)

    def loss(sigma, v_vectors, custom_backward):
        parameters = SVD(svd.u_vectors, v_vectors, sigma)
        w = spectral.materialize(parameters, custom_backward=custom_backward)
        return jnp.sum(w**3)

    @jax.jit
    def compute(sigma, v_vectors):
        plain = functools.partial(loss, custom_backward=False)
        custom = functools.partial(loss, custom_backward=True)
        hessian = jax.hessian(plain, argnums=1)(sigma, v_vectors)
        gradient = jax.grad(custom, argnums=1)
        return hessian, jax.jacrev(gradient, argnums=1)(sigma, v_vectors)

    hessian, reverse = compute(jnp.asarray(svd.sigma), jnp.asarray(svd.v_vectors))
    assert np.max(np.abs(hessian)) > 0.1
    check(reverse, hessian)


# Transformations and dtypes.


def test_svd_is_a_pytree():
    svd = random_svd(3, 5, 2, 1)
    leaves, structure = jax.tree.flatten(svd)
    assert [leaf.shape for leaf in leaves] == [(2, 3), (1, 5), (3,)]
    assert isinstance(jax.tree.unflatten(structure, leaves), SVD)
    doubled = jax.jit(lambda s: jax.tree.map(lambda leaf: 2 * leaf, s))(svd)
    assert doubled.shape == (3, 5)
    check(doubled.sigma, 2 * svd.sigma)
    with pytest.raises(AttributeError):
        svd.sigma = None


@pytest.mark.slow
def test_jit_equals_eager():
    svd, x = random_svd(5, 3, 2, 3), batch(3)
    check(compiled(spectral.apply)(svd, x), spectral.apply(svd, x))


@pytest.mark.slow
def test_batch_equals_per_item():
    svd, x = random_svd(5, 3, 2, 3), batch(3)
    apply = compiled(spectral.apply)
    batched = apply(svd, x)
    assert batched.shape == (2, 3, 5)
    for i, j in np.ndindex(2, 3):
        check(batched[i, j], apply(svd, x[i, j]))


@pytest.mark.slow
def test_vmap_over_parameters_equals_a_loop():
    items = [random_svd(4, 4, 2, 3, seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *items)

    def compute(svd, x):
        return (
            spectral.apply(svd, x),
            spectral.materialize(svd),
            spectral.slogdet(svd),
            spectral.inverse_apply(svd, x),
        )

    assert stacked.shape == (4, 4)
    batched = jax.jit(jax.vmap(compute))(stacked, batch(4)[:, 0])
    for i, item in enumerate(items):
        expected = jax.jit(compute)(item, batch(4)[i, 0])
        for actual, leaf in zip(
            jax.tree.leaves(batched), jax.tree.leaves(expected), strict=True
        ):
            check(actual[i], leaf)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype, tolerance", [(jnp.bfloat16, 8e-3), (jnp.float32, 3e-6)]
)
def test_dtypes_are_kept_and_rounded_once(dtype, tolerance):
    svd = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), random_svd(9, 9, 9, 9))
    x = jnp.asarray(batch(9), dtype)
    inverse = compiled(spectral.inverse_apply)(svd, x)
    applied = compiled(spectral.apply)(svd, x)
    matrix = compiled(spectral.materialize)(svd)
    factors = compiled(spectral.diagonal_plus_low_rank)(svd)
    determinant = compiled(spectral.slogdet)(svd)
    for leaf in (inverse, applied, matrix, *factors, *determinant):
        assert leaf.dtype == dtype
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), svd)
    x = np.asarray(x, np.float64)
    for actual, expected in [
        (matrix, dense(wide)),
        (applied, x @ dense(wide).T),
        (inverse, x @ np.linalg.inv(dense(wide)).T),
    ]:
        actual = np.asarray(actual, np.float64)
        check(actual, expected, rtol=tolerance, atol=1e-5)


def test_numpy_float64_parameters_without_x64_become_float32():
    with jax.enable_x64(False):
        w = jax.eval_shape(spectral.materialize, random_svd(2, 2, 1, 1))
    assert w.dtype == jnp.float32


def test_every_matrix_product_runs_at_highest_precision():
    svd, x = random_svd(4, 4, 2, 3), batch(4)
    functions = [
        lambda svd: spectral.apply(svd, x),
        lambda svd: spectral.inverse_apply(svd, x),
        spectral.materialize,
        spectral.diagonal_plus_low_rank,
    ]
    highest = jax.lax.Precision.HIGHEST
    for f in functions:

        def loss(svd, f=f):
            return sum(jnp.sum(a) for a in jax.tree.leaves(f(svd)))

        for program in (f, jax.grad(loss)):
            precisions = oracles.dot_precisions(program, jax.tree.map(jnp.asarray, svd))
            assert precisions
            assert all(p == (highest, highest) for p in precisions)


# Bad input.


def with_leaf(name, value):
    leaves = {
        "u_vectors": np.ones((2, 3)),
        "v_vectors": np.ones((1, 4)),
        "sigma": np.ones(3),
    }
    return SVD(**{**leaves, name: value})


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("u_vectors", np.ones(3), "u_vectors must have shape"),
        ("u_vectors", np.ones((4, 3)), "u_vectors must have at most n = 3 rows.*m = 4"),
        ("v_vectors", np.ones((5, 4)), "v_vectors must have at most n = 4 rows"),
        ("v_vectors", np.ones((1, 4), np.int32), "v_vectors must have a floating"),
        ("sigma", np.ones(4), r"sigma must have shape \(3,\).*got \(4,\)"),
        ("sigma", np.ones((3, 1)), r"sigma must have shape \(3,\)"),
        ("sigma", np.ones(3, np.complex128), "sigma must have a floating dtype"),
    ],
)
def test_bad_parameters(name, value, message):
    svd = with_leaf(name, value)
    for f in (
        spectral.materialize,
        spectral.slogdet,
        spectral.diagonal_plus_low_rank,
        lambda svd: spectral.apply(svd, np.ones(4)),
        lambda svd: spectral.apply_transpose(svd, np.ones(3)),
        lambda svd: spectral.inverse_apply(svd, np.ones(3)),
        lambda svd: spectral.pseudo_inverse_apply(svd, np.ones(3)),
    ):
        with pytest.raises(ValueError, match=message):
            f(svd)


def test_bad_vectors():
    svd = random_svd(3, 4, 2, 1)
    for f, name, size in [
        (spectral.apply, "x", 4),
        (spectral.apply_transpose, "y", 3),
        (spectral.pseudo_inverse_apply, "y", 3),
    ]:
        message = rf"{name} must have shape \(..., {size}\), got \({size + 1},\)"
        with pytest.raises(ValueError, match=message):
            f(svd, np.ones(size + 1))
        with pytest.raises(ValueError, match=f"{name} must have a floating dtype"):
            f(svd, np.ones(size, np.int32))
        with pytest.raises(ValueError, match=rf"{name} must have shape"):
            f(svd, np.float64(1))


def test_square_functions_refuse_other_shapes():
    svd = random_svd(3, 4, 2, 1)
    for f in (
        spectral.slogdet,
        spectral.diagonal_plus_low_rank,
        lambda svd: spectral.inverse_apply(svd, np.ones(3)),
    ):
        with pytest.raises(ValueError, match=r"square matrix, got shape \(3, 4\)"):
            f(svd)


def test_inverse_refuses_a_zero_sigma():
    svd = random_svd(3, 3, 1, 1)
    svd.sigma[1] = 0
    with pytest.raises(ValueError, match="non-zero sigma, got 0 at index 1"):
        spectral.inverse_apply(svd, np.ones(3))
    # Not known under jit: the result shows it.
    assert not np.all(np.isfinite(compiled(spectral.inverse_apply)(svd, np.ones(3))))


def test_unknown_method():
    svd = random_svd(3, 3, 1, 1)
    for f in (
        functools.partial(spectral.materialize, svd),
        functools.partial(spectral.apply, svd, np.ones(3)),
        functools.partial(spectral.inverse_apply, svd, np.ones(3)),
    ):
        with pytest.raises(ValueError, match="method must be one of"):
            f(method="dense")


@pytest.mark.parametrize(
    "w, message",
    [
        (np.ones(3), "w must be a matrix"),
        (np.ones((2, 3, 4)), "w must be a matrix"),
        (np.ones((0, 3)), "w must be a matrix"),
        (np.ones((2, 2), np.int32), "w must have a floating dtype"),
        (np.array([[1.0, np.nan]]), "w must be finite"),
        (np.array([[1.0], [np.inf]]), "w must be finite"),
    ],
)
def test_bad_matrix(w, message):
    with pytest.raises(ValueError, match=message):
        spectral.from_matrix(w)
