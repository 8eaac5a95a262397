"""Every public function of the library on odd input: right, or an error in one line.

A case below draws good arguments of a function and says what has to hold of its result.
Its test also spoils an argument, in dtype, in shape or in value. What is then refused
is refused in one readable line, what is taken gives no NaN, and good arguments are
taken and have finite gradients. HYPOTHESIS_PROFILE=long tries thirty times as many.
"""

import inspect
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import strategies as st

import svdrnn
from svdrnn import (
    activations,
    cells,
    checks,
    constraint,
    diagnostics,
    householder,
    initializers,
    kernels,
    layers,
    layouts,
    matrices,
    powers,
    projection,
    recurrence,
    rnn,
    skew,
    spectral,
    transitions,
    trees,
)
from svdrnn.certificate import certification, generalization, rounding
from tests import oracles, typechecking

# ---- What is drawn. Few shapes, because every one is compiled.

TOLERANCE = {"float16": 1e-2, "bfloat16": 6e-2, "float32": 3e-5, "float64": 1e-12}
REFLECTORS = ((4, 4), (0, 1), (1, 1), (0, 4), (1, 4))
MATRICES = ((4, 4), (1, 1), (2, 4), (4, 1))
BATCHES = ((3,), (), (0,), (2, 1))
KINDS = ("normal", "zero", "tiny", "huge", "repeated", "mixed", "basis")
MODERATE = ("normal", "zero", "tiny", "repeated", "basis")
ODD = (None, -1, 0, 1.5, math.nan, math.inf, 1e300, 10**26, "x", "", True, (1, 2), [])


class Draw:
    """Good arguments, all of one dtype."""

    def __init__(self, data):
        self._data = data
        self.dtype = self.one_of(tuple(TOLERANCE))

    def one_of(self, values):
        return self._data.draw(st.sampled_from(values))

    def array(self, *shape, kinds=MODERATE, dtype=None):
        """Numbers of one kind; 1e30 and the like are cut to what the dtype has."""
        kind = self.one_of(kinds)
        generator = np.random.default_rng(self.one_of((0, 1)))
        values = generator.normal(size=shape)
        rows = values.reshape(math.prod(shape[:-1]), shape[-1] if shape else 1)
        match kind:
            case "zero":
                values = 0 * values
            case "tiny":
                values = 1e-30 * values
            case "huge":
                values = 1e30 * values
            case "repeated":
                values = np.resize(rows[:1], shape) if values.size else values
            case "mixed":
                scales = 10.0 ** np.resize((-30, 0, 30), (len(rows), 1))
                values = (scales * rows).reshape(shape)
            case "basis":
                values = np.eye(*rows.shape).reshape(shape)
        dtype = jnp.dtype(dtype or self.dtype)
        most = float(jnp.finfo(dtype).max) / 64
        return jnp.asarray(np.clip(values, -most, most), dtype)

    def reflectors(self, *shape):
        return self.array(*(shape or self.one_of(REFLECTORS)), kinds=KINDS)

    def svd(self, square=False):
        n_out, n_in = self.one_of(MATRICES[:2] if square else MATRICES)
        counts = self.one_of(((n_out, n_in), (0, n_in), (1, 1)))
        return {
            "u_vectors": self.reflectors(counts[0], n_out),
            "v_vectors": self.reflectors(counts[1], n_in),
            "sigma": self.array(min(n_out, n_in)),
        }

    def orthonormal(self, n, p):
        normal = np.random.default_rng(self.one_of((0, 1))).normal(size=(n, n))
        q = self.one_of((np.linalg.qr(normal)[0], np.eye(n), -np.eye(n)[::-1]))
        return jnp.asarray(q[:, :p], self.dtype)

    def key(self):
        return jax.random.key(self.one_of((0, 1)))

    def rngs(self):
        return nnx.Rngs(self.one_of((0, 1)))


def is_numbers(value):
    """Whether it is an array, and none of keys."""
    return isinstance(value, jax.Array) and not jnp.issubdtype(
        value.dtype, jax.dtypes.prng_key
    )


def spoiled(data, value):
    """An argument with another dtype, another shape, or an odd value."""
    choose = lambda values: data.draw(st.sampled_from(values))  # noqa: E731
    if not is_numbers(value):
        return choose(ODD)
    how = choose(("dtype", "longer", "shorter", "empty", "more axes", "fewer axes"))
    if how == "dtype":
        return value.astype(choose(("int32", "uint8", "bool", "complex64")))
    if how == "more axes" or value.ndim == 0:
        return value[None]
    if how == "fewer axes":
        return value.reshape(-1) if value.ndim > 1 else jnp.sum(value)
    axis = choose(range(value.ndim))
    size = {"longer": value.shape[axis] + 1, "empty": 0}
    size = size.get(how, max(value.shape[axis] - 1, 0))
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    if not value.size or not math.prod(shape):
        return jnp.zeros(shape, value.dtype)
    return jnp.asarray(np.resize(value, shape))


# ---- What is asked of every result.


def floats(tree):
    """The arrays and numbers of a result, or of what it is made of."""
    if isinstance(tree, nnx.Module):
        tree = nnx.state(tree)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if not callable(leaf)]
    kinds = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return [leaf.astype(np.complex128) for leaf in kinds]


def no_nan(tree):
    assert not any(np.isnan(leaf).any() for leaf in floats(tree)), tree


def finite(tree):
    assert all(np.isfinite(leaf).all() for leaf in floats(tree)), tree


# Functions whose errors are JAX's own, which name shapes.
OF_JAX = (
    *("householder.matmul", "projection.unit_reflectors", "transitions.batch_outer"),
    *("diagnostics.state_gradient_norms", "transitions.from_svd"),
    "certificate.certification.certify_rounded",  # whose model is the user's
)


def clear(error, case):
    """One readable line that says what must be."""
    text = str(error)
    assert len(text.splitlines()) == 1 and len(text) < 500, text
    if case.names[0] not in OF_JAX:
        assert re.search(r"\b(must|needs?)\b", text), f"{type(error).__name__}: {text}"


def close(found, expected, dtype, scale=None):
    expected = np.asarray(expected, np.float64)
    found = np.asarray(found, np.float64)
    assert found.shape == expected.shape
    scale = np.max(np.abs(expected), initial=1e-300) if scale is None else scale
    tolerance = TOLERANCE[jnp.dtype(dtype).name]
    assert np.max(np.abs(found - expected), initial=0.0) <= tolerance * scale


def orthogonal(q):
    """Q^T Q = I to rounding."""
    wide = np.asarray(q, np.float64)
    close(wide.T @ wide, np.eye(wide.shape[1]), q.dtype)


# ---- The cases: each yields a function with its arguments and is sent the result.


class Case(NamedTuple):
    """A case of several functions.

    names: of the functions.
    steps: the generator.
    odd: arguments that are also given odd values; arrays are always spoiled.
    plain: called as it is, without gradients.
    infinite: whether a result may be infinite.
    slow: much is compiled.
    """

    names: tuple
    steps: Callable
    odd: tuple
    plain: bool
    infinite: bool
    slow: bool


CASES = []


def case(*names, odd=(), plain=False, infinite=False, slow=False):
    def register(function):
        CASES.append(Case(names, function, odd, plain, infinite, slow))
        return function

    return register


PROGRAMS = {}


def value_and_gradients(name, function, arguments):
    """The result of a call and its gradients, compiled once for each shape."""
    arrays = {k: v for k, v in arguments.items() if isinstance(v, jax.Array)}
    rest = {k: v for k, v in arguments.items() if k not in arrays}
    some = {k: v for k, v in arrays.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    others = {k: v for k, v in arrays.items() if k not in some}

    def loss(some, others):
        result = function(**some, **others, **rest)
        total = 0.0
        for leaf in jax.tree.leaves(result):
            if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                weights = np.cos(np.arange(leaf.size)).reshape(leaf.shape)
                total += jnp.sum(leaf.astype(weights.dtype) * weights)
        return total, result

    shapes = tuple((k, v.shape, str(v.dtype)) for k, v in sorted(arrays.items()))
    key = (name, shapes, repr(sorted(rest.items())), jax.config.jax_enable_x64)
    if key not in PROGRAMS:
        PROGRAMS[key] = oracles.jit(jax.value_and_grad(loss, has_aux=True))
    (_, result), gradients = PROGRAMS[key](some, others)
    return result, gradients


def outcome(case, function, arguments):
    """The result of good arguments; the gradients are finite."""
    if case.plain:
        return function(**arguments)
    result, gradients = value_and_gradients(case.names[0], function, arguments)
    finite(gradients)
    return result


def public():
    """The functions and classes of every public module, as module.name."""
    return {
        f"{module.__name__.removeprefix('svdrnn.')}.{name}"
        for module in typechecking.public_modules(svdrnn)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "") == module.__name__
        and (inspect.isfunction(value) or inspect.isclass(value))
    }


# ---- Products of reflectors.


@case("householder.matmul")
def _(draw):
    a, b = draw.array(2, 3), draw.array(3, 4)
    found = yield householder.matmul, {"a": a, "b": b}
    close(found, np.asarray(a, np.float64) @ np.asarray(b, np.float64), draw.dtype, 10)


@case("householder.factor_dtype", plain=True)
def _(draw):
    dtype = draw.one_of((*TOLERANCE, "int32", "bool"))
    found = yield lambda dtype: householder.factor_dtype(dtype), {"dtype": dtype}
    assert found == (jnp.float64 if dtype == "float64" else jnp.float32)


@case("householder.check_vectors", plain=True)
def _(draw):
    arguments = {"name": "vectors", "vectors": draw.reflectors()}
    assert (yield householder.check_vectors, arguments) is None


@case("householder.nonzero_reflectors")
def _(draw):
    vectors = draw.reflectors()
    found = yield householder.nonzero_reflectors, {"vectors": vectors}
    wide = np.triu(np.asarray(vectors, np.float64))
    assert np.array_equal(found, np.any(wide != 0, axis=1))


@case("householder.unit_rows")
def _(draw):
    vectors = draw.reflectors()
    rows = yield householder.unit_rows, {"vectors": vectors}
    lengths = np.linalg.norm(np.asarray(rows, np.float64), axis=1)
    nonzero = np.any(np.triu(np.asarray(vectors, np.float64)) != 0, axis=1)
    close(lengths, nonzero, rows.dtype)


@case("householder.wy_factors")
def _(draw):
    vectors = draw.reflectors()
    rows, t = yield householder.wy_factors, {"vectors": vectors}
    wide, t = np.asarray(rows, np.float64), np.asarray(t, np.float64)
    assert np.max(np.abs(t), initial=0) <= 4 + 1e-3
    found = np.eye(rows.shape[1]) - wide.T @ t @ wide
    close(found, oracles.reflector_product(vectors), rows.dtype)


@case("householder.apply_reflectors", odd=("method",))
def _(draw):
    vectors, transpose = draw.reflectors(), draw.one_of((False, True))
    x = draw.array(*draw.one_of(BATCHES), vectors.shape[1])
    arguments = {"vectors": vectors, "x": x, "transpose": transpose}
    method = draw.one_of(householder.METHODS)
    found = yield householder.apply_reflectors, {**arguments, "method": method}
    q = oracles.reflector_product(vectors)
    expected = np.asarray(x, np.float64) @ (q if transpose else q.T)
    close(found, expected, draw.dtype)


@case("householder.orthogonal_matrix", odd=("method",))
def _(draw):
    vectors, method = draw.reflectors(), draw.one_of(householder.METHODS)
    arguments = {"vectors": vectors, "method": method}
    q = yield householder.orthogonal_matrix, arguments
    orthogonal(q)
    close(q, oracles.reflector_product(vectors), draw.dtype)


@case("householder.reflectors_from_orthogonal", plain=True)
def _(draw):
    q = draw.orthonormal(*draw.one_of(((4, 4), (4, 2), (1, 1), (3, 0))))
    vectors = yield householder.reflectors_from_orthogonal, {"q": q}
    p = q.shape[1]
    close(oracles.reflector_product(vectors)[:, :p] if p else q, q, draw.dtype, 1)


@case("householder.signed_reflectors", plain=True)
def _(draw):
    q = draw.orthonormal(*draw.one_of(((4, 4), (4, 2), (1, 1), (3, 0))))
    vectors, signs = yield householder.signed_reflectors, {"q": q}
    p = q.shape[1]
    found = oracles.reflector_product(vectors)[:, :p] * signs if p else q
    close(found, q, draw.dtype, 1)


@case("householder.paired_reflectors", plain=True)
def _(draw):
    n_out, n_in, p = draw.one_of(((4, 4, 4), (4, 2, 2), (1, 3, 1)))
    u, v = draw.orthonormal(n_out, p), draw.orthonormal(n_in, p)
    rows = yield householder.paired_reflectors, {"u": u, "v": v}
    found = oracles.svd_matrix(*rows, np.arange(1.0, p + 1))
    expected = (np.asarray(u, float) * np.arange(1.0, p + 1)) @ np.asarray(v, float).T
    close(found, expected, draw.dtype, 4 * p)


# ---- W = U Sigma V^T.


def svd_of(u_vectors, v_vectors, sigma):
    return spectral.SVD(u_vectors, v_vectors, sigma)


def on_svd(function):
    """A function of an SVD as one of its three arrays."""

    def of_parts(u_vectors, v_vectors, sigma, **others):
        return function(svd_of(u_vectors, v_vectors, sigma), **others)

    return of_parts


def wide_svd(parts):
    return oracles.svd_matrix(
        *(np.asarray(part, np.float64) for part in parts.values())
    )


@case("spectral.SVD", "spectral.validate")
def _(draw):
    parts = draw.svd()
    found = yield on_svd(lambda svd: spectral.validate(svd)), parts
    assert found.shape == (parts["u_vectors"].shape[1], parts["v_vectors"].shape[1])


@case("spectral.reflector_counts", plain=True, odd=("reflectors",))
def _(draw):
    n_out, n_in = draw.one_of(MATRICES)
    asked = draw.one_of((None, 1, np.int64(9), (1, 1), [1, n_in]))
    arguments = {"reflectors": asked, "n_out": n_out, "n_in": n_in}
    m1, m2 = yield spectral.reflector_counts, arguments
    assert 1 <= m1 <= n_out and 1 <= m2 <= n_in


@case("spectral.bounded_singular_values", odd=("radius", "center"))
def _(draw):
    raw = draw.array(*draw.one_of(BATCHES), kinds=KINDS)
    radius, center = draw.one_of((0.0, 0.1, np.float32(2))), draw.one_of((0, 1.0, -3))
    arguments = {"raw": raw, "radius": radius, "center": center}
    found = yield spectral.bounded_singular_values, arguments
    away = np.abs(np.asarray(found, np.float64) - center)
    slack = TOLERANCE[draw.dtype] * (abs(center) + radius)
    assert np.all(away <= radius + slack)


@case("spectral.singular_values", "diagnostics.singular_values")
def _(draw):
    w = draw.array(*draw.one_of(MATRICES))
    module = draw.one_of((spectral, diagnostics))
    found = yield module.singular_values, {"w": w}
    expected = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
    close(found, expected, draw.dtype, max(expected.max(), 1e-30))


def product_case(name, function, square, inverse, transpose):
    @case(f"spectral.{name}", slow=name != "apply")
    def _(draw):
        parts = draw.svd(square)
        if inverse:
            size = parts["sigma"].size
            parts["sigma"] = jnp.asarray(np.linspace(0.5, 2, size), draw.dtype)
        w = wide_svd(parts)
        w = np.linalg.pinv(w) if inverse else w
        w = w.T if transpose else w
        x = draw.array(*draw.one_of(BATCHES), w.shape[1])
        argument = "y" if inverse or transpose else "x"
        method = draw.one_of(householder.METHODS)
        arguments = {**parts, argument: x, "method": method}
        found = yield on_svd(getattr(spectral, function)), arguments
        expected = np.asarray(x, np.float64) @ w.T
        size = np.max(np.abs(np.asarray(x, np.float64)), initial=0)
        close(found, expected, draw.dtype, 4 * size * np.abs(w).max() + 1e-300)


for _name in ("apply", "apply_transpose", "inverse_apply", "pseudo_inverse_apply"):
    product_case(
        _name, _name, _name == "inverse_apply", "inverse" in _name, "transpose" in _name
    )


@case("spectral.materialize", slow=True)
def _(draw):
    parts, method = draw.svd(), draw.one_of(householder.METHODS)
    w = yield on_svd(spectral.materialize), {**parts, "method": method}
    scale = np.max(np.abs(np.asarray(parts["sigma"], np.float64)))
    close(w, wide_svd(parts), draw.dtype, scale + 1e-300)


@case("spectral.slogdet")
def _(draw):
    parts = draw.svd(square=True)
    parts["sigma"] = jnp.asarray(np.linspace(-2, 3, parts["sigma"].size), draw.dtype)
    sign, logarithm = yield on_svd(spectral.slogdet), parts
    expected = np.linalg.slogdet(wide_svd(parts))
    assert sign == expected[0]
    close(logarithm, expected[1], draw.dtype, 10)


@case("spectral.from_matrix", plain=True, slow=True)
def _(draw):
    w = draw.array(*draw.one_of(MATRICES))
    svd = yield spectral.from_matrix, {"w": w}
    rebuilt = oracles.svd_matrix(svd.u_vectors, svd.v_vectors, svd.sigma)
    size = np.max(np.abs(np.asarray(w, np.float64)))
    close(rebuilt, w, draw.dtype, 4 * size + 1e-300)


@case("spectral.diagonal_plus_low_rank", slow=True)
def _(draw):
    parts = draw.svd(square=True)
    found = yield on_svd(spectral.diagonal_plus_low_rank), parts
    diagonal, a, c = (np.asarray(each, np.float64) for each in found)
    scale = 20 * np.max(np.abs(np.asarray(parts["sigma"], np.float64)))
    close(np.diag(diagonal) + a @ c, wide_svd(parts), draw.dtype, scale + 1e-30)


# ---- Rotations.


def skew_of(draw, n):
    a = np.triu(np.asarray(draw.array(n, n), np.float64), 1)
    return jnp.asarray(a - a.T, draw.dtype)


@case("skew.skew_matrix", "skew.skew_entries")
def _(draw):
    entries = draw.array(draw.one_of((0, 1, 6)), kinds=KINDS)
    a = yield skew.skew_matrix, {"entries": entries}
    assert np.array_equal(np.asarray(a).T, -np.asarray(a))
    assert np.array_equal(skew.skew_entries(a), entries)


@case("skew.exponential", "skew.cayley", "skew.rotation", slow=True)
def _(draw):
    a, map = skew_of(draw, draw.one_of((1, 3, 4))), draw.one_of(skew.MAPS)
    orthogonal((yield skew.rotation, {"a": a, "map": map}))


@case("skew.block_rotation", "skew.block_skew")
def _(draw):
    n, map = draw.one_of((1, 4, 5)), draw.one_of(skew.MAPS)
    angles = draw.array(n // 2)
    w = yield skew.block_rotation, {"angles": angles, "n": n}
    orthogonal(w)
    a = skew.block_skew(angles, n, map)
    close(skew.rotation(a, map), w, draw.dtype)


# ---- Initial values, projection, diagnostics.


@case("initializers.reflector_rows", plain=True, slow=True)
def _(draw):
    shape = draw.one_of(REFLECTORS)
    arguments = {"key": draw.key(), "shape": shape, "dtype": draw.dtype}
    rows = yield initializers.reflector_rows, arguments
    assert rows.shape == shape and rows.dtype == draw.dtype
    assert np.array_equal(np.triu(np.asarray(rows, np.float64)), rows)


@case("initializers.input_weights", plain=True)
def _(draw):
    shape = draw.one_of(((4, 3), (1, 1)))
    arguments = {"key": draw.key(), "shape": shape, "dtype": draw.dtype}
    m = yield initializers.input_weights, {**arguments, "scale": 0.5}
    whole = initializers.input_weights(arguments["key"], shape, 1.0, draw.dtype)
    assert m.shape == shape and m.dtype == draw.dtype
    close(2 * m, np.asarray(whole, np.float64), draw.dtype)


@case("initializers.rotation_angles", plain=True)
def _(draw):
    arguments = {"key": draw.key(), "n": draw.one_of((1, 2, 5)), "dtype": draw.dtype}
    init = draw.one_of(initializers.BLOCK_ROTATIONS)
    angles = yield initializers.rotation_angles, {**arguments, "init": init}
    assert np.all(np.abs(np.asarray(angles, np.float64)) <= math.pi + 0.02)


@case("initializers.rotated_rows", plain=True, slow=True)
def _(draw):
    n = draw.one_of((1, 4))
    rows = initializers.reflector_rows(draw.key(), (n, n), draw.dtype)
    angles = draw.array(n // 2)
    arguments = {"v_vectors": rows, "angles": angles}
    u = yield initializers.rotated_rows, arguments
    found = oracles.reflector_product(u) @ oracles.reflector_product(rows).T
    close(found, skew.block_rotation(np.asarray(angles, np.float64), n), draw.dtype)


@case("initializers.raw_singular_values", plain=True)
def _(draw):
    arguments = {"key": draw.key(), "size": draw.one_of((0, 1, 4)), "dtype": draw.dtype}
    center = draw.one_of((0.0, 1.0))
    raw = yield initializers.raw_singular_values, {**arguments, "center": center}
    assert center == 0 or not np.any(raw)


@case("initializers.raw_from_singular_values", plain=True, slow=True)
def _(draw):
    sigma = jnp.asarray(np.linspace(0.8, 1.1, draw.one_of((1, 4))), draw.dtype)
    arguments = {"sigma": sigma, "radius": 0.5, "center": 1.0}
    raw = yield initializers.raw_from_singular_values, arguments
    back = spectral.bounded_singular_values(raw, radius=0.5, center=1.0)
    close(back, sigma, draw.dtype)


@case("initializers.check_inside", plain=True)
def _(draw):
    sigma = jnp.asarray(np.linspace(0.8, 1.1, draw.one_of((1, 4))), draw.dtype)
    arguments = {"sigma": sigma, "radius": 0.5, "center": 1.0}
    assert (yield initializers.check_inside, arguments) is None


@case("projection.is_reflectors", plain=True)
def _(draw):
    name = draw.one_of(("u_vectors", "v_vectors", "vectors", "w", ""))
    arguments = {"path": (jax.tree_util.DictKey(name),)}
    assert (yield projection.is_reflectors, arguments) == name.endswith("vectors")


def projected(u_vectors, step):
    transformation = projection.unit_reflectors()
    params, updates = {"u_vectors": u_vectors}, {"u_vectors": step}
    updates, _ = transformation.update(updates, transformation.init(params), params)
    return optax.apply_updates(params, updates)["u_vectors"]


@case("projection.unit_reflectors")
def _(draw):
    vectors = draw.array(4, 4, kinds=("normal", "repeated", "basis"))
    found = yield projected, {"u_vectors": vectors, "step": 0.25 * vectors}
    close(np.linalg.norm(np.asarray(found, np.float64), axis=1), np.ones(4), draw.dtype)


@case("diagnostics.spectral_margin")
def _(draw):
    values = draw.array(draw.one_of((1, 4)))
    found = yield diagnostics.spectral_margin, {"values": values, "center": 1.0}
    close(found, np.max(np.abs(np.asarray(values, np.float64) - 1)), draw.dtype, 4)


def gradient_norms(weights, time_axis):
    return diagnostics.state_gradient_norms(
        lambda h: jnp.sum(weights * h), weights.shape, time_axis=time_axis
    )


@case("diagnostics.state_gradient_norms", plain=True)
def _(draw):
    weights = draw.array(3, 2, 4, dtype="float32")
    norms = yield gradient_norms, {"weights": weights, "time_axis": 0}
    close(norms, np.linalg.norm(np.asarray(weights).reshape(3, -1), axis=1), "float32")


# ---- The certificate's parts.

CLASS = {
    **{"features": 2, "hidden": 3, "classes": 2, "reflectors": (1, 3), "radius": 0.1},
    **{"steps": 5, "inputs_bound": 1.0, "center": 1.0},
}
NORMS = {"input_weights": 1.0, "bias": 0.5, "readout": 2.0, "readout_bias": 0.0}


def number(draw, least=0.0):
    return draw.one_of((least, 1e-30, 0.3, 1, np.float32(0.5), 7.0, 1e30))


def drawn_class(draw):
    changed = {"radius": number(draw), "center": draw.one_of((0, 1, -2.0, 1e30))}
    changed |= {"steps": draw.one_of((1, 2, 300)), "inputs_bound": number(draw, 1e-9)}
    return CLASS | changed


@case(
    "certificate.generalization.Classifiers",
    "certificate.generalization.Norms",
    plain=True,
    odd=tuple(CLASS),
)
def _(draw):
    found = yield generalization.Classifiers, drawn_class(draw)
    assert found.beta >= found.radius
    norms = {name: number(draw) for name in NORMS}
    assert vars(generalization.Norms(**norms)) == pytest.approx(norms)


def whole_bound(eta, **parts):
    norms = generalization.Norms(**{name: parts.pop(name) for name in NORMS})
    kind = generalization.Classifiers(**parts)
    found = generalization.groups(kind, norms)
    assert sum(each.dimension for each in found) == generalization.dimensions(kind)
    slopes = generalization.sensitivity(kind, norms)
    assert all(value >= 0 for value in vars(slopes).values())
    return generalization.log_cover(kind, norms, eta)


@case(
    *(
        "certificate.generalization.sensitivity",
        "certificate.generalization.Sensitivity",
    ),
    *(
        "certificate.generalization.groups",
        "certificate.generalization.Group",
        "certificate.generalization.dimensions",
    ),
    *("certificate.generalization.log_cover",),
    odd=("eta", "steps", "radius", "bias"),
    plain=True,
    infinite=True,
)
def _(draw):
    norms = {name: number(draw) for name in NORMS}
    arguments = {**drawn_class(draw), **norms, "eta": number(draw, 1e-9)}
    assert (yield whole_bound, arguments) >= 0


@case("certificate.generalization.kl_inverse", plain=True, odd=("q", "a"))
def _(draw):
    q, a = draw.one_of((0, 0.0, 0.3, 1.0, 1 - 1e-16)), number(draw)
    p = yield generalization.kl_inverse, {"q": q, "a": a}
    assert q <= p <= 1


@case("certificate.generalization.round_up", plain=True, odd=("value",))
def _(draw):
    value = number(draw)
    k, power = yield generalization.round_up, {"value": value, "least": -400}
    assert power == 2.0 ** (k / 4) >= value * (1 - 1e-15)


@case("certificate.generalization.check_chance", plain=True, odd=("delta", "models"))
def _(draw):
    delta = draw.one_of((1e-300, 0.05, 1 - 1e-16))
    arguments = {"delta": delta, "models": draw.one_of((1, 3, 10**6))}
    found = yield generalization.check_chance, arguments
    assert found == (delta, arguments["models"])


@case("certificate.generalization.log_choices", plain=True)
def _(draw):
    exponents = draw.one_of(((), (0,), (-3, 2), (10**6,)))
    assert (yield generalization.log_choices, {"exponents": exponents}) >= 0


def on_numpy(function):
    """A function with JAX's arrays as numpy's."""

    def of_numpy(**arguments):
        return function(
            **{
                k: np.asarray(v) if isinstance(v, jax.Array) else v
                for k, v in arguments.items()
            }
        )

    return of_numpy


@case(
    "certificate.generalization.margins",
    "certificate.generalization.ramp_loss",
    plain=True,
)
def _(draw):
    count = draw.one_of((0, 1, 3))
    logits = draw.array(count, 4, dtype="float32", kinds=KINDS)
    labels = jnp.asarray(np.arange(count) % 4)
    found = yield on_numpy(generalization.margins), {"logits": logits, "labels": labels}
    assert found.shape == (count,)
    if count:
        assert 0 <= generalization.ramp_loss(found, 0.5) <= 1


@case(
    *("certificate.generalization.bound", "certificate.generalization.certificate"),
    *("certificate.generalization.Certificate",),
    odd=("delta",),
    plain=True,
    infinite=True,
)
def _(draw):
    kind = generalization.Classifiers(**drawn_class(draw))
    norms = generalization.Norms(**{name: number(draw) for name in NORMS})
    arguments = {"classifiers": kind, "norms": norms}
    margins = np.asarray(draw.array(draw.one_of((1, 5)), dtype="float32", kinds=KINDS))
    arguments |= {"margins": jnp.asarray(margins), "delta": draw.one_of((0.05, 1e-30))}

    def both(classifiers, norms, margins, delta):
        found = generalization.certificate(classifiers, norms, margins, delta=delta)
        at_one = generalization.bound(
            *(classifiers, norms, generalization.ramp_loss(margins, 1.0)),
            **{"gamma": 1.0, "examples": len(margins), "delta": delta},
        )
        assert found.bound <= at_one.bound <= 1
        return found

    found = yield on_numpy(both), arguments
    assert found.training_error <= found.bound


@case(
    *(
        "certificate.certification.classifiers",
        "certificate.certification.norms",
        "certificate.certification.margins",
    ),
    *("certificate.certification.certify",),
    odd=("inputs_bound",),
    plain=True,
    slow=True,
)
def _(draw):
    model = rnn.SpectralRNN(2, 3, reflectors=1, radius=0.1, rngs=nnx.Rngs(0))
    readout = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    inputs = draw.array(3, 2, 2, dtype="float32")
    arguments = {"rnn": model, "readout": readout, "inputs": inputs}
    arguments |= {"labels": jnp.array([0, 1, 1]), "inputs_bound": 1e3}
    found = yield certification.certify, arguments
    assert found.training_error <= found.bound <= 1


@case(
    "certificate.rounding.Grid",
    "certificate.rounding.fitting",
    odd=("bits",),
    plain=True,
)
def _(draw):
    values = np.asarray(draw.array(5, dtype="float32", kinds=MODERATE))

    def fitted(values, bits):
        grid = rounding.fitting(np.asarray(values), bits)
        assert grid == rounding.Grid(grid.bits, grid.exponent)
        return grid.rounded(np.asarray(values, np.float32))

    arguments = {"values": jnp.asarray(values), "bits": draw.one_of((1, 2, 9, 24))}
    found = yield fitted, arguments
    largest = np.max(np.abs(values))
    assert np.max(np.abs(found - values)) <= largest
    if arguments["bits"] == 24:
        close(found, values, "float32")


@case(
    "certificate.rounding.bound",
    "certificate.rounding.RoundedCertificate",
    "certificate.rounding.search",
    odd=("training_error", "examples", "delta", "models"),
    plain=True,
)
def _(draw):
    def searched(training_error, examples, **others):
        values, sizes = {"a": np.array([0.3, -0.7])}, {"a": 2}
        grids = rounding.search(values, sizes, lambda _: 0.5, examples=9)
        assert grids["a"].bits == 1
        return rounding.bound(grids, sizes, training_error, examples=examples, **others)

    arguments = {"training_error": draw.one_of((0, 0.3, 1.0, np.float32(0.5)))}
    arguments |= {"examples": draw.one_of((1, 10**6)), "models": draw.one_of((1, 9))}
    arguments |= {"delta": draw.one_of((0.05, 1e-30))}
    found = yield searched, arguments
    assert found.training_error <= found.bound <= 1


@case("certificate.certification.certify_rounded", plain=True, slow=True)
def _(draw):
    readout = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    arguments = {"model": readout, "inputs": draw.array(3, 3, dtype="float32")}
    arguments |= {"labels": jnp.array([0, 1, 1])}
    found, _ = yield certification.certify_rounded, arguments
    assert found.training_error <= found.bound <= 1


# ---- Transitions and the recurrence.


@case("transitions.prefers_low_rank", plain=True)
def _(draw):
    n, reflectors = draw.one_of((1, 9, 100)), draw.one_of((0, 3, 200))
    found = yield transitions.prefers_low_rank, {"n": n, "reflectors": reflectors}
    assert found == (3 * reflectors <= n)


@case("transitions.auto_method", plain=True)
def _(draw):
    n, reflectors = draw.one_of((1, 9, 100)), draw.one_of((0, 3, 200))
    found = yield transitions.auto_method, {"n": n, "reflectors": reflectors}
    assert found == ("low_rank" if 3 * reflectors <= n else "dense")


@case("transitions.from_matrix")
def _(draw):
    w = draw.array(4, 4)
    form = yield transitions.from_matrix, {"w": w}
    assert np.array_equal(form.w, w)


@case("transitions.batch_outer")
def _(draw):
    count = draw.one_of((0, 1, 3))
    x, y = draw.array(count, 2), draw.array(count, 4)
    dtype = householder.factor_dtype(draw.dtype).name
    arguments = {"x": x, "y": y, "dtype": dtype, "precision": None}
    found = yield transitions.batch_outer, arguments
    wide = [np.asarray(each, np.float64) for each in (x, y)]
    close(found, wide[0].T @ wide[1], draw.dtype, 10)


def pulled(u_vectors, v_vectors, sigma, h, method):
    svd = svd_of(u_vectors, v_vectors, sigma)
    form = transitions.from_svd(svd, method)
    out = [form.apply(h, None)[0], form.singular_values()]
    if form.has_backward:
        out += [form.pull_back(h, None)[0]]
    return out


@case(
    *("transitions.from_svd", "transitions.Transition", "transitions.Differentiable"),
    *("transitions.Dense", "transitions.DiagonalPlusLowRank", "transitions.Factored"),
    slow=True,
)
def _(draw):
    parts = draw.svd(square=True)
    method = draw.one_of(transitions.METHODS)
    h = draw.array(draw.one_of((0, 1, 3)), parts["sigma"].size)
    out, values, *back = yield pulled, {**parts, "h": h, "method": method}
    w, wide = wide_svd(parts), np.asarray(h, np.float64)
    size = 20 * np.max(np.abs(w)) * (1 + np.max(np.abs(wide), initial=0))
    close(out, wide @ w.T, draw.dtype, size + 1e-300)
    expected = np.linalg.svd(w, compute_uv=False)
    close(values, expected, draw.dtype, 20 * np.max(np.abs(w)) + 1e-30)
    for found in back:
        close(found, wide @ w, draw.dtype, size + 1e-300)


def recur(u_vectors, v_vectors, sigma, inputs, carry, input_weights, bias, **options):
    method, activation = options.pop("method"), options.pop("activation")
    return recurrence.recurrence(
        transitions.from_svd(svd_of(u_vectors, v_vectors, sigma), method),
        *(inputs, carry),
        activation=activations.Activation(activation),
        **{"input_weights": input_weights, "bias": bias},
        **options,
    )


@case("recurrence.recurrence", slow=True)
def _(draw):
    parts = draw.svd(square=True)
    parts["sigma"] = jnp.asarray(np.linspace(0.5, 1, parts["sigma"].size), draw.dtype)
    n, batch, steps = parts["sigma"].size, draw.one_of((0, 2)), draw.one_of((0, 1, 3))
    arrays = {
        **{"inputs": draw.array(steps, batch, 2), "carry": draw.array(batch, n)},
        **{"input_weights": draw.array(n, 2), "bias": draw.array(n)},
    }
    options = {
        "method": draw.one_of(transitions.METHODS),
        "activation": draw.one_of(("leaky_relu", "tanh", "identity")),
        "last_only": draw.one_of((False, True)),
        "chunk": draw.one_of((None, 2)),
    }
    states, last = yield recur, {**parts, **arrays, **options}
    wide = {name: np.asarray(each, np.float64) for name, each in arrays.items()}
    activation = options["activation"]
    expected = oracles.run_recurrence(wide_svd(parts), activation=activation, **wide)
    close(last, expected[1], draw.dtype, 40)
    if not options["last_only"]:
        close(states, expected[0], draw.dtype, 40)


@case("powers.cheaper", plain=True)
def _(draw):
    sizes = {"n": draw.one_of((1, 64)), "features": 2, "steps": draw.one_of((0, 1, 9))}
    rest = {"items": draw.one_of((0, 1, 1000)), "multiplications": sizes["n"] ** 2}
    found = yield powers.cheaper, {**sizes, **rest}
    assert found == (sizes["steps"] == 9 and rest["items"] == 1000 and sizes["n"] == 64)


@case("powers.block", odd=("steps",))
def _(draw):
    n, steps = draw.one_of((1, 4)), draw.one_of((1, 2, 7))
    w, m = draw.orthonormal(n, n), draw.array(n, 2)
    power, columns = yield powers.block, {"w": w, "input_weights": m, "steps": steps}
    wide = np.asarray(w, np.float64)
    close(power, np.linalg.matrix_power(wide, steps), draw.dtype, 20)
    last = np.linalg.matrix_power(wide, steps - 1) @ np.asarray(m, np.float64)
    close(columns[:, -2:], last, draw.dtype, 20 * (1 + np.max(np.abs(last))))


@case("powers.lagged", odd=("steps",))
def _(draw):
    steps, blocks = draw.one_of((1, 3)), draw.one_of((0, 1, 2))
    inputs = draw.array(steps * blocks, 2, 2)
    found = yield powers.lagged, {"inputs": inputs, "steps": steps}
    assert found.shape == (blocks, 2, 2 * steps)
    for block, lagged in enumerate(np.asarray(found, np.float64)):
        first = np.asarray(inputs[block * steps], np.float64)
        np.testing.assert_array_equal(lagged[:, -2:], first)


@case("powers.last_state")
def _(draw):
    n, batch, steps = draw.one_of((1, 4)), draw.one_of((0, 2)), draw.one_of((0, 1, 5))
    arrays = {
        **{"w": draw.orthonormal(n, n), "inputs": draw.array(steps, batch, 2)},
        **{"carry": draw.array(batch, n), "input_weights": draw.array(n, 2)},
    }
    found = yield powers.last_state, arrays
    wide = {name: np.asarray(each, np.float64) for name, each in arrays.items()}
    h = wide["carry"]
    for x in wide["inputs"]:
        h = h @ wide["w"].T + x @ wide["input_weights"].T
    size = 1 + sum(np.max(np.abs(wide[k]), initial=0) for k in ("carry", "inputs"))
    size *= 1 + np.max(np.abs(wide["input_weights"]), initial=0)
    close(found, h, draw.dtype, 40 * size)


def one_step(w, input_weights, bias, carry, inputs):
    phi = activations.Activation("tanh")
    step = recurrence.Step(transitions.Dense(w), input_weights, bias, None, phi)
    return step(carry, inputs)[0]


@case("recurrence.Step")
def _(draw):
    batch = draw.one_of(BATCHES)
    arguments = {
        **{"w": np.asarray(draw.array(4, 4)), "input_weights": draw.array(4, 2)},
        **{"bias": draw.array(4), "carry": draw.array(*batch, 4)},
        **{"inputs": draw.array(*batch, 2)},
    }
    h = yield one_step, arguments
    assert h.shape == (*batch, 4) and np.all(np.abs(np.asarray(h, np.float64)) <= 1)


def activated(z, name, leak, offset):
    phi = activations.Activation(name, leak)
    h = phi(z, offset)
    return h, phi.pull_back(h, h, z)


@case("activations.Activation")
def _(draw):
    arguments = {"z": draw.array(*draw.one_of(BATCHES), 4, kinds=KINDS)}
    name = draw.one_of(activations.NAMES)
    leak = draw.one_of((None, 0, 0.5)) if name == "leaky_relu" else None
    arguments |= {"name": name, "leak": leak}
    offset = draw.array(4) if arguments["name"] == "modrelu" else None
    h, _ = yield activated, {**arguments, "offset": offset}
    z = np.asarray(arguments["z"], np.float64)
    if offset is not None:
        offset = np.asarray(offset, np.float64)
        if np.any(np.abs(np.abs(z) + offset) < 1e-3):
            return  # at a kink
    leak = activations.LEAK if leak is None else leak
    expected = oracles.activate(name, z, leak=leak, offset=offset)
    close(h, expected, draw.dtype)


# ---- Matrices, layers, cells.


def made_matrix(kind, n_in, n_out, options, rngs, dtype):
    sizes = (n_in, n_out) if kind == "SpectralMatrix" else (n_in,)
    made = getattr(matrices, kind)(*sizes, rngs=rngs, param_dtype=dtype, **options)
    w = made.matrix()
    assert w.shape == made.matrix_shape
    return w, made.singular_values()


SPECTRAL = ({}, {"init": "identity"}, {"center": 0.0, "radius": 1.0}, {"radius": 0})


def spectral_options(draw):
    base = {"reflectors": draw.one_of((1, None, 9)), "radius": 0.1}
    return base | draw.one_of(SPECTRAL)


@case(
    "matrices.SpectralMatrix",
    plain=True,
    odd=("n_in", "n_out", "reflectors", "radius"),
    slow=True,
)
def _(draw):
    options = spectral_options(draw)
    square = options.get("init") == "identity"
    n_out, n_in = draw.one_of(MATRICES[:2] if square else MATRICES)
    given = {**options, "rngs": draw.rngs(), "param_dtype": draw.dtype}
    made = yield matrices.SpectralMatrix, {"n_in": n_in, "n_out": n_out, **given}
    sigma = np.linalg.svd(np.asarray(made.matrix(), np.float64), compute_uv=False)
    center, slack = options.get("center", 1.0), TOLERANCE[draw.dtype]
    assert np.all(sigma <= center + options["radius"] + slack)
    assert np.all(sigma >= center - options["radius"] - slack)


@case(
    "matrices.DenseMatrix",
    "matrices.Matrix",
    odd=("n", "init"),
    plain=True,
    slow=True,
)
def _(draw):
    n, init = draw.one_of((1, 4)), draw.one_of(matrices.DenseMatrix.INITS)
    arguments = {"n": n, "init": init, "rngs": draw.rngs(), "param_dtype": "float32"}
    made = yield matrices.DenseMatrix, arguments
    assert made.matrix().shape == made.transition().w.shape == (n, n)


@case(
    "matrices.OrthogonalMatrix",
    plain=True,
    odd=("n", "map", "init", "negative_fraction"),
    slow=True,
)
def _(draw):
    arguments = {
        **{"n": draw.one_of((1, 4, 5)), "map": draw.one_of(skew.MAPS)},
        **{"init": draw.one_of(matrices.OrthogonalMatrix.INITS), "rngs": draw.rngs()},
        **{"negative_fraction": draw.one_of((0, 0.5, 1)), "param_dtype": draw.dtype},
    }
    made = yield matrices.OrthogonalMatrix, arguments
    orthogonal(made.matrix())


@case("matrices.given_matrix", plain=True, odd=("init",))
def _(draw):
    init = draw.array(2, 4)
    arguments = {"init": init, "shape": (2, 4), "dtype": draw.dtype}
    assert np.array_equal((yield matrices.given_matrix, arguments), init)


@case("spectral.check_interval", plain=True, odd=("radius", "center"))
def _(draw):
    radius, center = number(draw), draw.one_of((1, -1.0, 1e30))
    arguments = {"radius": radius, "center": center}
    assert (yield spectral.check_interval, arguments) == (radius, center)


def layer_outputs(inputs, options, sizes, dtype):
    layer = layers.SpectralLinear(
        *sizes, rngs=nnx.Rngs(0), param_dtype=dtype, **options
    )
    return layer(inputs)


@case("layers.SpectralLinear", slow=True)
def _(draw):
    options, (n_out, n_in) = spectral_options(draw), draw.one_of(MATRICES[:2])
    x = draw.array(*draw.one_of(BATCHES), n_in)
    sizes = {"options": options, "sizes": (n_in, n_out), "dtype": draw.dtype}
    y = yield layer_outputs, {"inputs": x, **sizes}
    long = np.linalg.norm(np.asarray(y, np.float64), axis=-1)
    bound = (1 + 2 * TOLERANCE[draw.dtype]) * (1.1 + 1e-9)
    assert np.all(long <= bound * np.linalg.norm(np.asarray(x, np.float64), axis=-1))


KINDS_OF_RNN = {
    "Spectral": {"reflectors": 2, "radius": 0.1},
    "Dense": {},
    "Orthogonal": {},
}


def cell_outputs(inputs, carry, kind, dtype):
    make = getattr(cells, f"{kind}RNNCell")
    options = KINDS_OF_RNN[kind]
    cell = make(inputs.shape[-1], 4, rngs=nnx.Rngs(0), param_dtype=dtype, **options)
    assert cell.initialize_carry(inputs.shape).shape == (*inputs.shape[:-1], 4)
    return cell(carry, inputs)


@case(
    *("cells.SpectralRNNCell", "cells.DenseRNNCell", "cells.OrthogonalRNNCell"),
    "cells.TransitionCell",
    slow=True,
)
def _(draw):
    batch = draw.one_of(BATCHES)
    arguments = {"inputs": draw.array(*batch, 2), "carry": draw.array(*batch, 4)}
    kind = draw.one_of(tuple(KINDS_OF_RNN))
    h, again = yield cell_outputs, {**arguments, "kind": kind, "dtype": draw.dtype}
    assert h.shape == (*batch, 4) and np.array_equal(h, again)


def rnn_outputs(inputs, carry, kind, dtype, lengths, **options):
    make = getattr(rnn, f"{kind}RNN")
    made = make(*(2, 4), rngs=nnx.Rngs(0), param_dtype=dtype, **KINDS_OF_RNN[kind])
    call = {"initial_carry": carry, "seq_lengths": lengths, **options}
    return made(inputs, **call)


@case(
    "rnn.SpectralRNN",
    "rnn.DenseRNN",
    "rnn.OrthogonalRNN",
    "rnn.TransitionRNN",
    slow=True,
)
def _(draw):
    batch, steps = draw.one_of(((2,), (), (0,))), draw.one_of((3, 1, 0))
    arguments = {"inputs": draw.array(*batch, steps, 2), "carry": draw.array(*batch, 4)}
    arguments |= {"kind": draw.one_of(tuple(KINDS_OF_RNN)), "dtype": draw.dtype}
    lengths = np.resize([steps, 0], batch).astype(np.int32)
    arguments |= {"lengths": draw.one_of((None, jnp.asarray(lengths)))}
    arguments |= {"reverse": draw.one_of((False, True))}
    last_only = draw.one_of((False, True))
    found = yield rnn_outputs, {**arguments, "last_only": last_only}
    assert found.shape == ((*batch, 4) if last_only else (*batch, steps, 4))


# ---- Constraints, kernels, trees.

CONSTRAINTS = (
    constraint.Spectral(0.1),
    constraint.Spectral(1.0, 0.0),
    constraint.SpectralNorm(2.0),
    constraint.Orthogonal(),
    constraint.Orthogonal("exponential"),
    constraint.Orthogonal("cayley"),
)


@case("constraint.Spectral", plain=True, odd=("radius", "center"))
def _(draw):
    arguments = {"radius": number(draw, 0.1), "center": draw.one_of((0.5, -1, 3))}
    made = yield (
        constraint.Spectral,
        {**arguments, "reflectors": draw.one_of((None, 2))},
    )
    assert made.interval[1] == arguments["radius"] + abs(arguments["center"])


@case("constraint.Free", plain=True)
def _(draw):
    w = draw.array(2, 4)
    free = constraint.Free()
    found = yield lambda w: free.matrix(free.parameters(w), w.shape), {"w": w}
    assert np.array_equal(found, w)


@case("constraint.check_no_sigma", plain=True)
def _(draw):
    del draw
    assert (yield constraint.check_no_sigma, {"init_sigma": None}) is None


@case("constraint.SpectralNorm", plain=True, odd=("at_most",))
def _(draw):
    at_most = number(draw, 0.1)
    made = yield constraint.SpectralNorm, {"at_most": at_most}
    assert made.interval == (0, pytest.approx(at_most))


def kept(w, asked, init):
    read = layouts.layout(w.shape, ((1,), (0,)))
    rule, named = layouts.start(
        *(asked, read, read.matrices(w)), init=init, key=jax.random.key(0)
    )
    return rule.kernel(named)


@case(
    *("constraint.Orthogonal", "constraint.Constraint"),
    *("constraint.largest_violation", "layouts.start", "layouts.Rule"),
    plain=True,
    slow=True,
)
def _(draw):
    w, asked = draw.array(*draw.one_of(MATRICES)), draw.one_of(CONSTRAINTS)
    init = draw.one_of(("project", "random"))
    found = yield kept, {"w": w, "asked": asked, "init": init}
    violation = constraint.largest_violation(asked, np.asarray(found, np.float64))
    assert violation <= TOLERANCE[draw.dtype]


@case("layouts.layout", "layouts.Layout", plain=True, odd=("axes", "blocks"))
def _(draw):
    axes = draw.one_of(((0, 1), ((0, 1), 2), (-1, 0)))
    arguments = {"shape": (2, 3, 4), "axes": axes, "blocks": 1}
    read = yield layouts.layout, arguments
    kernel = jnp.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(read.kernel(read.matrices(kernel)), kernel)


def linear(n_in, n_out):
    return nnx.Linear(n_in, n_out, rngs=nnx.Rngs(0))


def constrained(asked, where, init, n_in, n_out):
    model = nnx.Sequential(linear(n_in, n_out), linear(n_out, 2))
    x = jnp.ones((3, n_in))
    paths = kernels.constrain(model, asked, where, init=init, rngs=nnx.Rngs(1))
    assert all(each.violation < 1e-4 for each in kernels.constraints(model))
    y, baked = model(x), kernels.bake(model)(x)
    changed = model.layers[0].kernel
    kernels.set_matrix(changed, changed.matrix(), init="project")
    found = kernels.report("kernel", changed)
    kernels.unconstrain(model)
    return y, baked, model(x), tuple(paths), found.violation


@case(
    *("kernels.constrain", "kernels.constraints", "kernels.bake", "kernels.Kernel"),
    *("kernels.unconstrain", "kernels.set_matrix", "kernels.report", "kernels.Report"),
    *("kernels.Reports", "kernels.Paths", "kernels.Fixed"),
    odd=("init", "where"),
    plain=True,
    slow=True,
)
def _(draw):
    n_out, n_in = draw.one_of(MATRICES[2:])
    arguments = {"asked": draw.one_of(CONSTRAINTS[::2]), "where": "**/kernel"}
    arguments |= {"init": draw.one_of(("project", "random")), "n_in": n_in}
    y, *others, paths, _ = yield constrained, {**arguments, "n_out": n_out}
    assert len(paths) == 2
    for other in others:
        close(other, y, "float32", 10)


def constrained_tree(w, asked, where, init):
    raw, dense = trees.constrain_tree(
        {"a": {"kernel": w}, "b": jnp.ones(3)}, where, asked, init=init
    )
    assert dense.paths == ("a/kernel",)
    return dense(raw)["a"]["kernel"]


@case("trees.constrain_tree", "trees.Dense", plain=True, odd=("init",), slow=True)
def _(draw):
    arguments = {"w": draw.array(*draw.one_of(MATRICES)), "where": "**/kernel"}
    asked = draw.one_of(CONSTRAINTS)
    found = yield constrained_tree, {**arguments, "asked": asked, "init": "project"}
    violation = constraint.largest_violation(asked, np.asarray(found, np.float64))
    assert violation <= TOLERANCE[draw.dtype]


@case("trees.glob", plain=True)
def _(draw):
    pattern = draw.one_of((["**"], ["**", "kernel"], ["a", "*"], []))
    arguments = {"pattern": pattern, "parts": ["a", "kernel"]}
    assert (yield trees.glob, arguments)


# ---- Checks themselves.


@case("checks.check_integer", plain=True, odd=("value",))
def _(draw):
    value = draw.one_of((1, np.int64(3), jnp.int32(7), 10**26))
    arguments = {"name": "n", "value": value, "least": 1}
    assert (yield checks.check_integer, arguments) == value


@case("checks.check_finite", plain=True, odd=("value",))
def _(draw):
    value = draw.one_of((0, 1e-300, np.float32(0.5), jnp.float32(1.0)))
    arguments = {"name": "r", "value": value, "least": 0, "most": 1}
    assert (yield checks.check_finite, arguments) == value


@case("checks.check_name", plain=True, odd=("value",))
def _(draw):
    value = draw.one_of(("a", "b"))
    arguments = {"name": "map", "value": value, "allowed": ("a", "b")}
    assert (yield checks.check_name, arguments) == value


@case(
    *("checks.check_real", "checks.check_floating", "checks.check_finite_entries"),
    plain=True,
)
def _(draw):
    function = draw.one_of(
        (checks.check_real, checks.check_floating, checks.check_finite_entries)
    )
    array = draw.array(*draw.one_of(BATCHES), kinds=KINDS)
    assert (yield function, {"name": "x", "array": array}) is None


@case("checks.check_lengths", plain=True)
def _(draw):
    lengths = np.asarray(
        draw.one_of(((0, 3), (2, 2))), draw.one_of((np.int8, np.int64))
    )
    arguments = {"name": "lengths", "lengths": lengths, "shape": (2,), "steps": 3}
    assert (yield checks.check_lengths, arguments) is None


@case("checks.is_traced", plain=True)
def _(draw):
    array = draw.array(2)
    assert (yield lambda array: checks.is_traced(array), {"array": array}) is False


# ---- The tests.


def test_every_public_function_has_a_case():
    names = [name for case in CASES for name in case.names]
    assert sorted(names) == sorted(public())


# Of a quick case; those of a slow one take more, beside the other slow tests.
EXAMPLES = hypothesis.settings.default.max_examples // 20


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case.slow else [])
        for case in CASES
    ],
    ids=lambda case: case.names[0],
)
def test_right_or_refused(case):
    right = []
    examples = EXAMPLES * 6 // 5 if case.slow else EXAMPLES

    @hypothesis.given(st.data())
    @hypothesis.settings(max_examples=examples, phases=PHASES)
    def holds(data):
        draw = Draw(data)
        with jax.enable_x64(draw.dtype == "float64"):
            steps = case.steps(draw)
            function, arguments = next(steps)
            arrays = [k for k, v in arguments.items() if is_numbers(v)]
            wrong = draw.one_of((None, None, *arrays, *case.odd))
            if wrong is None:
                result = outcome(case, function, arguments)
                (no_nan if case.infinite else finite)(result)
                with pytest.raises(StopIteration):
                    steps.send(result)
                right.append(result)
                return
            arguments[wrong] = spoiled(data, arguments[wrong])
            try:
                no_nan(function(**arguments))
            except (ValueError, TypeError) as error:
                clear(error, case)

    holds()
    assert right


# Shrinking compiles at every step: a failing example is shown as it was drawn.
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("map", skew.MAPS)
def test_rotations_of_huge_matrices_are_orthogonal_or_refused(x64, map, dtype):
    refused = 0
    for n, size in ((3, 1e3), (4, 1e30), (3, 3e4), (3, 1e30), (4, 1e-30)):
        a = np.triu(np.random.default_rng(n).normal(size=(n, n)), 1)
        a = jnp.asarray(size * (a - a.T), dtype)
        try:
            w = np.asarray(skew.rotation(a, map), np.float64)
        except ValueError as error:
            assert re.match(
                "a must have a 1-norm of at most .*, got .*e[+]30$", str(error)
            )
            refused += 1
            continue
        error = np.max(np.abs(w.T @ w - np.eye(n)))
        assert error <= 10 * np.finfo(dtype).eps * max(1, size)
    assert refused == 2
