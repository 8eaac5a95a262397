"""Oracles in numpy: plain float64 loops that share no code with the library."""

import functools

import jax
import numpy as np

# Programs of tests compile for much longer than they run: a quarter of the time.
_QUICK: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # some later XLA has no such option
    _QUICK["xla_cpu_use_fusion_emitters"] = False
jit = functools.partial(jax.jit, compiler_options=_QUICK)


def reflector_product(vectors):
    """Q = H_0 H_1 ... H_{m-1} (n, n), one dense reflector after another."""
    vectors = np.asarray(vectors, np.float64)
    q = np.eye(vectors.shape[1])
    for i, row in enumerate(vectors):
        u = np.where(np.arange(row.size) < i, 0.0, row)
        if np.any(u):
            u = u / np.max(np.abs(u))  # its square may not be a float64
            q = q - 2 * np.outer(q @ u, u) / (u @ u)
    return q


def svd_matrix(u_vectors, v_vectors, sigma):
    """W = U Sigma V^T (n_out, n_in), with Sigma rectangular diagonal."""
    middle = np.zeros((u_vectors.shape[1], v_vectors.shape[1]))
    np.fill_diagonal(middle, np.asarray(sigma, np.float64))
    return reflector_product(u_vectors) @ middle @ reflector_product(v_vectors).T


def activate(name, z, *, leak=0.01, offset=None):
    """phi(z), by cases."""
    if name == "leaky_relu":
        return np.where(z > 0, z, leak * z)
    if name == "modrelu":
        return np.where(np.abs(z) + offset > 0, z + np.sign(z) * offset, 0.0)
    return {"relu": lambda z: z * (z > 0), "tanh": np.tanh, "identity": lambda z: z}[
        name
    ](z)


def run_recurrence(
    w,
    inputs,
    carry,
    *,
    input_weights,
    bias=None,
    activation="leaky_relu",
    leak=0.01,
    offset=None,
    lengths=None,
    perturbations=None,
):
    """States (time, batch, n) and last states (batch, n), one item at a time."""
    steps, batch, _ = inputs.shape
    states = np.zeros((steps, batch, w.shape[0]))
    last = np.array(carry, np.float64)
    for j in range(batch):
        h = np.array(carry[j], np.float64)
        for t in range(steps):
            z = w @ h + input_weights @ inputs[t, j]
            z = z if bias is None else z + bias
            h = activate(activation, z, leak=leak, offset=offset)
            h = h if perturbations is None else h + perturbations[t, j]
            states[t, j] = h
            if t + 1 == (steps if lengths is None else lengths[j]):
                last[j] = h
    return states, last


def finite_difference(f, x, step=1e-6):
    """Gradient of a scalar function of one array by central differences."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        change = np.zeros_like(x)
        change[index] = step
        gradient[index] = (f(x + change) - f(x - change)) / (2 * step)
    return gradient


def dot_precisions(f, *arguments):
    """Precision of every matrix product in the program of f."""
    found = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found.append(equation.params["precision"])
            for value in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda a: hasattr(a, "eqns")
            ):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(f)(*arguments).jaxpr)
    return found
