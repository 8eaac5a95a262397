"""Parameterizations of W: how many reflectors, initial values, forms, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import svdrnn
from svdrnn import initializers, skew, transitions
from svdrnn.matrices import (
    DenseMatrix,
    OrthogonalMatrix,
    SpectralMatrix,
    reflector_counts,
)
from tests import oracles


def spectral_matrix(n_in=6, n_out=6, *, seed=0, **options):
    options = {"reflectors": 3, "radius": 0.25, **options}
    return SpectralMatrix(n_in, n_out, rngs=nnx.Rngs(seed), **options)


def numpy_matrix(weight):
    """W of a SpectralMatrix from its parameters, without the library's products."""
    vectors = weight.u_vectors[...], weight.v_vectors[...]
    return oracles.svd_matrix(*vectors, np.asarray(weight.sigma(), np.float64))


def rows_of_the_transition(weight, method):
    """W e_i for every i, by the form of the method."""

    def rows(weight):
        return weight.transition(method).apply(np.eye(weight.n_in), None)[0]

    return oracles.jit(rows)(weight)


def matrix_with(sigma, n_out=4, n_in=4, seed=0):
    """A float64 matrix with the given singular values."""
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(n_out, n_out)))
    v, _ = np.linalg.qr(rng.normal(size=(n_in, n_in)))
    k = len(sigma)
    return u[:, :k] * np.asarray(sigma) @ v[:, :k].T


# Numbers of reflectors.


@pytest.mark.parametrize(
    ("reflectors", "shape", "expected"),
    [
        (3, (5, 5), (3, 3)),
        (1, (1, 1), (1, 1)),
        (9, (5, 4), (4, 4)),
        (9, (4, 5), (4, 4)),
        (5, (5, 4), (4, 4)),
        (None, (5, 5), (5, 5)),
        (None, (3, 7), (3, 3)),
        (None, (7, 3), (3, 3)),
        ((5, 4), (5, 4), (5, 4)),
        ([2, 1], (5, 4), (2, 1)),
        # A pair is literal: on the larger side it may be more than is needed.
        ((7, 3), (7, 3), (7, 3)),
    ],
)
def test_reflector_counts(reflectors, shape, expected):
    assert reflector_counts(reflectors, *shape) == expected


@pytest.mark.parametrize(
    ("reflectors", "message"),
    [
        (0, "reflectors must be an integer of at least 1, got 0"),
        (-2, "reflectors must be an integer of at least 1, got -2"),
        (2.0, "reflectors must be an integer of at least 1, got 2.0"),
        (True, "reflectors must be an integer of at least 1, got True"),
        ("full", "reflectors must be an integer of at least 1, got 'full'"),
        ((6, 1), "reflectors of U must be at most 5, .*, got 6"),
        ((1, 5), "reflectors of V must be at most 4, .*, got 5"),
        ((0, 1), "reflectors of U must be an integer of at least 1, got 0"),
        ((1, None), "reflectors of V must be an integer of at least 1, got None"),
        ((1, 2, 3), r"reflectors must be a number, a pair or None, got \(1, 2, 3\)"),
        ((1,), r"reflectors must be a number, a pair or None, got \(1,\)"),
    ],
)
def test_bad_reflectors(reflectors, message):
    with pytest.raises(ValueError, match=message):
        reflector_counts(reflectors, 5, 4)
    with pytest.raises(ValueError, match=message):
        spectral_matrix(4, 5, reflectors=reflectors)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # The paper's count, SPEC: (n_o + n_i + m1 + m2 + 2) n - (trapezoids).
        ({"reflectors": 16, "radius": 0.01}, 5520),
        # oRNN: no singular values to train.
        ({"reflectors": 16, "radius": 0.0}, 5520 - 128),
    ],
)
def test_the_papers_count_of_parameters(options, expected):
    n, n_in, n_out = 128, 1, 10
    layer = nnx.eval_shape(
        lambda: svdrnn.SpectralRNN(n_in, n, rngs=nnx.Rngs(0), **options)
    )
    stored = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))
    assert stored - layer.cell.weight.num_redundant + n_out * n == expected


def test_num_redundant_counts_the_entries_below_the_trapezoids():
    weight = nnx.eval_shape(lambda: spectral_matrix(5, 7, reflectors=(4, 2)))
    below = [np.tril_indices(m, -1, k)[0].size for m, k in ((4, 7), (2, 5))]
    assert weight.num_redundant == sum(below) == 7
    for vectors in (weight.u_vectors, weight.v_vectors):  # a stack of three
        vectors.set_value(jax.ShapeDtypeStruct((3, *vectors.shape), vectors.dtype))
    assert weight.num_redundant == 21
    assert DenseMatrix(3, rngs=nnx.Rngs(0)).num_redundant == 0


# Initial values.


@pytest.mark.slow
def test_random_init():
    weight = spectral_matrix(300, 200, reflectors=(20, 30))
    assert weight.u_vectors.shape == (20, 200) and weight.v_vectors.shape == (30, 300)
    for vectors in (weight.u_vectors[...], weight.v_vectors[...]):
        np.testing.assert_array_equal(np.tril(vectors, -1), 0)
        lengths = np.linalg.norm(vectors, axis=1)
        np.testing.assert_allclose(lengths, 1, atol=5 / np.sqrt(2 * 200))
    # Independent in U and V, and another draw from another seed.
    assert not np.allclose(weight.u_vectors[0, :50], weight.v_vectors[0, :50])
    other = spectral_matrix(300, 200, reflectors=(20, 30), seed=1)
    assert not np.allclose(weight.u_vectors[...], other.u_vectors[...])
    np.testing.assert_array_equal(weight.sigma_raw[...], np.zeros(200))
    np.testing.assert_array_equal(weight.sigma(), np.ones(200))


@pytest.mark.slow
def test_matrix_is_u_sigma_v_transposed(x64):
    for n_in, n_out in ((4, 7), (7, 4)):
        weight = spectral_matrix(n_in, n_out, param_dtype=jnp.float64)
        weight.sigma_raw[...] = jnp.linspace(-3.0, 2.0, min(n_in, n_out))
        raw = np.asarray(weight.sigma_raw[...])
        sigma = 0.5 * (1 / (1 + np.exp(-raw)) - 0.5) + 1
        expected = oracles.svd_matrix(weight.u_vectors, weight.v_vectors, sigma)
        actual = oracles.jit(lambda weight: weight.matrix())(weight)
        np.testing.assert_allclose(actual, expected, atol=1e-13)
        values = np.linalg.svd(expected, compute_uv=False)
        np.testing.assert_allclose(weight.singular_values(), values, rtol=1e-13)
        assert np.all(np.abs(values - 1) < 0.25)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("center", "reflectors"), [(1.0, 8), (-0.5, None), (1.0, (5, 5))]
)
def test_identity_init(center, reflectors):
    options = {"reflectors": reflectors, "center": center, "init": "identity"}
    weight = spectral_matrix(32, 32, **options)
    np.testing.assert_allclose(numpy_matrix(weight), center * np.eye(32), atol=1e-14)
    # The library's own products, in float32.
    for method in ("auto", "dense"):
        w = rows_of_the_transition(weight, method)
        np.testing.assert_allclose(w, center * np.eye(32), atol=1e-6)
    # Equal values in two parameters, not one parameter twice.
    np.testing.assert_array_equal(weight.u_vectors[...], weight.v_vectors[...])
    assert weight.u_vectors is not weight.v_vectors
    u_vectors, v_vectors = weight.u_vectors[...], weight.v_vectors[...]
    assert u_vectors.unsafe_buffer_pointer() != v_vectors.unsafe_buffer_pointer()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "reflectors", "sigma", "options"),
    [
        ((4, 4), None, [1.24, 1.1, 0.9, 0.76], {}),
        ((5, 3), None, [1.2, 1.0, 0.8], {}),
        ((3, 5), 3, [1.2, 1.0, 0.8], {}),
        ((3, 5), (3, 5), [1.2, 1.0, 0.8], {}),
        ((6, 4), (6, 4), [1.2, 1.0, 0.8, 0.8], {}),
        ((4, 4), None, [1.2, 1.1, 0.9, 0.8], {"center": -1.0}),
        ((4, 4), None, [0.9, 0.5, 0.1, 0.0], {"center": 0.0, "radius": 1.0}),
        ((4, 4), None, [1.0, 1.0, 1.0, 1.0], {"radius": 0.0}),
        ((4, 4), None, [0.5, 0.5, 0.5, 0.5], {"radius": 0.0, "center": -0.5}),
    ],
)
def test_init_from_a_matrix(x64, shape, reflectors, sigma, options):
    given = matrix_with(sigma, *shape)
    weight = spectral_matrix(
        shape[1], shape[0], reflectors=reflectors, init=given, param_dtype=jnp.float64,
        **options,
    )  # fmt: skip
    np.testing.assert_allclose(numpy_matrix(weight), given, atol=1e-13)
    assert (weight.u_vectors.shape[0], weight.v_vectors.shape[0]) == reflector_counts(
        reflectors, *shape
    )
    signs = -1 if options.get("center", 1.0) < 0 else 1
    np.testing.assert_allclose(weight.sigma(), signs * np.array(sigma), atol=1e-13)


@pytest.mark.slow
def test_init_from_an_orthogonal_matrix_in_float32():
    given = matrix_with(np.ones(64), 64, 64)
    weight = spectral_matrix(64, 64, reflectors=None, radius=0.0, init=given)
    w = oracles.jit(lambda weight: weight.matrix())(weight)
    assert w.dtype == jnp.float32
    np.testing.assert_allclose(w, given, atol=2e-6)


@pytest.mark.parametrize(
    ("sigma", "options", "message"),
    [
        ([1.1, 1.0, 1.0, 0.5], {}, "singular value 3 .* is 0.5; .* 0.75 and 1.25"),
        ([1.4, 1.3, 1.0, 1.0], {}, r"singular value 0 .* is 1.4(0000)?; .* 0.75 and"),
        ([1.0, 1.0, 1.0, 0.0], {}, "singular value 3 .* between 0.75 and 1.25"),
        ([1.1, 1.0, 1.0, 1.0], {"radius": 0.0}, "value 0 .* is 1.1; .* 1 and 1"),
        ([1.1, 1.0, 1.0, 0.5], {"center": -1.0}, "is -0.5; .* -1.25 and -0.75"),
        ([1.0, 0.5, 0.5, 0.5], {"center": 0.0, "radius": 0.9}, "value 0 .* is 1; "),
    ],
)
def test_init_from_a_matrix_outside_the_interval(x64, sigma, options, message):
    options = {"reflectors": None, "param_dtype": jnp.float64, **options}
    with pytest.raises(ValueError, match=message):
        spectral_matrix(4, 4, init=matrix_with(sigma), **options)


@pytest.mark.parametrize("diagonal", [[1.25, 1.0], [1.0, 0.75]])
def test_init_from_a_matrix_at_the_border(diagonal):
    # Exact in float32: the interval is open.
    with pytest.raises(ValueError, match="strictly between 0.75 and 1.25"):
        spectral_matrix(2, 2, reflectors=None, init=np.diag(diagonal))


def test_radius_zero_freezes_the_singular_values():
    weight = spectral_matrix(radius=0.0, center=0.5)
    assert weight.sigma_raw is None
    assert len(jax.tree.leaves(nnx.state(weight, nnx.Param))) == 2
    np.testing.assert_array_equal(weight.sigma(), np.full(6, 0.5))
    w = numpy_matrix(weight)
    np.testing.assert_allclose(w @ w.T, 0.25 * np.eye(6), atol=1e-14)


def test_center_zero_starts_away_from_zero():
    weight = spectral_matrix(2000, 2000, reflectors=1, center=0.0, radius=1.0)
    raw = np.asarray(weight.sigma_raw[...])
    np.testing.assert_allclose([raw.mean(), raw.std()], [0, 1], atol=0.1)


@pytest.mark.parametrize("init", ["random", "identity", "cayley"])
def test_first_singular_values_in_turn(x64, init):
    options = {"radius": 0.45, "center": 0.65, "param_dtype": jnp.float64}
    plain = spectral_matrix(init=init, reflectors=None, **options)
    weight = spectral_matrix(
        init=init, reflectors=None, init_sigma=(0.3, 1.0, 0.6, 1.0), **options
    )
    expected = [0.3, 1.0, 0.6, 1.0, 0.3, 1.0]
    np.testing.assert_allclose(weight.sigma(), expected, rtol=1e-12)
    # The directions are those of a start at the center.
    u, v = (m[...] for m in (plain.u_vectors, plain.v_vectors))
    w = oracles.svd_matrix(u, v, np.array(expected))
    np.testing.assert_allclose(weight.matrix(), w, atol=1e-12)


@pytest.mark.parametrize("given", [0.9, np.float32(0.9), [0.9] * 6, jnp.full(3, 0.9)])
def test_first_singular_values_of_one_number(given):
    weight = jax.jit(lambda: spectral_matrix(init_sigma=given).sigma())()
    np.testing.assert_allclose(weight, np.full(6, 0.9), rtol=1e-6)
    zero = spectral_matrix(center=0.0, radius=0.99, init_sigma=given)
    np.testing.assert_allclose(zero.sigma(), np.full(6, 0.9), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_sigma": 1.25}, "1 to 6 numbers strictly between 0.75 and 1.25"),
        ({"init_sigma": (1.0, 0.5)}, r"got \(1.0, 0.5\)"),
        ({"init_sigma": 1.25 - 1e-9}, "also once rounded, got 1.249999999"),
        (
            {"init_sigma": 2 - 1e-8, "radius": 1.0},
            "between 0 and 2 .*, also once rounded, got 1.99999999",
        ),
        ({"init_sigma": ()}, "init_sigma must be None or 1 to 6 numbers"),
        ({"init_sigma": [1.0] * 7}, "init_sigma must be None or 1 to 6 numbers"),
        ({"init_sigma": "1.0"}, "init_sigma must be .* got '1.0'"),
        ({"init_sigma": True}, "init_sigma must be .* got True"),
        ({"init_sigma": [[1.0], [1.0, 1.1]]}, "init_sigma must be"),
        ({"init_sigma": np.nan}, "init_sigma must be"),
        ({"init_sigma": 1j}, "init_sigma must be"),
        ({"init_sigma": 1.0, "radius": 0.0}, "init_sigma must be .* radius 0"),
        (
            {"init_sigma": 1.0, "init": np.eye(6), "reflectors": None},
            "init_sigma must be None where a matrix is the start",
        ),
    ],
)
def test_bad_first_singular_values(options, message):
    with pytest.raises(ValueError, match=message):
        spectral_matrix(**options)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_dense_start_that_is_orthogonal_in_few_digits(dtype):
    w = DenseMatrix(6, init="orthogonal", param_dtype=dtype, rngs=nnx.Rngs(0)).w[...]
    assert w.dtype == dtype
    wide = np.asarray(w, np.float64)
    np.testing.assert_allclose(wide @ wide.T, np.eye(6), atol=0.02)


@pytest.mark.parametrize("map", skew.MAPS)
def test_an_orthogonal_transition_is_one_whatever_its_parameters_are(map):
    options = {"map": map, "param_dtype": jnp.bfloat16, "rngs": nnx.Rngs(0)}
    weight = OrthogonalMatrix(32, negative_fraction=0.25, **options)
    form = weight.transition()
    assert form.matrix().dtype == jnp.float32
    wide = np.asarray(form.matrix(), np.float64)
    np.testing.assert_allclose(wide @ wide.T, np.eye(32), atol=2e-6)
    np.testing.assert_allclose(wide, weight.matrix().astype(np.float32), atol=0.01)


@pytest.mark.parametrize("radius", [0.0, 0.1])
def test_a_stack_has_singular_values_for_each_matrix(radius):
    def make(key):
        return SpectralMatrix(4, 5, reflectors=2, radius=radius, rngs=key)

    stack = nnx.vmap(make)(nnx.Rngs(0).split(3))
    assert stack.sigma().shape == stack.singular_values().shape == (3, 4)


def test_first_singular_values_are_no_tracers():
    def trace(sigma):
        return spectral_matrix(init_sigma=sigma).sigma()

    with pytest.raises(ValueError, match="init_sigma must be None or 1 to 6 numbers"):
        jax.jit(trace)(jnp.float32(1.0))


@pytest.mark.slow
def test_dense_inits():
    def build(init, n=400):
        return np.asarray(DenseMatrix(n, init=init, rngs=nnx.Rngs(0)).matrix())

    np.testing.assert_array_equal(build("identity", 5), np.eye(5))
    q = build("orthogonal", 40)
    np.testing.assert_allclose(q @ q.T, np.eye(40), atol=1e-5)
    np.testing.assert_allclose(build("lecun_normal").std() * 20, 1, atol=0.02)
    given = np.arange(9.0).reshape(3, 3)
    np.testing.assert_array_equal(build(given, 3), given)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_param_dtype(x64, dtype):
    for init in ("random", "identity"):
        weight = spectral_matrix(init=init, param_dtype=dtype)
        params = jax.tree.leaves(nnx.state(weight, nnx.Param))
        assert [leaf.dtype for leaf in params] == [dtype] * 3
        assert jax.eval_shape(weight.matrix).dtype == dtype
    assert DenseMatrix(3, param_dtype=dtype, rngs=nnx.Rngs(0)).matrix().dtype == dtype


def drawn_angles(init, n, rngs_draws, seed=0):
    """The angles that the constructor drew, which draw is `rngs_draws`-th."""
    rngs = nnx.Rngs(seed)
    for _ in range(rngs_draws):
        rngs.params()
    return initializers.rotation_angles(rngs.params(), n, init, jnp.float64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("init", "n", "center"), [("henaff", 6, 1.0), ("cayley", 5, -0.5), ("henaff", 1, 1)]
)
def test_block_rotation_inits(x64, init, n, center):
    weight = spectral_matrix(
        n, n, reflectors=None, center=center, init=init, param_dtype=jnp.float64
    )
    angles = drawn_angles(init, n, 2)
    expected = center * np.asarray(skew.block_rotation(angles, n))
    np.testing.assert_allclose(numpy_matrix(weight), expected, atol=1e-13)
    # The law of the random rows of V is that of the lengths of U.
    u, v = np.asarray(weight.u_vectors[...]), np.asarray(weight.v_vectors[...])
    np.testing.assert_array_equal(np.tril(u, -1), 0)
    np.testing.assert_allclose(*(np.linalg.norm(rows, axis=1) for rows in (u, v)))
    assert np.all(np.linalg.norm(v, axis=1) > 0)


@pytest.mark.slow
def test_every_reflector_of_a_block_rotation_trains(x64):
    weight = spectral_matrix(5, 5, reflectors=5, init="cayley", param_dtype=jnp.float64)
    target = np.random.default_rng(0).normal(size=(5, 5))
    gradient = oracles.jit(nnx.grad(lambda w: jnp.sum((w.matrix() - target) ** 2)))
    for rows in jax.tree.leaves(gradient(weight)):
        if rows.ndim == 2:
            # The last row has one entry, whose length nothing depends on.
            assert np.all(np.linalg.norm(rows[:-1], axis=1) > 1e-3)


@pytest.mark.slow
def test_block_rotation_init_in_float32():
    weight = oracles.jit(
        lambda: spectral_matrix(64, 64, reflectors=None, init="henaff")
    )()
    w = oracles.jit(lambda weight: weight.matrix())(weight)
    assert w.dtype == jnp.float32
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(w)), 1, atol=1e-5)
    blocks = np.kron(np.eye(32), np.ones((2, 2)))
    np.testing.assert_allclose(w * (1 - blocks), 0, atol=2e-6)
    np.testing.assert_allclose(w @ w.T, np.eye(64), atol=5e-6)


@pytest.mark.slow
def test_a_random_start_has_small_angles_and_henaffs_has_not(x64):
    """The figures of docs/guide.md and of results/copying_log.md."""

    def least_angles(init):
        options = {"radius": 0, "init": init, "param_dtype": jnp.float64}

        def matrix(key):
            rngs = nnx.Rngs(params=key)
            weight = SpectralMatrix(128, 128, reflectors=None, rngs=rngs, **options)
            return weight.matrix()

        draw = oracles.jit(matrix)
        drawn = [np.asarray(draw(jax.random.key(seed))) for seed in range(200)]
        return [np.min(np.abs(np.angle(np.linalg.eigvals(w)))) for w in drawn]

    random, henaff = (np.array(least_angles(init)) for init in ("random", "henaff"))
    assert np.median(random) == pytest.approx(0.0005, abs=5e-5)
    assert np.median(henaff) == pytest.approx(0.028, abs=5e-4)
    assert np.mean(random < 1 / 5000) == pytest.approx(0.23, abs=0.01)
    assert not np.any(henaff < 1 / 5000)


# Orthogonal matrices from skew-symmetric ones.


def orthogonal_matrix(n=5, *, seed=0, **options):
    options = {"param_dtype": jnp.float64, **options}
    return OrthogonalMatrix(n, rngs=nnx.Rngs(seed), **options)


@pytest.mark.slow
@pytest.mark.parametrize("map", skew.MAPS)
@pytest.mark.parametrize(
    ("init", "fraction", "signs"),
    [
        ("henaff", 0.0, [1, 1, 1, 1, 1]),
        ("cayley", 0.4, [1, 1, 1, -1, -1]),
        ("identity", 1.0, [-1, -1, -1, -1, -1]),
    ],
)
def test_orthogonal_matrix(x64, map, init, fraction, signs):
    weight = orthogonal_matrix(map=map, init=init, negative_fraction=fraction)
    rotation = np.eye(5)
    if init != "identity":
        rotation = np.asarray(skew.block_rotation(drawn_angles(init, 5, 0), 5))
    w, form = oracles.jit(lambda weight: (weight.matrix(), weight.transition()))(weight)
    np.testing.assert_allclose(w, rotation * signs, atol=1e-14)
    np.testing.assert_array_equal(form.w, w)
    assert weight.skew_entries.shape == (10,)
    assert weight.matrix_shape == (5, 5) and weight.num_redundant == 0
    np.testing.assert_array_equal(weight.singular_values(), np.ones(5))


def test_angles_of_the_named_rotations():
    key = jax.random.key(0)
    for init, low, high in (("henaff", -np.pi, np.pi), ("cayley", 0, np.pi / 2)):
        angles = np.asarray(initializers.rotation_angles(key, 4001, init))
        assert angles.shape == (2000,)
        assert low <= angles.min() < low + 0.02 and high - 0.02 < angles.max() <= high
        np.testing.assert_allclose(angles.mean(), (low + high) / 2, atol=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"map": "qr"}, "map must be one of exponential, cayley, got 'qr'"),
        ({"init": "random"}, "init must be one of henaff, cayley, identity, got 'ran"),
        ({"init": np.eye(5)}, "init must be one of henaff, cayley, identity, got arr"),
        ({"negative_fraction": -0.1}, "negative_fraction must be .* at least 0"),
        ({"negative_fraction": 1.5}, "negative_fraction must be .* at most 1, got 1.5"),
    ],
)
def test_bad_orthogonal_matrix(options, message):
    with pytest.raises(ValueError, match=message):
        orthogonal_matrix(param_dtype=jnp.float32, **options)


def test_an_orthogonal_transition_has_one_method():
    def transition(method):
        return orthogonal_matrix(param_dtype=jnp.float32).transition(method)

    for method in ("scan", "wy", "low_rank", "fast"):
        with pytest.raises(
            ValueError, match=f"must be one of auto, dense, got '{method}'"
        ):
            jax.eval_shape(functools.partial(transition, method))


# Forms of a transition.


@pytest.mark.slow
@pytest.mark.parametrize("method", transitions.METHODS)
def test_every_form_is_the_matrix(x64, method):
    weight = spectral_matrix(param_dtype=jnp.float64, center=-1.0)
    weight.sigma_raw[...] = jnp.linspace(-3.0, 2.0, 6)
    rows = rows_of_the_transition(weight, method)
    np.testing.assert_allclose(rows.T, numpy_matrix(weight), atol=1e-13)


@pytest.mark.parametrize(
    ("reflectors", "kind"),
    [
        (2, transitions.DiagonalPlusLowRank),
        (3, transitions.Dense),
        (None, transitions.Dense),
    ],
)
def test_auto_counts_flops(reflectors, kind):
    # Low rank up to a third of n = 12 reflectors in both sides together.
    form = nnx.eval_shape(
        lambda: spectral_matrix(12, 12, reflectors=reflectors).transition()
    )
    assert type(form) is kind


def test_dense_transition():
    weight = DenseMatrix(4, rngs=nnx.Rngs(0))
    for method in ("auto", "dense"):
        np.testing.assert_array_equal(weight.transition(method).w, weight.matrix())
    for method in ("scan", "wy", "low_rank", "fast"):
        with pytest.raises(
            ValueError, match=f"must be one of auto, dense, got '{method}'"
        ):
            weight.transition(method)


# Errors.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": -0.1}, "radius must be finite and at least 0, got -0.1"),
        ({"radius": float("nan")}, "radius must be finite and at least 0, got nan"),
        ({"radius": float("inf")}, "radius must be finite and at least 0, got inf"),
        ({"center": float("nan")}, "center must be finite, got nan"),
        ({"center": -float("inf")}, "center must be finite, got -inf"),
        ({"radius": 0.0, "center": 0.0}, "radius and center must not both be 0"),
        ({"n_in": 0}, "n_in must be an integer of at least 1, got 0"),
        ({"n_out": -1}, "n_out must be an integer of at least 1, got -1"),
        ({"n_in": 2.5}, "n_in must be an integer of at least 1, got 2.5"),
        ({"init": "ones"}, "init must be one of random, .* or a matrix, got 'ones'"),
        ({"init": "henaff"}, "at least 6 in U and in V for init 'henaff' .* 3 and 3"),
        ({"init": "cayley", "n_in": 5, "reflectors": None}, r"square .* \(6, 5\)"),
        ({"init": "henaff", "reflectors": (6, 5)}, "reflectors must .* got 6 and 5"),
        ({"init": "identity", "n_in": 5}, r"square .* got shape \(6, 5\)"),
        ({"init": "identity", "reflectors": (2, 3)}, "equally many .* got 2 and 3"),
        ({"init": np.eye(5)}, r"init must have shape \(6, 6\), got \(5, 5\)"),
        ({"init": np.eye(6)}, "at least 6 in U and in V to start from .* 3 and 3"),
        ({"init": np.eye(6), "reflectors": (6, 5)}, "at least 6 .* got 6 and 5"),
        ({"init": np.full((6, 6), np.nan), "reflectors": 6}, "must be finite"),
    ],
)
def test_bad_spectral_matrix(options, message):
    with pytest.raises(ValueError, match=message):
        spectral_matrix(**{"n_in": 6, "n_out": 6, **options})


def test_bad_method():
    message = "method must be one of auto, scan, wy, low_rank, dense, got 'fast'"
    with pytest.raises(ValueError, match=message):
        spectral_matrix().transition("fast")


@pytest.mark.parametrize(
    ("n", "init", "message"),
    [
        (0, "orthogonal", "n must be an integer of at least 1, got 0"),
        (3, "ones", "init must be one of lecun_normal, orthogonal, identity .*'ones'"),
        (3, np.eye(4), r"init must have shape \(3, 3\), got \(4, 4\)"),
    ],
)
def test_bad_dense_matrix(n, init, message):
    with pytest.raises(ValueError, match=message):
        DenseMatrix(n, init=init, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_a_rectangular_matrix_is_no_transition():
    matrix = SpectralMatrix(4, 5, reflectors=2, radius=0.1, rngs=nnx.Rngs(0))
    for method in ("auto", "dense", "scan"):
        with pytest.raises(ValueError, match=r"square, got shape \(5, 4\)"):
            matrix.transition(method)


@pytest.mark.parametrize("init", [None, np.full((3, 3), np.nan)])
def test_an_init_that_is_no_matrix_is_named(init):
    for build in (
        lambda: SpectralMatrix(
            3, 3, reflectors=None, radius=0.5, init=init, rngs=nnx.Rngs(0)
        ),
        lambda: DenseMatrix(3, init=init, rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(ValueError, match="init must be"):
            build()


def test_numpy_integers_are_integers():
    matrix = SpectralMatrix(
        np.int64(4), 4, reflectors=np.int32(2), radius=0.1, rngs=nnx.Rngs(0)
    )
    assert matrix.u_vectors.shape == (2, 4)


@pytest.mark.slow
def test_radius_zero_takes_an_orthogonal_matrix_of_any_size():
    q = jax.nn.initializers.orthogonal()(jax.random.key(0), (512, 512))
    matrix = SpectralMatrix(
        512, 512, reflectors=None, radius=0, init=q, rngs=nnx.Rngs(0)
    )
    np.testing.assert_allclose(matrix.matrix(), q, atol=1e-5)


def test_singular_values_in_bfloat16():
    matrix = DenseMatrix(4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert matrix.singular_values().dtype == jnp.bfloat16
