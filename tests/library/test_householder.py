"""Products of reflectors against a dense numpy oracle, in float64 unless named."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from svdrnn import householder
from svdrnn.householder import (
    apply_reflectors,
    orthogonal_matrix,
    paired_reflectors,
    reflectors_from_orthogonal,
    signed_reflectors,
    wy_factors,
)
from tests import oracles
from tests.oracles import finite_difference, reflector_product

pytestmark = pytest.mark.usefixtures("x64", "strict")

METHODS = ("scan", "wy")
HARD = ("scan", "wy_in_blocks")
OPTIONS = ("method", "transpose", "custom_backward")


def random_vectors(m, n, seed=0):
    return np.random.default_rng(seed).normal(size=(m, n))


def random_orthogonal(n, determinant, seed=0):
    q, _ = np.linalg.qr(random_vectors(n, n, seed))
    q[:, 0] *= determinant * np.sign(np.linalg.det(q))
    return q


@functools.cache
def compiled(f, block=64):
    """f compiled once a shape and block size, shared by all tests."""

    def fresh(*args, **options):
        return f(*args, **options)

    return jax.jit(fresh, static_argnames=OPTIONS)


@pytest.fixture(params=["scan", "wy", "wy_in_blocks"])
def method(request, monkeypatch):
    """Every way to compute, with several blocks of reflectors at small shapes too."""
    if request.param == "wy_in_blocks":
        monkeypatch.setattr(householder, "_MIN_BLOCK", 2)
        return "wy"
    return request.param


def every_value(vectors, x):
    """Q, Q x and Q^T x by every method."""
    return [
        (
            orthogonal_matrix(vectors, method=method),
            apply_reflectors(vectors, x, method=method),
            apply_reflectors(vectors, x, transpose=True, method=method),
        )
        for method in METHODS
    ]


# Values.


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 2, 64])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 3), (4, 6), (5, 5)])
def test_values_against_dense_product(shape, block, monkeypatch):
    monkeypatch.setattr(householder, "_MIN_BLOCK", block)
    vectors, x = random_vectors(*shape), random_vectors(2, shape[1], seed=1)
    q = reflector_product(vectors)
    check = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-13)
    for matrix, forward, transposed in compiled(every_value, block)(vectors, x):
        check(matrix, q)
        check(forward, x @ q.T)
        check(transposed, x @ q)


def test_auto_is_the_default_and_equals_wy():
    vectors, x = random_vectors(3, 5), random_vectors(2, 5, seed=1)
    for f, args in [(orthogonal_matrix, (vectors,)), (apply_reflectors, (vectors, x))]:
        default, auto, wy, scan = (
            jax.jit(functools.partial(f, **options)).lower(*args).as_text()
            for options in [{}] + [{"method": m} for m in ("auto", "wy", "scan")]
        )
        assert default == auto == wy != scan


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(70, 70), (130, 140)])
def test_values_at_several_blocks_and_odd_sizes(shape):
    vectors = random_vectors(*shape)
    x = random_vectors(3, shape[1], seed=1)
    q = reflector_product(vectors)
    check = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
    check(compiled(orthogonal_matrix)(vectors), q)
    check(compiled(apply_reflectors)(vectors, x), x @ q.T)
    check(compiled(apply_reflectors)(vectors, x, transpose=True), x @ q)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_reflectors_against_a_loop(method):
    vectors, x = random_vectors(4, 6), random_vectors(1, 6, seed=1)[0]
    for transpose in (False, True):
        y = x.copy()
        for i in range(4) if transpose else reversed(range(4)):
            u = vectors[i].copy()
            u[:i] = 0
            y = y - 2 * u * (u @ y) / (u @ u)
        apply = compiled(apply_reflectors)
        actual = apply(vectors, x, transpose=transpose, method=method)
        np.testing.assert_allclose(actual, y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_narrow_vectors_are_widened_before_they_are_scaled(method):
    vectors = random_vectors(3, 6).astype(np.float32)
    x = random_vectors(1, 6, seed=1)[0]
    with jax.numpy_dtype_promotion("standard"):
        found = apply_reflectors(vectors, x, method=method)
    assert found.dtype == jnp.float64
    expected = apply_reflectors(vectors.astype(np.float64), x, method=method)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_first_row_is_the_first_factor():
    # H_0 with u = e_0 + e_1 swaps the first two coordinates with a minus; H_1 with
    # u = e_1 changes the sign of the second. They do not commute.
    vectors = np.array([[1.0, 1.0], [0.0, 1.0]])
    expected = np.array([[0.0, 1.0], [-1.0, 0.0]])
    for method in METHODS:
        actual = orthogonal_matrix(vectors, method=method)
        np.testing.assert_allclose(actual, expected, atol=1e-15)


@pytest.mark.slow
def test_wy_factors_give_the_product():
    for m, n in [(0, 4), (1, 1), (5, 8), (70, 75)]:
        vectors = random_vectors(m, n)
        rows, t = map(np.asarray, compiled(wy_factors)(vectors))
        assert rows.shape == (m, n) and t.shape == (m, m)
        np.testing.assert_array_equal(t, np.triu(t))
        np.testing.assert_array_equal(rows, np.triu(rows))
        np.testing.assert_allclose(np.sum(np.square(rows), axis=1), 1, atol=1e-14)
        actual = np.eye(n) - rows.T @ t @ rows
        np.testing.assert_allclose(actual, reflector_product(vectors), atol=1e-13)


def test_wy_triangular_factor_stays_small_for_nearly_equal_rows():
    # Its inverse has a condition that grows with m here; t itself is at most 4.
    vectors = np.ones((40, 200)) + 1e-9 * random_vectors(40, 200)
    rows, t = map(np.asarray, compiled(wy_factors)(vectors))
    assert np.max(np.abs(t)) <= 4 + 1e-10
    actual = np.eye(200) - rows.T @ t @ rows
    np.testing.assert_allclose(actual, reflector_product(vectors), atol=1e-12)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=40)
def test_orthogonal_with_known_determinant_at_any_shape(data):
    shapes = [(0, 1), (1, 1), (0, 3), (1, 3), (2, 3), (3, 3), (5, 5)]
    m, n = data.draw(st.sampled_from(shapes))
    rows = st.sampled_from(["random", "zero", "tiny", "huge", "unit", "below"])
    vectors = np.zeros((m, n))
    for i in range(m):
        kind = data.draw(rows)
        row = np.random.default_rng(i).normal(size=n)
        if kind == "unit":
            row = np.eye(n)[data.draw(st.integers(i, n - 1))]
        scale = {"zero": 0.0, "tiny": 1e-300, "huge": 1e300}.get(kind, 1.0)
        vectors[i] = scale * row
        if kind == "below":
            # Zero inside the trapezoid, which is what counts.
            vectors[i, i:] = 0
    nonzero = np.count_nonzero(np.any(np.triu(vectors) != 0, axis=1))
    x = random_vectors(2, n, seed=1)

    expected = reflector_product(vectors)
    for q, y, z in compiled(every_value)(vectors, x):
        np.testing.assert_allclose(q, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(q.T @ q, np.eye(n), rtol=0, atol=1e-12)
        np.testing.assert_allclose(y, x @ expected.T, rtol=0, atol=1e-12)
        np.testing.assert_allclose(z, x @ expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(q), (-1) ** nonzero, atol=1e-10)


@pytest.mark.slow
def test_float32_stays_orthogonal_at_a_large_size():
    vectors = random_vectors(512, 512).astype(np.float32)
    q = jax.jit(orthogonal_matrix)(vectors)
    assert q.dtype == jnp.float32
    q = np.asarray(q, np.float64)
    assert np.max(np.abs(q.T @ q - np.eye(512))) < 3e-6
    assert np.max(np.abs(q - reflector_product(vectors))) < 3e-6


# What does not matter, and degenerate rows.


@pytest.mark.slow
def test_values_below_the_trapezoid_do_not_matter(method):
    vectors = random_vectors(5, 6)
    other = np.triu(vectors) + np.tril(random_vectors(5, 6, seed=3) * 1e3, -1)
    x = random_vectors(2, 6, seed=1)

    @jax.jit
    def compute(vectors):
        def loss(v):
            return jnp.sum(orthogonal_matrix(v, method=method) ** 3) + jnp.sum(
                apply_reflectors(v, x, method=method) ** 3
            )

        return jax.value_and_grad(loss)(vectors)

    value, gradient = compute(vectors)
    value_other, gradient_other = compute(other)
    assert value == value_other
    np.testing.assert_array_equal(gradient, gradient_other)
    np.testing.assert_array_equal(np.tril(gradient, -1), 0)
    assert np.all(np.triu(gradient)[np.triu_indices(5)] != 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", HARD, indirect=True)
def test_zero_row_is_identity_with_zero_gradients_of_any_order(method):
    row = np.array([0, 2])
    vectors = random_vectors(3, 3)
    vectors[row] = 0
    x = random_vectors(1, 3, seed=1)

    def loss(vectors):
        y = apply_reflectors(vectors, x, method=method)
        q = orthogonal_matrix(vectors, method=method, custom_backward=False)
        return jnp.sum(y**3) + jnp.sum(q**3)

    def reverse(vectors):
        gradient = jax.grad(lambda v: jnp.sum(orthogonal_matrix(v, method=method) ** 3))
        return jax.grad(lambda v: jnp.sum(gradient(v) ** 2))(vectors)

    compute = jax.jit(lambda v: (jax.grad(loss)(v), jax.hessian(loss)(v), reverse(v)))
    gradient, hessian, second = compute(vectors)
    expected = reflector_product(vectors)
    actual = jax.jit(functools.partial(orthogonal_matrix, method=method))(vectors)
    np.testing.assert_allclose(actual, expected, atol=1e-14)
    assert all(np.all(np.isfinite(a)) for a in (gradient, hessian, second))
    np.testing.assert_array_equal(gradient[row], 0)
    np.testing.assert_array_equal(hessian[row], 0)
    np.testing.assert_array_equal(hessian[:, :, row], 0)
    np.testing.assert_array_equal(second[row], 0)
    assert np.any(gradient != 0) and np.any(second != 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "dtype, scales",
    [(np.float32, (1e-36, 1e36)), (np.float64, (1e-300, 1e300))],
)
def test_length_of_a_row_does_not_matter(method, dtype, scales):
    vectors = random_vectors(4, 5).astype(dtype)
    compute = jax.jit(
        jax.value_and_grad(
            lambda v: jnp.sum(
                orthogonal_matrix(v, method=method) * jnp.asarray(weights)
            )
        )
    )
    weights = random_vectors(5, 5, seed=2).astype(dtype)
    value, gradient = compute(vectors)
    for scale in scales:
        scaled_value, scaled_gradient = compute(vectors * dtype(scale))
        tolerance = 20 * np.finfo(dtype).eps
        np.testing.assert_allclose(scaled_value, value, rtol=tolerance)
        # The gradient is inversely proportional to the length.
        np.testing.assert_allclose(
            np.asarray(scaled_gradient, np.float64) * scale,
            gradient,
            rtol=0,
            atol=tolerance * np.max(np.abs(gradient)),
        )


def test_subnormal_row_counts_as_zero():
    vectors = np.full((1, 3), 1e-310)
    actual = compiled(orthogonal_matrix)(vectors)
    np.testing.assert_array_equal(actual, np.eye(3))


def test_nan_is_not_hidden():
    vectors = random_vectors(2, 3)
    vectors[1, 2] = np.nan
    for method in METHODS:
        q = compiled(orthogonal_matrix)(vectors, method=method)
        assert np.all(np.any(np.isnan(q), axis=0)[1:])


# Derivatives.


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 5), (4, 4)])
def test_gradients_against_finite_differences(method, shape):
    vectors, n = random_vectors(*shape), shape[1]
    x, weights = random_vectors(3, n, seed=1), random_vectors(3, n, seed=2)
    square = random_vectors(n, n, seed=3)

    @jax.jit
    def compute(vectors, x):
        def apply(v, x, transpose):
            return jnp.sum(
                apply_reflectors(v, x, transpose=transpose, method=method) * weights
            )

        def matrix(v, custom):
            return jnp.sum(
                orthogonal_matrix(v, method=method, custom_backward=custom) * square
            )

        return (
            jax.grad(apply, argnums=(0, 1))(vectors, x, False),
            jax.grad(apply, argnums=(0, 1))(vectors, x, True),
            jax.grad(matrix)(vectors, True),
            jax.grad(matrix)(vectors, False),
        )

    forward, transposed, custom, plain = compute(vectors, x)
    q = reflector_product(vectors)
    check = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)
    for (to_vectors, to_x), matrix in [
        (forward, lambda v: reflector_product(v).T),
        (transposed, reflector_product),
    ]:

        def loss(v):
            return np.sum((x @ matrix(v)) * weights)

        check(to_vectors, finite_difference(loss, vectors))
        np.testing.assert_allclose(to_x, weights @ matrix(vectors).T, atol=1e-13)
    expected = finite_difference(
        lambda v: np.sum(reflector_product(v) * square), vectors
    )
    check(custom, expected)
    check(plain, expected)
    np.testing.assert_allclose(custom, plain, rtol=0, atol=1e-12)
    assert q.shape == (n, n)


@pytest.mark.slow
def test_gradient_of_several_real_blocks_equals_the_scan():
    vectors, weights = random_vectors(130, 140), random_vectors(140, 140, seed=1)

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def gradient(vectors, method, custom):
        def loss(v):
            return jnp.sum(
                orthogonal_matrix(v, method=method, custom_backward=custom) * weights
            )

        return jax.grad(loss)(vectors)

    expected = gradient(vectors, "scan", True)
    for custom in (True, False):
        actual = gradient(vectors, "wy", custom)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)


def test_gradient_to_a_reflector_ends_in_plus_4ab_u():
    u, h, g = random_vectors(3, 6)
    a, b = u @ h / (u @ u), u @ g / (u @ u)
    expected = -2 * a * g - 2 * b * h + 4 * a * b * u

    def loss(u):
        return g @ (reflector_product(u[None]) @ h)

    np.testing.assert_allclose(finite_difference(loss, u), expected, atol=1e-8)
    for method in ("scan", "wy"):

        def loss(u):
            return jnp.sum(g * apply_reflectors(u[None], h, method=method))

        actual = jax.jit(jax.grad(loss))(u)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", HARD, indirect=True)
def test_gradient_of_gradient_and_forward_mode(method):
    vectors, weights = random_vectors(3, 3), random_vectors(3, 3, seed=1)
    direction = random_vectors(3, 3, seed=2)

    def loss(vectors, custom_backward):
        q = orthogonal_matrix(vectors, method=method, custom_backward=custom_backward)
        return jnp.sum(q**3 * weights)

    custom = functools.partial(loss, custom_backward=True)
    plain = functools.partial(loss, custom_backward=False)

    def along(v):
        return jnp.sum(jax.grad(custom)(v) * direction)

    @jax.jit
    def compute(v):
        return jax.grad(along)(v), jax.hessian(plain)(v)

    second, hessian = compute(jnp.asarray(vectors))
    gradient = jax.jit(jax.grad(custom))
    expected = finite_difference(
        lambda v: np.sum(gradient(v) * direction), vectors, step=1e-5
    )
    np.testing.assert_allclose(second, expected, rtol=1e-6, atol=1e-7)
    product = np.einsum("ijkl,kl->ij", hessian, direction)
    np.testing.assert_allclose(second, product, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_third_derivative_through_the_custom_backward_pass():
    vectors, direction = random_vectors(2, 3), random_vectors(2, 3, seed=2)

    def along(f):
        return lambda v: jnp.sum(jax.grad(f)(v) * direction)

    def third(method):
        def loss(v):
            return orthogonal_matrix(v, method=method)[0, 1] ** 3

        return jax.jit(jax.grad(along(along(loss))))(vectors)

    expected = np.asarray(third("scan"))
    tolerance = 1e-11 * np.max(np.abs(expected))
    np.testing.assert_allclose(third("wy"), expected, rtol=0, atol=tolerance)


def test_forward_mode_needs_the_plain_backward_pass():
    vectors = jnp.asarray(random_vectors(2, 2))
    with pytest.raises(TypeError, match="pass custom_backward=False"):
        jax.jvp(orthogonal_matrix, (vectors,), (vectors,))


@pytest.mark.slow
@pytest.mark.parametrize("method", HARD, indirect=True)
def test_apply_has_forward_mode_and_hessian(method):
    vectors, x = random_vectors(3, 3), random_vectors(1, 3, seed=1)

    def loss(v):
        return jnp.sum(apply_reflectors(v, x, method=method) ** 3)

    hessian = jax.jit(jax.hessian(loss))(vectors)
    gradient = jax.jit(jax.grad(loss))
    direction = random_vectors(3, 3, seed=2)
    expected = finite_difference(
        lambda v: np.sum(gradient(v) * direction), vectors, step=1e-5
    )
    product = np.einsum("ijkl,kl->ij", hessian, direction)
    np.testing.assert_allclose(product, expected, rtol=1e-6, atol=1e-7)


# Transformations, batches, dtypes.


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_batch_equals_per_item(method):
    vectors, x = random_vectors(3, 5), random_vectors(12, 5, seed=1).reshape(2, 6, 5)
    apply = compiled(apply_reflectors)
    batched = apply(vectors, x, method=method)
    assert batched.shape == x.shape
    for i, j in np.ndindex(2, 6):
        item = apply(vectors, x[i, j], method=method)
        assert item.shape == (5,)
        np.testing.assert_allclose(batched[i, j], item, rtol=0, atol=1e-14)
    empty = apply(vectors, x[:0], method=method)
    assert empty.shape == (0, 6, 5)


@pytest.mark.slow
@pytest.mark.parametrize("method", HARD, indirect=True)
def test_vmap_over_vectors_equals_a_loop(method):
    vectors = random_vectors(6, 4).reshape(2, 3, 4)
    x = random_vectors(2, 4, seed=1)
    weights = random_vectors(4, 4, seed=2)

    def compute(vectors, x):
        matrix = functools.partial(orthogonal_matrix, method=method)
        gradient = jax.grad(lambda v: jnp.sum(matrix(v) * weights))
        applied = apply_reflectors(vectors, x, method=method)
        return applied, matrix(vectors), gradient(vectors)

    batched = jax.jit(jax.vmap(compute))(vectors, x)
    compute = jax.jit(compute)
    for i in range(2):
        for actual, item in zip(batched, compute(vectors[i], x[i]), strict=True):
            np.testing.assert_allclose(actual[i], item, rtol=0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_jit_equals_eager(method):
    vectors, x = random_vectors(3, 5), random_vectors(2, 5, seed=1)
    check = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-14)
    for f, args in [(orthogonal_matrix, (vectors,)), (apply_reflectors, (vectors, x))]:
        check(compiled(f)(*args, method=method), f(*args, method=method))


def test_jit_equals_eager_for_the_inverse():
    q = random_orthogonal(9, 1)
    np.testing.assert_allclose(
        compiled(reflectors_from_orthogonal)(q),
        reflectors_from_orthogonal(q),
        rtol=0,
        atol=1e-14,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, dtype, tolerance",
    [
        ("scan", jnp.bfloat16, 8e-3),
        ("wy", jnp.bfloat16, 8e-3),
        ("wy", jnp.float16, 1e-3),
        ("wy", jnp.float32, 1e-6),
    ],
)
def test_dtypes_are_kept_and_computed_in_float32_at_least(method, dtype, tolerance):
    vectors = jnp.asarray(random_vectors(20, 24), dtype)
    x = jnp.asarray(random_vectors(2, 24, seed=1), dtype)

    @jax.jit
    def compute(vectors, x):
        matrix = functools.partial(orthogonal_matrix, method=method)
        gradient = jax.grad(lambda v: jnp.sum(matrix(v)[0].astype(jnp.float32)))
        y = apply_reflectors(vectors, x, method=method)
        return matrix(vectors), y, gradient(vectors), wy_factors(vectors)

    q, y, gradient, factors = compute(vectors, x)
    assert q.dtype == y.dtype == gradient.dtype == dtype
    wide, x = np.asarray(vectors, np.float64), np.asarray(x, np.float64)
    expected = reflector_product(wide)
    # One rounding, whatever the number of reflectors.
    np.testing.assert_allclose(
        np.asarray(q, np.float64), expected, rtol=tolerance, atol=1e-6
    )
    np.testing.assert_allclose(
        np.asarray(y, np.float64), x @ expected.T, rtol=tolerance, atol=5e-6
    )
    assert all(a.dtype == jnp.float32 for a in factors)


@pytest.mark.slow
def test_every_matrix_product_runs_at_highest_precision(method):
    vectors, x = jnp.asarray(random_vectors(5, 6)), jnp.asarray(random_vectors(2, 6))

    def matrix(v):
        return jnp.sum(orthogonal_matrix(v, method=method) ** 2)

    def apply(v, x):
        return jnp.sum(apply_reflectors(v, x, method=method) ** 2)

    programs = [
        (matrix, vectors),
        (jax.grad(matrix), vectors),
        (jax.grad(lambda v: jnp.sum(jax.grad(matrix)(v) ** 2)), vectors),
        (apply, vectors, x),
        (jax.grad(apply, argnums=(0, 1)), vectors, x),
        (wy_factors, vectors),
        (reflectors_from_orthogonal, jnp.eye(6)),
    ]
    highest = jax.lax.Precision.HIGHEST
    for program in programs:
        precisions = oracles.dot_precisions(*program)
        assert precisions
        assert all(p == (highest, highest) for p in precisions)


# The inverse map, and what reflectors can reach.


def skew(n, size):
    a = random_vectors(n, n)
    return size * (a - a.T)


ORTHOGONAL = {
    "random": random_orthogonal(9, 1),
    "reflection": random_orthogonal(9, -1),
    "identity": np.eye(9),
    "minus_identity": -np.eye(9),
    "permutation": np.eye(9)[np.random.default_rng(0).permutation(9)],
    "reversed": np.eye(9)[::-1].copy(),
    "signs": np.diag(np.sign(random_vectors(9, 9)[0])),
    "near_identity_8": scipy.linalg.expm(skew(9, 1e-8)),
    "near_identity_12": scipy.linalg.expm(skew(9, 1e-12)),
    "near_identity_160": np.eye(9) + skew(9, 1e-160),
    "near_minus_identity": -scipy.linalg.expm(skew(9, 1e-8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORTHOGONAL)
@pytest.mark.parametrize("columns", ["all", "some", "none"])
def test_reflectors_from_orthogonal_is_the_inverse(name, columns):
    n, p = 9, {"all": 9, "some": 4, "none": 0}[columns]
    q = ORTHOGONAL[name][:, :p]
    vectors = compiled(reflectors_from_orthogonal)(q)
    assert vectors.shape == (p, n) and vectors.dtype == jnp.float64
    # T1: n reflectors reach every orthogonal matrix.
    rebuilt = reflector_product(vectors)
    np.testing.assert_allclose(rebuilt[:, :p], q, rtol=0, atol=1e-12)
    rebuilt = compiled(orthogonal_matrix)(vectors)
    np.testing.assert_allclose(rebuilt[:, :p], q, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(vectors, np.triu(vectors))
    lengths = np.sum(np.square(vectors), axis=1)
    assert np.all((lengths == 0) | (np.abs(lengths - 1) < 1e-14))
    if p == n:
        nonzero = np.count_nonzero(lengths)
        np.testing.assert_allclose(np.linalg.det(q), (-1) ** nonzero, atol=1e-10)


def test_reflectors_near_the_identity_keep_the_small_part():
    # Relative to the small rotation, not only to one.
    generator = skew(9, 1e-8)
    inverse = compiled(reflectors_from_orthogonal)
    rebuilt = compiled(orthogonal_matrix)(inverse(scipy.linalg.expm(generator)))
    np.testing.assert_allclose(rebuilt - np.eye(9), generator, rtol=0, atol=2e-15)
    np.testing.assert_array_equal(inverse(np.eye(9)), 0)


@pytest.mark.parametrize("name", ORTHOGONAL)
@pytest.mark.parametrize("columns", [9, 4])
def test_signed_reflectors_turn_well(name, columns):
    q = ORTHOGONAL[name][:, :columns]
    vectors, signs = compiled(signed_reflectors)(q)
    rebuilt = reflector_product(vectors)[:, :columns] * np.asarray(signs)
    np.testing.assert_allclose(rebuilt, q, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(np.abs(signs), 1)
    np.testing.assert_array_equal(vectors, np.triu(vectors))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-14)
    assert np.max(np.diagonal(vectors)) <= -np.sqrt(0.5) + 1e-14


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_paired_reflectors_are_not_zero(name):
    n, sigma = 9, np.arange(1.0, 10.0)
    for p, others in ((n, ORTHOGONAL.values()), (4, [np.eye(4), -np.eye(4)])):
        for v in others:
            u = ORTHOGONAL[name][:, :p]
            rows = compiled(paired_reflectors)(u, v)
            expected = (u * sigma[:p]) @ v.T
            found = oracles.svd_matrix(*rows, sigma[:p])
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
            for vectors in rows:
                np.testing.assert_array_equal(vectors, np.triu(vectors))
                # The last row of a square factor is a sign, and zero where it is plus.
                last = p - 1 if p == vectors.shape[1] else p
                lengths = np.linalg.norm(vectors[:last], axis=1)
                np.testing.assert_allclose(lengths, 1, atol=1e-14)


def test_paired_reflectors_keep_the_signs_of_most():
    # As each alone, where no column is in place.
    u, v = random_orthogonal(6, 1), random_orthogonal(6, -1)
    inverse = compiled(reflectors_from_orthogonal)
    for rows, q in zip(compiled(paired_reflectors)(u, v), (u, v), strict=True):
        np.testing.assert_allclose(rows, inverse(q), rtol=0, atol=1e-14)


def test_inverse_at_a_larger_size():
    vectors = random_vectors(60, 60)
    q = compiled(orthogonal_matrix)(vectors)
    again = compiled(reflectors_from_orthogonal)(q)
    np.testing.assert_allclose(reflector_product(again), q, rtol=0, atol=1e-12)


def test_inverse_returns_the_directions():
    # The signs are free.
    rows = np.triu(random_vectors(5, 9))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    again = compiled(reflectors_from_orthogonal)(reflector_product(rows)[:, :5])
    cosines = np.abs(np.sum(np.asarray(again) * rows, axis=1))
    np.testing.assert_allclose(cosines, 1, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_inverse_keeps_the_dtype(dtype):
    q = jnp.asarray(random_orthogonal(8, 1), dtype)
    vectors = compiled(reflectors_from_orthogonal)(q)
    assert vectors.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(compiled(orthogonal_matrix)(vectors), np.float64),
        np.asarray(q, np.float64),
        atol=8 * float(jnp.finfo(dtype).eps),
    )


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("m1", [0, 2, 6])
def test_two_factors_with_n_reflectors_together_cover_the_group(m1, determinant):
    # T3. q = H_0 ... H_{n-1}: the first m1 are U. The rest, transposed, is again a
    # product of n - m1 reflectors of the last n - m1 coordinates: that is V.
    n = 6
    q = random_orthogonal(n, determinant)
    inverse = compiled(reflectors_from_orthogonal)
    u_vectors = np.asarray(inverse(q))[:m1]
    rest = (q.T @ reflector_product(u_vectors))[m1:, m1:]
    v_vectors = np.zeros((n - m1, n))
    if m1 < n:
        v_vectors[:, m1:] = inverse(rest)
    assert u_vectors.shape[0] + v_vectors.shape[0] == n
    w = reflector_product(u_vectors) @ reflector_product(v_vectors).T
    np.testing.assert_allclose(w, q, rtol=0, atol=1e-12)


# Bad input.


VECTORS = np.ones((2, 3))


@pytest.mark.parametrize(
    "vectors, message",
    [
        (np.ones(3), "vectors must have shape"),
        (np.ones((1, 2, 3)), "vectors must have shape"),
        (np.ones((4, 3)), "at most n = 3 rows"),
        (np.ones((0, 0)), "at least one column"),
        (np.ones((2, 3), np.int32), "vectors must have a floating dtype"),
        (np.ones((2, 3), np.complex128), "vectors must have a floating dtype"),
    ],
)
def test_bad_vectors(vectors, message):
    for f in (
        orthogonal_matrix,
        wy_factors,
        lambda v: apply_reflectors(v, np.ones(3)),
    ):
        with pytest.raises(ValueError, match=message):
            f(vectors)


def test_bad_pairs():
    with pytest.raises(ValueError, match=r"v must have as many columns as u, 3, got"):
        paired_reflectors(np.eye(3), np.eye(3)[:, :2])
    with pytest.raises(ValueError, match="v must have orthonormal columns"):
        paired_reflectors(np.eye(3), np.ones((3, 3)))


@pytest.mark.parametrize(
    "x, message",
    [
        (np.ones(4), r"x must have shape \(..., 3\).*\(4,\)"),
        (np.ones((3, 2)), r"x must have shape \(..., 3\)"),
        (np.float64(1.0), r"x must have shape \(..., 3\)"),
        (np.ones(3, np.int32), "x must have a floating dtype"),
    ],
)
def test_bad_x(x, message):
    with pytest.raises(ValueError, match=message):
        apply_reflectors(VECTORS, x)
    with pytest.raises(ValueError, match=message):
        jax.jit(apply_reflectors)(VECTORS, x)


def test_unknown_method():
    for f in (
        functools.partial(orthogonal_matrix, VECTORS),
        functools.partial(apply_reflectors, VECTORS, np.ones(3)),
    ):
        with pytest.raises(ValueError, match="one of auto, scan, wy, got 'qr'"):
            f(method="qr")


@pytest.mark.parametrize(
    "q, message",
    [
        (np.ones(3), "q must have shape"),
        (np.eye(3)[:2], "q must have shape"),
        (np.ones((0, 0)), "q must have shape"),
        (np.eye(3, dtype=np.int32), "q must have a floating dtype"),
        (np.full((3, 3), np.nan), "q must be finite"),
        (np.diag([1.0, np.inf, 1.0]), "q must be finite"),
        (np.eye(3) * (1 + 1e-6), "q must have orthonormal columns"),
        (np.ones((3, 2)), "q must have orthonormal columns"),
    ],
)
def test_bad_orthogonal(q, message):
    with pytest.raises(ValueError, match=message):
        reflectors_from_orthogonal(q)


def test_orthonormality_is_judged_by_the_dtype():
    slightly_off = np.eye(3) * (1 + 1e-6)
    reflectors_from_orthogonal(slightly_off.astype(np.float32))
    with pytest.raises(ValueError, match="float32"):
        reflectors_from_orthogonal((np.eye(3) * 1.01).astype(np.float32))


def test_mixed_dtypes_follow_the_promotion_setting():
    x = jnp.ones(3, jnp.bfloat16)
    with pytest.raises(ValueError, match="promotion"):
        apply_reflectors(jnp.asarray(VECTORS, jnp.float32), x)
    with jax.numpy_dtype_promotion("standard"):
        y = jax.eval_shape(apply_reflectors, jnp.asarray(VECTORS, jnp.float32), x)
    assert y.dtype == jnp.float32
