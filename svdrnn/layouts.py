"""Kernels as matrices: input axes flattened against output axes, and back.

A layout says which axes of a kernel are inputs and which are outputs; every other axis
counts matrices. `Rule` joins it with a constraint: the static half of a constrained
kernel, whose other half is its parameters.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from svdrnn._autodiff import forward_mode_explained
from svdrnn._sharding import replicated
from svdrnn._types import is_abstract
from svdrnn.checks import check_floating, check_integer, check_name
from svdrnn.constraint import (
    DRAWN,
    FROM_MATRIX,
    FROM_NOTHING,
    INITS,
    Constraint,
    check_no_sigma,
    largest_violation,
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a kernel of `shape` is read as matrices (..., n_out, n_in).

    Attributes:
      shape: of the kernel, without the leading axes that count whole kernels (those
        of `nnx.vmap`, or of a batch): a kernel may have any number of them.
      inputs, outputs: its axes, flattened in this order to n_in and n_out. Axes in
        neither count matrices.
      blocks: equal parts of the flattened outputs, each a matrix of its own: the
        gates of a fused kernel, the groups of a convolution, heads.
    """

    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    blocks: int = 1

    @property
    def stack(self) -> tuple[int, ...]:
        """Axes of `shape` that count matrices."""
        used = self.inputs + self.outputs
        return tuple(i for i in range(len(self.shape)) if i not in used)

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """Leading shape of the matrices of one kernel; the blocks come last."""
        counted = tuple(self.shape[i] for i in self.stack)
        return counted + ((self.blocks,) if self.blocks > 1 else ())

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        n_out = math.prod(self.shape[i] for i in self.outputs)
        return n_out // self.blocks, math.prod(self.shape[i] for i in self.inputs)

    def matrices(
        self, kernel: Float[Array, "*kernel"] | jax.ShapeDtypeStruct
    ) -> Float[Array, "*stack n_out n_in"] | jax.ShapeDtypeStruct:
        """(*lead, *shape) -> (*lead, *stack_shape, n_out, n_in).

        The matrices are whole on every device, also where a mesh with explicit axes
        splits the kernel. For the shape of a kernel the result is a shape.
        """
        if isinstance(kernel, jax.ShapeDtypeStruct):
            return jax.eval_shape(self.matrices, kernel)  # type: ignore[arg-type]
        kernel = replicated(kernel)
        lead = kernel.ndim - len(self.shape)
        order = self.stack + self.outputs + self.inputs
        moved = jnp.transpose(kernel, (*range(lead), *(lead + i for i in order)))
        return moved.reshape(kernel.shape[:lead] + self.stack_shape + self.matrix_shape)

    def kernel(
        self, matrices: Float[Array, "*stack n_out n_in"]
    ) -> Float[Array, "*kernel"]:
        """The inverse of `matrices`."""
        lead = matrices.ndim - len(self.stack_shape) - 2
        order = self.stack + self.outputs + self.inputs
        moved_shape = tuple(self.shape[i] for i in order)
        moved = matrices.reshape(matrices.shape[:lead] + moved_shape)
        back = tuple(lead + int(i) for i in np.argsort(order))
        return jnp.transpose(moved, (*range(lead), *back))


def layout(
    shape: Sequence[int],
    axes: Any,
    blocks: int = 1,
) -> Layout:
    """The layout of a kernel by its axes.

    Leading axes that are neither inputs nor outputs count whole kernels and are left
    out of the layout.

    Args:
      shape: of the kernel.
      axes: (input axes, output axes), each a number or several.
      blocks: see `Layout`.

    Raises:
      ValueError: for axes that are out of range, named twice or missing on a side;
        for blocks that do not divide the outputs; for a kernel without entries.
    """
    shape = tuple(shape)
    inputs, outputs = _axes(axes, len(shape))
    if 0 in shape:
        raise ValueError(f"kernel must have entries, got shape {shape}")
    blocks = check_integer("blocks", blocks)
    n_out = math.prod(shape[i] for i in outputs)
    if n_out % blocks:
        raise ValueError(f"blocks must divide the {n_out} outputs, got {blocks}")
    lead = min(inputs + outputs)
    inputs, outputs = (tuple(i - lead for i in side) for side in (inputs, outputs))
    return Layout(shape[lead:], inputs, outputs, blocks)


def _axes(axes, ndim):
    """Both sides as tuples of axes from 0 on; ValueError unless they are."""
    try:
        sides = [tuple(s) if np.iterable(s) else (s,) for s in axes]
        flat = [operator.index(i) for side in sides for i in side]
        flat = [i + ndim if i < 0 else i for i in flat]
        good = len(sides) == 2 and all(sides) and len(set(flat)) == len(flat)
        good = good and all(0 <= i < ndim for i in flat)
    except TypeError:
        good = False
    if not good:
        raise ValueError(
            f"axes must be (input axes, output axes) of a kernel of {ndim} axes, each "
            f"axis once, got {axes!r}"
        )
    return tuple(flat[: len(sides[0])]), tuple(flat[len(sides[0]) :])


def _over(function: Callable, axes: int) -> Callable:
    """`function` mapped over that many leading axes of its arguments."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a constrained kernel is: constraint, layout, and ranks of its parameters.

    Attributes:
      constraint: holds for every matrix of the kernel.
      layout: how the kernel is read.
      ranks: (name, number of axes) of every parameter of one kernel, so that leading
        axes can be told from the parameters alone, inside `nnx.vmap` and outside.
    """

    constraint: Constraint
    layout: Layout
    ranks: tuple[tuple[str, int], ...]

    def lead(self, parameters: Mapping[str, Any]) -> tuple[int, ...]:
        """Shape of the axes that count whole kernels."""
        shapes = {name: parameters[name].shape for name, _ in self.ranks}
        leads = {n: shapes[n][: len(shapes[n]) - rank] for n, rank in self.ranks}
        lead, *others = set(leads.values())
        if others:
            raise ValueError(
                f"parameters of {self.constraint} must have equal axes in front, got"
                f" {leads}: all of them, svdrnn.kernels.Fixed too, are mapped along one"
                " axis"
            )
        return lead

    def matrices(
        self, parameters: Mapping[str, Array]
    ) -> Float[Array, "*stack n_out n_in"]:
        """All matrices of the kernel, (*lead, *stack_shape, n_out, n_in)."""
        shape = self.layout.matrix_shape
        stack = len(self.stack_shape(parameters))
        with forward_mode_explained():
            return _build(self.constraint, shape, stack, dict(parameters))

    def stack_shape(self, parameters: Mapping[str, Any]) -> tuple[int, ...]:
        """Shape of the axes that count matrices."""
        return self.lead(parameters) + self.layout.stack_shape

    def singular_values(
        self, parameters: Mapping[str, Array]
    ) -> Float[Array, "*stack smaller"]:
        """Those of all matrices, (*lead, *stack_shape, min(n_out, n_in))."""
        shape = self.layout.matrix_shape

        def of_one(parameters):
            return self.constraint.singular_values(parameters, shape)

        return _over(of_one, len(self.stack_shape(parameters)))(dict(parameters))

    def num_redundant(self, parameters: Mapping[str, Any]) -> int:
        """Stored numbers that no result depends on, of all matrices."""
        count = math.prod(self.stack_shape(parameters))
        return count * self.constraint.redundant(self.layout.matrix_shape)

    def kernel(self, parameters: Mapping[str, Array]) -> Float[Array, "*kernel"]:
        """The kernel, (*lead, *shape)."""
        return self.layout.kernel(self.matrices(parameters))


# Compiled also where nothing around it is: one program instead of a hundred small
# ones, and one trace for all kernels of a shape.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _build(constraint, shape, stack, parameters):
    def build(named):
        matrix = constraint.matrix(named, shape)
        if matrix.shape != shape:
            raise ValueError(
                f"matrix of {type(constraint).__name__} must give shape {shape}, got"
                f" {matrix.shape}"
            )
        return matrix

    return _over(build, stack)(parameters)


@functools.partial(jax.jit, static_argnums=0)
def _find(constraint, matrices):
    return _over(constraint.parameters, matrices.ndim - 2)(matrices)


def start(
    constraint: Constraint,
    layout: Layout,
    matrices: Float[Array, "*stack n_out n_in"] | jax.ShapeDtypeStruct,
    *,
    init: str,
    init_sigma: ArrayLike | None = None,
    key: jax.Array | None = None,
) -> tuple[Rule, dict[str, Any]]:
    """The rule of a kernel and its first parameters.

    Args:
      constraint: what is to hold.
      layout: of the kernel.
      matrices: (*lead, *stack_shape, n_out, n_in), the kernel read by the layout.
        Where `init` leaves them only their shape and dtype matter, and where they have
        nothing else the parameters have neither.
      init: `"project"` starts near the matrices, at them where they are allowed;
        `"strict"` at them; `"random"`, `"identity"`, `"henaff"` and `"cayley"` leave
        them.
      init_sigma: see `Spectral.with_sigma`.
      key: for a start that draws random numbers, which is every one that leaves the
        matrices but `identity`.

    Raises:
      ValueError: for an unknown init, one that needs a key without it, `project` and
        `strict` where there are no values or with an `init_sigma`, matrices that are
        not floating and, where their values are known (outside of `jit`), not finite
        or, with `strict`, changed by the constraint; as the constraint does.
    """
    check_name("init", init, INITS)
    check_floating("kernel", matrices)
    try:
        hash(constraint)
    except TypeError:
        raise ValueError(
            f"constraint must be hashable, as a frozen dataclass is, got {constraint!r}"
        ) from None
    shape, dtype = layout.matrix_shape, matrices.dtype
    stack = matrices.shape[:-2]
    named: dict[str, Any]
    if init in FROM_MATRIX:
        check_no_sigma(init_sigma)
    elif init in DRAWN and key is None:
        raise ValueError(
            "init must be project, strict or identity without a source of random "
            f"numbers (rngs or key), got {init!r}"
        )
    if init in FROM_NOTHING:

        def one(key):
            if init == "identity":
                first = constraint.identity(shape, dtype)
            elif init == "random":
                first = constraint.random(key, shape, dtype)
            else:
                first = constraint.rotation(init, key, shape, dtype)
            if init_sigma is None:
                return first
            return constraint.with_sigma(first, shape, init_sigma)

        def make(key):
            if init in DRAWN:
                return _over(one, len(stack))(jax.random.split(key, stack))
            return {
                k: jnp.array(jnp.broadcast_to(v, stack + v.shape))
                for k, v in one(key).items()
            }

        named = jax.eval_shape(make, key) if is_abstract(matrices) else make(key)
    elif isinstance(matrices, jax.ShapeDtypeStruct):
        raise ValueError(
            f"init must be one of {', '.join(FROM_NOTHING)} where kernels have no"
            f" values, as those of eval_shape, got {init!r}: constrain inside of the"
            " function given to it"
        )
    else:
        has_values = not isinstance(matrices, jax.core.Tracer)
        if has_values and not bool(jnp.all(jnp.isfinite(matrices))):
            raise ValueError("kernel must be finite, got NaN or infinite entries")
        named = dict(_find(constraint, matrices))
        if init == "strict" and has_values:
            rule = _rule(constraint, layout, stack, named)
            _check_unchanged(rule, matrices, named)
    return _rule(constraint, layout, stack, named), named


def _rule(constraint, layout, stack, named) -> Rule:
    if missing := set(constraint.fixed) - set(named):
        raise ValueError(
            f"fixed of {type(constraint).__name__} must name parameters"
            f" ({', '.join(sorted(named))}), got {', '.join(sorted(missing))}"
        )
    lead = len(stack) - len(layout.stack_shape)
    # Sorted, so that all starts of a kernel have one rule.
    ranks = tuple((name, value.ndim - lead) for name, value in sorted(named.items()))
    return Rule(constraint, layout, ranks)


def _check_unchanged(rule: Rule, matrices: Array, named: dict[str, Array]) -> None:
    before = np.asarray(matrices, np.float64)
    change = np.max(np.abs(np.asarray(rule.matrices(named), np.float64) - before))
    size = max(1.0, float(np.max(np.abs(before))))
    if not change <= float(jnp.finfo(matrices.dtype).eps) ** 0.5 * size:
        worst = largest_violation(rule.constraint, before)
        raise ValueError(
            f"kernel must be inside {rule.constraint} with init 'strict', got one that "
            f"violates it by {worst:.3g} and would change by {change:.3g}"
        )
