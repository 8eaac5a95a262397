"""Orthogonal matrices as products of Householder reflectors: pure functions.

Conventions. `vectors` has shape (m, n), m <= n; row i counts from entry i on, so
that only the upper trapezoid matters. With r_i the masked row scaled to unit
length, H_i = I - 2 r_i r_i^T and

    Q = H_0 H_1 ... H_{m-1}.

A zero row is the identity, with zero gradients, so that it never moves. A row whose
largest entry is below the smallest normal number of float32, or of float64 where it
has that dtype, counts as zero.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from svdrnn import _platform, checks
from svdrnn._autodiff import forward_mode_explained
from svdrnn._sharding import vary_alike
from svdrnn._types import AnyArray

METHODS = ("auto", "scan", "wy")

# Blocks of reflectors smaller than this gain nothing: their products are too thin.
_MIN_BLOCK = 64

# Those of the loop over blocks on an accelerator, as long as its units are wide.
_LOOP_BLOCK = 128


def matmul(a: Float[AnyArray, "..."], b: Float[AnyArray, "..."]) -> Float[Array, "..."]:
    """Matrix product at full precision on every backend.

    Raises:
      ValueError: matrices that are not floating.
      TypeError: shapes that do not fit.
    """
    checks.check_floating("a", a)
    checks.check_floating("b", b)
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def factor_dtype(*dtypes: DTypeLike) -> jnp.dtype:
    """The dtype factors are computed in: float64 if one of these is, else float32."""
    double = any(jnp.dtype(dtype) == jnp.float64 for dtype in dtypes)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def check_vectors(name: str, vectors: AnyArray) -> None:
    """Raises ValueError unless `vectors` is a floating (m, n) array with m <= n."""
    if vectors.ndim != 2:
        raise ValueError(
            f"{name} must have shape (m, n), got {vectors.ndim} axes: {vectors.shape}"
        )
    checks.check_floating(name, vectors)
    m, n = vectors.shape
    if n == 0:
        raise ValueError(f"{name} must have at least one column, got {vectors.shape}")
    if m > n:
        raise ValueError(
            f"{name} must have at most n = {n} rows (reflectors), got m = {m}"
        )


def _scale(masked):
    """Largest magnitude of every row, and which rows are not zero."""
    scale = jnp.max(jnp.abs(masked), axis=-1, keepdims=True)
    # Not `scale >= tiny`: a NaN row has to stay NaN.
    nonzero = ~(scale < jnp.finfo(masked.dtype).tiny)
    return scale, nonzero


def nonzero_reflectors(vectors: Float[AnyArray, "m n"]) -> Bool[Array, " m"]:
    """Which rows of `vectors` (m, n) are reflectors, (m,) bool; the rest are I.

    Raises:
      ValueError: `vectors` is not a floating (m, n) array with m <= n.
    """
    vectors = jnp.asarray(vectors)
    check_vectors("vectors", vectors)
    wide = vectors.astype(factor_dtype(vectors.dtype))
    return _scale(jnp.triu(wide))[1][:, 0]


def unit_rows(vectors: Float[AnyArray, "*stack m n"]) -> Float[Array, "*stack m n"]:
    """Masked rows of unit length, (..., m, n) in `factor_dtype`; zero rows stay.

    Raises:
      ValueError: `vectors` is not a floating (..., m, n) array, n at least 1.
    """
    vectors = jnp.asarray(vectors)
    checks.check_floating("vectors", vectors)
    if vectors.ndim < 2 or vectors.shape[-1] == 0:
        raise ValueError(
            f"vectors must have shape (..., m, n) with n of at least 1, got"
            f" {vectors.shape}"
        )
    masked = jnp.triu(vectors.astype(factor_dtype(vectors.dtype)))
    # The unit row does not depend on the scale, so neither does its derivative.
    scale, nonzero = _scale(jax.lax.stop_gradient(masked))
    scaled = jnp.where(nonzero, masked / jnp.where(nonzero, scale, 1), 0)
    square = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(nonzero, square, 1))


def _invert_upper_small(s):
    """Inverse of an upper triangular matrix (m, m) by doubling its diagonal blocks.

    With T1 and T2 the inverses of two neighbouring blocks and B the block of s above
    the second, the inverse of both together has -T1 B T2 there. All pairs at once.
    """
    index = np.arange(s.shape[0])
    inverse = jnp.diag(1 / jnp.diagonal(s))
    width = 1
    while width < s.shape[0]:
        block = index // width
        pairs = (block[:, None] % 2 == 0) & (block[None, :] == block[:, None] + 1)
        above = s * jnp.asarray(pairs, s.dtype)
        inverse = inverse - matmul(matmul(inverse, above), inverse)
        width *= 2
    return inverse


def _invert_upper_loop(s):
    """As `_invert_upper_small`, in a loop: a program of two products for any m."""
    index = jnp.arange(s.shape[0])

    def double(inverse, log_width):
        block = index >> log_width
        pairs = (block[:, None] % 2 == 0) & (block[None, :] == block[:, None] + 1)
        above = s * pairs.astype(s.dtype)
        return inverse - matmul(matmul(inverse, above), inverse), None

    doublings = np.arange((s.shape[0] - 1).bit_length())
    return jax.lax.scan(double, jnp.diag(1 / jnp.diagonal(s)), doublings)[0]


# Matrix products instead of a triangular solve: as fast on an idle CPU, never stalled
# by the threads of LAPACK on a busy one, and what accelerators are good at.
@jax.custom_jvp
def _invert_upper(s):
    """Inverse of an upper triangular matrix (m, m)."""
    m = s.shape[0]
    if m <= _MIN_BLOCK:
        return _invert_upper_small(s)
    if _platform.name() != "cpu":
        return _invert_upper_loop(s)
    half = m // 2
    first, second = _invert_upper(s[:half, :half]), _invert_upper(s[half:, half:])
    above = -matmul(matmul(first, s[:half, half:]), second)
    return jnp.block([[first, above], [jnp.zeros_like(above.T), second]])


@_invert_upper.defjvp
def _invert_upper_jvp(primals, tangents):
    inverse = _invert_upper(primals[0])
    return inverse, -matmul(matmul(inverse, tangents[0]), inverse)


def _triangular_factor(rows):
    """Upper triangular T (m, m) with I - rows^T T rows = H_0 ... H_{m-1}."""
    # Half the diagonal of the Gram matrix is 1/2, and of a zero row, where any
    # positive number would do, 1.
    diagonal = jnp.where(jnp.all(rows == 0, axis=-1), 1.0, 0.5).astype(rows.dtype)
    return _invert_upper(jnp.triu(matmul(rows, rows.T), 1) + jnp.diag(diagonal))


def wy_factors(
    vectors: Float[AnyArray, "m n"],
) -> tuple[Float[Array, "m n"], Float[Array, "m m"]]:
    """Compact WY form of a product of reflectors: Q = I - rows^T t rows.

    t is the inverse of the strict upper part of `rows rows^T` plus half its
    diagonal. Its entries are at most 4 in magnitude, whatever the rows.

    Args:
      vectors: (m, n) with m <= n; entries below the trapezoid are ignored.

    Returns:
      rows: (m, n), masked rows of unit length (zero rows stay zero).
      t: (m, m), upper triangular. Both in float32 or, for float64 input, float64.

    Cost: 2 m^2 n + 2/3 m^3 flops, matrix products only.

    Raises:
      ValueError: `vectors` is not a floating (m, n) array with m <= n.

    Source: Schreiber and Van Loan (1989); Joffrain et al. (2006) for the inverse.
    Not checked: that entries are finite.
    """
    vectors = jnp.asarray(vectors)
    check_vectors("vectors", vectors)
    rows = unit_rows(vectors)
    return rows, _triangular_factor(rows)


def _apply_scan(rows, x, transpose):
    def reflect(x, row):
        return x - 2 * matmul(x, row)[:, None] * row[None], None

    return jax.lax.scan(reflect, x, rows, reverse=not transpose)[0]


def _blocks(rows):
    """Blocks of reflectors (rows, T), first to last, on the coordinates they touch.

    At most eight blocks, so that programs stay short, of at least _MIN_BLOCK rows.
    Rows of a block that starts at row i are zero in their first i entries: they are
    cut off.
    """
    m = rows.shape[0]
    size = max(_MIN_BLOCK, -(-m // 8))
    blocks = [rows[start : start + size, start:] for start in range(0, m, size)]
    return [(block, _triangular_factor(block)) for block in blocks]


def _apply_block(rows, t, x):
    return x - matmul(matmul(matmul(x, rows.T), t.T), rows)


def _in_loop(rows):
    """Whether blocks of so many rows are taken in a loop.

    On a CPU they are written out, so that each leaves alone the coordinates it does not
    touch, which saves two thirds of the products. Accelerators have no use for that,
    and their compilers take minutes over so many products at full precision.
    """
    return rows.shape[0] > _LOOP_BLOCK and _platform.name() != "cpu"


def _apply_loop(rows, x, transpose):
    """As `_apply_wy`, with blocks of one shape."""
    m, n = rows.shape
    count = -(-m // _LOOP_BLOCK)
    padded = jnp.pad(rows, ((0, count * _LOOP_BLOCK - m), (0, 0)))
    blocks = padded.reshape(count, _LOOP_BLOCK, n)

    def step(x, block):
        rows, t = block
        return _apply_block(rows, t.T if transpose else t, x), None

    factors = jax.vmap(_triangular_factor)(blocks)
    blocks = (blocks, factors)
    return jax.lax.scan(step, vary_alike(x, blocks), blocks, reverse=not transpose)[0]


def _apply_wy(rows, x, transpose):
    if _in_loop(rows):
        return _apply_loop(rows, x, transpose)
    blocks = _blocks(rows)
    if transpose:
        heads = []
        for block, t in blocks:
            x = _apply_block(block, t.T, x)
            heads.append(x[:, : block.shape[0]])
            x = x[:, block.shape[0] :]
        return jnp.concatenate(heads + [x], axis=1)
    tail = x[:, rows.shape[0] :]
    for block, t in reversed(blocks):
        start = rows.shape[1] - block.shape[1]
        head = x[:, start : start + block.shape[0]]
        tail = _apply_block(block, t, jnp.concatenate([head, tail], axis=1))
    return tail


def apply_reflectors(
    vectors: Float[AnyArray, "m n"],
    x: Float[AnyArray, "*batch n"],
    *,
    transpose: bool = False,
    method: str = "auto",
) -> Float[Array, "*batch n"]:
    """Product Q x of reflectors with every vector of a batch, or Q^T x.

    Q = H_0 H_1 ... H_{m-1}, so Q x applies the last row first.

    Args:
      vectors: (m, n) with m <= n; entries below the trapezoid are ignored.
      x: (..., n).
      transpose: applies Q^T, which is also the inverse.
      method: "scan" reflects one row after another (the reference). "wy" takes the
        compact WY form, matrix products only, in blocks of b = max(64, m / 8)
        reflectors on the coordinates they touch; where JAX's default device is no CPU,
        more than 128 in blocks of 128 on all. "auto" takes "wy" at any shape.

    Returns:
      (..., n) in the dtype that JAX promotes `vectors` and `x` to. bfloat16 and
      float16 are computed in float32 and rounded once.

    Cost: 4 m n - 2 m^2 flops a vector with more reflectors than one block, 4 m n
    otherwise; "wy" adds about 2 b m n once and 2 b m a vector.

    Raises:
      ValueError: shapes or dtypes that do not fit, unknown method.

    Source: Zhang, Lei and Dhillon (2018), section 3. Not checked: finite entries.
    """
    checks.check_name("method", method, METHODS)
    vectors, x = jnp.asarray(vectors), jnp.asarray(x)
    check_vectors("vectors", vectors)
    checks.check_floating("x", x)
    n = vectors.shape[1]
    if x.ndim == 0 or x.shape[-1] != n:
        raise ValueError(
            f"x must have shape (..., {n}), the length of the reflectors, got {x.shape}"
        )
    dtype = jnp.result_type(vectors, x)
    if vectors.shape[0] == 0:
        return x.astype(dtype)
    wide = factor_dtype(dtype)
    rows = unit_rows(vectors.astype(wide))
    apply = _apply_scan if method == "scan" else _apply_wy
    y = apply(rows, x.astype(wide).reshape(-1, n), transpose)
    return y.reshape(x.shape).astype(dtype)


def _product_forward(rows):
    """Q (n, n), and what its derivative needs: a growing corner, last block first.

    The reflectors from row i on leave the first i coordinates alone, so that their
    product is known by its trailing corner E, and the block before them makes of it
    the corner I - rows^T P with P = T rows [I 0; 0 E], plus [0 0; 0 E - I].
    """
    blocks = _blocks(rows)
    last, t = blocks[-1]
    p = matmul(t, last)
    corner = jnp.eye(last.shape[1], dtype=rows.dtype) - matmul(last.T, p)
    saved = [(last, t, p, None)]
    for block, t in reversed(blocks[:-1]):
        k, n = block.shape
        p = matmul(t, jnp.hstack([block[:, :k], matmul(block[:, k:], corner)]))
        saved.append((block, t, p, corner))
        first = jnp.diag(jnp.asarray(np.arange(n) < k, rows.dtype))
        corner = jnp.pad(corner, (k, 0)) + first - matmul(block.T, p)
    return corner, saved


def _product_backward(saved, g):
    """Gradient to the rows, given g = dL/dQ: one pass, first block to last.

    With R = T^T rows and g the gradient to the corner of a block, the gradient is
    -P g^T - R g [I 0; 0 E]^T to its rows, R g P^T to T^{-1}, whose strict upper part
    is that of rows rows^T, and the trailing corner of g - rows^T R g to E.
    """
    n = g.shape[0]
    gradients = []
    for block, t, p, corner in reversed(saved):
        k = block.shape[0]
        rg = matmul(t.T, matmul(block, g))
        gram = jnp.triu(matmul(rg, p.T), 1)
        gradient = matmul(gram + gram.T, block) - matmul(p, g.T)
        if corner is None:
            gradient -= rg
        else:
            gradient -= jnp.hstack([rg[:, :k], matmul(rg[:, k:], corner.T)])
            g = g[k:, k:] - matmul(block[:, k:].T, rg[:, k:])
        gradients.append(jnp.pad(gradient, ((0, 0), (n - block.shape[1], 0))))
    return (jnp.concatenate(gradients),)


@jax.custom_vjp
def _product(rows):
    return _product_forward(rows)[0]


_product.defvjp(_product_forward, _product_backward)


def orthogonal_matrix(
    vectors: Float[AnyArray, "m n"],
    *,
    method: str = "auto",
    custom_backward: bool = True,
) -> Float[Array, "n n"]:
    """The orthogonal matrix Q = H_0 H_1 ... H_{m-1}, (n, n).

    Args:
      vectors: (m, n) with m <= n; entries below the trapezoid are ignored.
      method: "scan" applies one row after another to the identity (the reference).
        "wy" builds Q from its last corner, a block of reflectors in compact WY form
        at a time; where JAX's default device is no CPU, it applies more than 128 to the
        identity. "auto" takes "wy" at any shape.
      custom_backward: True gives "wy" a backward pass of its own, faster but not for
        forward mode (`jax.jvp`, `jax.jacfwd`), unless over a gradient, as in
        `jax.hessian`. False leaves differentiation to JAX.

    Returns:
      (n, n) in the dtype of `vectors`; bfloat16 and float16 are computed in float32.

    Cost: "wy" 4/3 n^3 flops at m = n, 2 m n^2 for m << n, and twice that backward,
    with up to 8/3 n^2 numbers saved for it. "scan" 4 m n^2.

    Raises:
      ValueError: `vectors` is not a floating (m, n) array with m <= n; unknown
        method.
      TypeError: forward mode through the backward pass of its own.

    Source: as LAPACK's orgqr builds Q. Not checked: that entries are finite.
    """
    vectors = jnp.asarray(vectors)
    checks.check_name("method", method, METHODS)
    check_vectors("vectors", vectors)
    dtype = vectors.dtype
    rows = unit_rows(vectors)
    eye = jnp.eye(vectors.shape[1], dtype=rows.dtype)
    if vectors.shape[0] == 0:
        return eye.astype(dtype)
    # Row i of Q is Q^T e_i.
    if method == "scan":
        return _apply_scan(rows, eye, True).astype(dtype)
    if _in_loop(rows):
        return _apply_loop(rows, eye, True).astype(dtype)
    if not custom_backward:
        return _product_forward(rows)[0].astype(dtype)
    with forward_mode_explained():
        return _product(rows).astype(dtype)


def _orthonormal(name, q):
    """The matrix in `factor_dtype`; ValueError unless its columns are orthonormal."""
    if q.ndim != 2 or q.shape[1] > q.shape[0] or q.shape[0] == 0:
        raise ValueError(f"{name} must have shape (n, p) with p <= n, got {q.shape}")
    checks.check_floating(name, q)
    if not checks.is_traced(q):
        checks.check_finite_entries(name, q)
        tolerance = float(jnp.finfo(q.dtype).eps) ** 0.5
        dense = np.asarray(q, dtype=np.float64)
        error = np.max(np.abs(dense.T @ dense - np.eye(q.shape[1])), initial=0.0)
        if error > tolerance:
            raise ValueError(
                f"{name} must have orthonormal columns: |{name}^T {name} - I| is "
                f"{error:.3g}, allowed for {q.dtype} is {tolerance:.3g}"
            )
    return q.astype(factor_dtype(q.dtype))


def _eliminate(q, k):
    """Unit reflector taking column k of q, from entry k on, to +e_k; and H q."""
    n = q.shape[0]
    x = jnp.where(jnp.arange(n) >= k, q[:, k], 0)
    first = x[k]
    rest = x.at[k].set(0)
    rest_square = jnp.sum(rest * rest)
    length = jnp.sqrt(first * first + rest_square)
    # first - length, which cancels where first is close to length.
    stable = -rest_square / jnp.where(first > 0, length + first, 1)
    return _reflect(q, rest.at[k].set(jnp.where(first > 0, stable, first - length)))


def _reflect(q, u):
    """H q and the unit row of H, the reflector along u."""
    scale, nonzero = _scale(u[None])
    u = jnp.where(nonzero[0], u / jnp.where(nonzero[0], scale[0], 1), 0)
    u = u / jnp.sqrt(jnp.where(nonzero[0], jnp.sum(u * u), 1))
    return q - 2 * u[:, None] * matmul(u, q)[None], u


def reflectors_from_orthogonal(q: Float[AnyArray, "n p"]) -> Float[Array, "p n"]:
    """Reflectors whose product has the columns of q as its first p columns.

    The inverse of `orthogonal_matrix`: Householder elimination that takes every
    column to +e_k without cancellation, so that Q[:, :p] = q to rounding also where
    q is close to the identity.

    Args:
      q: (n, p) with orthonormal columns, p <= n.

    Returns:
      vectors (p, n): rows of unit length inside the trapezoid; zero where a column
      is in place already.

    Cost: 4 n p^2 flops.

    Raises:
      ValueError: q is not a floating (n, p) array with p <= n or, where its values
        are known (outside of `jit`), not finite or q^T q further from the identity
        than the square root of the dtype's epsilon.
    """
    q = jnp.asarray(q)
    wide = _orthonormal("q", q)
    if wide.shape[1] == 0:
        return q.T
    _, vectors = jax.lax.scan(_eliminate, wide, jnp.arange(wide.shape[1]))
    return vectors.astype(q.dtype)


def _with_sign(q, k, minus):
    """q with its column k multiplied by -1 where `minus`, and that sign."""
    sign = jnp.where(minus, -1, 1).astype(q.dtype)
    signs = jnp.where(jnp.arange(q.shape[1]) == k, sign, 1)
    return signs[None] * q, sign


def _eliminate_signed(q, k):
    """`_eliminate` of a column whose entry k is made negative first."""
    q, sign = _with_sign(q, k, q[k, k] > 0)
    q, row = _eliminate(q, k)
    return q, (row, sign)


def signed_reflectors(
    q: Float[AnyArray, "n p"],
) -> tuple[Float[Array, "p n"], Float[Array, " p"]]:
    """Reflectors and signs s whose product has the columns s_k q_k as its first p.

    `reflectors_from_orthogonal` has a zero row where a column is in place already, and
    one that turns badly where it nearly is: to turn column k far, its reflector has to
    turn about it first. With its sign each column is taken to the far one of +e_k and
    -e_k, so that no row is zero and every one turns well.

    Args:
      q: (n, p) with orthonormal columns, p <= n.

    Returns:
      vectors (p, n): rows of unit length inside the trapezoid, their entries k at most
      -1 / sqrt(2).
      signs (p,): 1 or -1.

    Cost: 4 n p^2 flops.

    Raises:
      ValueError: as `reflectors_from_orthogonal`.

    Source: Golub and Van Loan, "Matrix Computations", on the sign of a reflector.
    """
    q = jnp.asarray(q)
    wide = _orthonormal("q", q)
    if wide.shape[1] == 0:
        return q.T, q[0]
    _, eliminated = jax.lax.scan(_eliminate_signed, wide, jnp.arange(wide.shape[1]))
    vectors, signs = (part.astype(q.dtype) for part in eliminated)
    return vectors, signs


def _is_unit(q, k, sign):
    """Whether column k of q, from entry k on, is sign e_k to rounding."""
    rest = jnp.where(jnp.arange(q.shape[0]) > k, q[:, k], 0)
    small = jnp.max(jnp.abs(rest)) <= 8 * jnp.finfo(q.dtype).eps
    return small & (sign * q[k, k] > 0)


def _eliminate_movable(q, k):
    """As `_eliminate`, but with a row that is not zero where column k is in place.

    A reflector along any vector that is zero up to entry k leaves e_k where it is, and
    the reflectors behind it make up for what it does to the other columns. The vector
    is a random one, so that the gradient is 0 for no direction that somebody chooses.
    """
    n = q.shape[0]
    random = jnp.asarray(np.random.default_rng(0).normal(size=n), q.dtype)
    behind = jnp.where(jnp.arange(n) > k, random, 0)
    in_place = _is_unit(q, k, 1)
    cases = _reflect(q, behind), _eliminate(q, k)
    return jax.tree.map(lambda *case: jnp.where(in_place, *case), *cases)


def _eliminate_paired(factors, k):
    """`_eliminate_movable` of both, whose columns k may first change sign together."""
    u, v = factors
    u_in_place, v_in_place = _is_unit(u, k, 1), _is_unit(v, k, 1)
    minus = u_in_place & (v_in_place | (k + 1 < u.shape[0]))
    minus |= v_in_place & (k + 1 < v.shape[0])
    minus &= ~(_is_unit(u, k, -1) | _is_unit(v, k, -1))
    u, u_row = _eliminate_movable(_with_sign(u, k, minus)[0], k)
    v, v_row = _eliminate_movable(_with_sign(v, k, minus)[0], k)
    return (u, v), (u_row, v_row)


def paired_reflectors(
    u: Float[AnyArray, "n_out p"], v: Float[AnyArray, "n_in p"]
) -> tuple[Float[Array, "p n_out"], Float[Array, "p n_in"]]:
    """Reflectors of the two factors of W = U Sigma V^T, all of which can be trained.

    Their products have the columns s_k u_k and s_k v_k as their first p, with signs
    s_k that W does not depend on: -1 where a column is in place already, whose row is
    then e_k and not zero, and 1 elsewhere. If u_k is in place where -v_k is, or the
    other way round, no sign helps, and a row of random direction is undone by the rows
    behind it.

    Args:
      u: (n_out, p) with orthonormal columns, p <= n_out.
      v: (n_in, p), likewise.

    Returns:
      u_vectors (p, n_out), v_vectors (p, n_in): rows of unit length inside the
      trapezoid, of which the last one of a square factor may be zero.

    Cost: 4 (n_out + n_in) p^2 flops.

    Raises:
      ValueError: as `reflectors_from_orthogonal`; u and v have other numbers of
        columns.
    """
    u, v = jnp.asarray(u), jnp.asarray(v)
    factors = _orthonormal("u", u), _orthonormal("v", v)
    p = u.shape[1]
    if v.shape[1] != p:
        raise ValueError(f"v must have as many columns as u, {p}, got {v.shape}")
    if p == 0:
        return u.T, v.T
    _, rows = jax.lax.scan(_eliminate_paired, factors, jnp.arange(p))
    return rows[0].astype(u.dtype), rows[1].astype(v.dtype)
