"""Any kernel of a flax NNX model under a constraint: a module that builds it.

flax's layers read a kernel by `self.kernel[...]`. A `Kernel` in its place answers that
with W built from free parameters, so that layers, `nnx.jit`, gradients, optimizers and
checkpoints need not know.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx import reprlib
from jax.typing import ArrayLike

from svdrnn._copies import empty_copy, fill
from svdrnn._operators import Operators, unwritable
from svdrnn._sharding import replicated
from svdrnn._types import is_abstract
from svdrnn.cells import TransitionCell
from svdrnn.checks import check_name, check_real, is_traced
from svdrnn.constraint import (
    DRAWN,
    FROM_MATRIX,
    INITS,
    Constraint,
    largest_violation,
)
from svdrnn.layouts import Layout, Rule, layout, start
from svdrnn.matrices import DenseMatrix, OrthogonalMatrix, SpectralMatrix
from svdrnn.trees import glob


class Fixed(nnx.Variable):
    """An array that a constrained kernel keeps beside its parameters, untrained.

    No gradient reaches it; an optimizer that moves more than gradients do, as one with
    weight decay, is made with `wrt=nnx.Param` or `nnx.All(nnx.Param, ...)`. It belongs
    to the kernel as the parameters do: what is saved or copied of a model is
    `(nnx.Param, Fixed)`, and `nnx.scan` takes both along one axis.
    """


class Kernel(Operators, nnx.Module):
    """A kernel built from the parameters of a constraint whenever it is read.

    It answers what the variable in whose place it is and the array of that would:
    `[...]`, iteration, arithmetic, `get_value()`, `get_metadata()`, `dtype`, `sum()`
    and all others. What would write to it raises an error. Made by `constrain`; its
    parameters are of the variable type of what it replaces, under the names that the
    constraint gives them; what the constraint keeps fixed is a `Fixed` variable.
    """

    def __init__(self, rule: Rule, parameters: dict, replaced: nnx.Variable):
        self.rule = rule
        self.variable_type = type(replaced)
        self.metadata = tuple(sorted(replaced.get_metadata().items()))
        for name, value in parameters.items():
            if name in vars(self) or hasattr(type(self), name):
                raise ValueError(
                    f"parameters of {rule.constraint} must not have a name of Kernel, "
                    f"got {name!r}"
                )
            fixed = name in rule.constraint.fixed
            setattr(self, name, Fixed(value) if fixed else self.variable_type(value))

    def __setattr__(self, name: str, value: Any) -> None:
        rule = vars(self).get("rule")
        own = ("rule", "variable_type", "metadata")
        if rule and name not in (*own, *dict(rule.ranks)) and name[:1] != "_":
            raise AttributeError(unwritable(f"{name} must not be set"))
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """What the variable replaced, or its array, has under a name."""
        if (
            name.startswith("_")
            or hasattr(type(self), name)
            or "rule" not in vars(self)
        ):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        metadata = dict(self.metadata)
        # Only what is there is worth building a kernel for, which is an array of the
        # kind of its parameters.
        array = next(iter(self._parameters().values()))
        kinds = self.variable_type, type(array)
        if name not in metadata and not any(hasattr(kind, name) for kind in kinds):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.variable_type.from_metadata(self.value, metadata), name)

    def _parameters(self) -> dict[str, jax.Array]:
        named = {name: getattr(self, name).get_value() for name, _ in self.rule.ranks}
        for name, value in named.items():
            # Also where a filter by path has it differentiated.
            own = name in self.rule.constraint.fixed
            if own and isinstance(value, jax.core.Tracer):
                named[name] = jax.lax.stop_gradient(value)
        return named

    @property
    def value(self) -> jax.Array:
        """The kernel as the layer reads it, built anew; its shape if it is abstract."""
        parameters = self._parameters()
        if is_abstract(parameters):
            return jax.eval_shape(self.rule.kernel, parameters)  # type: ignore
        return self.rule.kernel(parameters)

    def matrix(self) -> jax.Array:
        """W as the constraint sees it, (..., n_out, n_in)."""
        return self.rule.matrices(self._parameters())

    def singular_values(self) -> jax.Array:
        """Those of W as the constraint knows them, (..., min(n_out, n_in))."""
        return self.rule.singular_values(self._parameters())

    @property
    def num_redundant(self) -> int:
        """Stored entries of the parameters that no result depends on."""
        return self.rule.num_redundant(self._parameters())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel, known without building it."""
        return self.rule.lead(self._parameters()) + self.rule.layout.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def dtype(self):
        """What the dtypes of the parameters promote to."""
        return jnp.result_type(*(p.dtype for p in self._parameters().values()))

    def get_value(self, *, index: Any = ...) -> Any:
        """The kernel or a part of it, an array; its shape if it is abstract."""
        return self.value if index is ... else self.value[index]

    def __getitem__(self, index) -> jax.Array:
        return self.get_value(index=index)

    def __iter__(self) -> Iterator[jax.Array]:
        return iter(self.value)

    def __len__(self) -> int:
        return self.shape[0]

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy
        return np.asarray(self.value, dtype)

    # As jax.Array has it: numpy then leaves arithmetic to the kernel.
    __array_priority__ = 100

    # Of a module, although it compares as an array does.
    __hash__ = nnx.Module.__hash__

    def _abstract(self) -> nnx.Variable:
        """A variable like the one replaced, without a value."""
        value: Any = jax.ShapeDtypeStruct(self.shape, self.dtype)
        return self.variable_type.from_metadata(value, dict(self.metadata))

    def plain(self) -> nnx.Variable:
        """A variable like the one replaced, with the value of now."""
        return self.variable_type(self.value, **dict(self.metadata))

    def _known(self) -> bool:
        """Whether the parameters have values, to be measured."""
        return not is_traced(self._parameters())

    def violation(self) -> float | None:
        """The largest violation, measured; None where values are not known."""
        if not self._known():
            return None
        return largest_violation(self.rule.constraint, self.matrix())

    def __nnx_repr__(self):
        parts = super().__nnx_repr__()
        head = next(parts)
        yield head
        if head.empty_repr == "...":
            return
        # Measuring takes seconds where matrices are large, and printing should not.
        violation = "measured by svdrnn.constraints" if self._known() else None
        shown = _report("", self, None)._asdict() | {"violation": violation}
        for name, value in shown.items():
            if name != "path":
                yield reprlib.Attr(name, value)
        hidden = ("rule", "variable_type", "metadata")
        yield from (part for part in parts if part.key not in hidden)


# --- how layers are read ------------------------------------------------------------

# Each gives (shape of the kernel, input axes, output axes, blocks), with None for sizes
# that the layer does not say.


def _linear(layer):
    """(in, out)."""
    return (layer.in_features, layer.out_features), (0,), (1,), 1


def _embed(layer):
    """(words, features): a lookup is a one-hot row times it."""
    return (layer.num_embeddings, layer.features), (0,), (1,), 1


def _transposed(layer):
    """(out, in), as the recurrent layers here have it."""
    return (None, None), (1,), (0,), 1


def _linear_general(layer):
    """(batch..., in..., out...)."""
    shape = (*layer.batch_axis.values(), *layer.in_features, *layer.out_features)
    b, i = len(layer.batch_axis), len(layer.in_features)
    return shape, range(b, b + i), range(b + i, len(shape)), 1


def _einsum(layer):
    """Summed letters are inputs, the kernel's own outputs, others count matrices."""
    operands, result = layer.einsum_str.split("->")
    inputs, kernel = operands.split(",")
    if "." in kernel or not set(kernel) <= set(inputs) | set(result):
        return None
    summed = [i for i, c in enumerate(kernel) if c in inputs and c not in result]
    free = [i for i, c in enumerate(kernel) if c not in inputs]
    return (layer.kernel_shape, summed, free, 1) if summed and free else None


def _conv(layer):
    """(k..., in / groups, out): W takes a patch to a pixel, a block for each group."""
    k = len(layer.kernel_size)
    if layer.mask is not None:
        return None
    return layer.kernel_shape, range(k + 1), (k + 1,), layer.feature_group_count


def _conv_transpose(layer):
    """W takes a pixel to the patch that it adds to: that of the `Conv` transposed."""
    k = len(layer.kernel_size)
    if layer.mask is not None:
        return None
    i, o = (k + 1, k) if layer.transpose_kernel else (k, k + 1)
    return (*layer.kernel_size, None, None), (i,), (*range(k), o), 1


_KERNELS: dict[type, tuple[str | None, Callable | None]] = {
    nnx.Linear: ("kernel", _linear),
    nnx.LinearGeneral: ("kernel", _linear_general),
    nnx.Einsum: ("kernel", _einsum),
    nnx.Conv: ("kernel", _conv),
    nnx.ConvTranspose: ("kernel", _conv_transpose),
    nnx.Embed: ("embedding", _embed),
    DenseMatrix: ("w", _transposed),
    TransitionCell: ("input_weights", _transposed),
    SpectralMatrix: (None, None),
    OrthogonalMatrix: (None, None),
    # Vectors, which have a second axis where layers are stacked.
    nnx.LayerNorm: (None, None),
    nnx.RMSNorm: (None, None),
    nnx.BatchNorm: (None, None),
    nnx.GroupNorm: (None, None),
    nnx.InstanceNorm: (None, None),
    nnx.PReLU: (None, None),
}

# Cells whose kernels hold the gates side by side, and how many.
_FUSED = {nnx.OptimizedLSTMCell: 4, nnx.GRUCell: 3}


class _Reference(NamedTuple):
    """One place of a model that holds a variable or a constrained kernel."""

    parts: tuple[str | int, ...]
    owners: tuple[Any, ...]  # from the model down to what holds it
    child: nnx.Variable | Kernel

    @property
    def path(self) -> str:
        return "/".join(map(str, self.parts))

    def check_settable(self) -> None:
        if not isinstance(self.owners[-1], (nnx.Pytree, list, dict)):
            raise ValueError(f"{self.path} must be in a module, list or dict to change")

    def set(self, value) -> None:
        owner, key = self.owners[-1], self.parts[-1]
        if isinstance(owner, nnx.Pytree):
            setattr(owner, str(key), value)
        else:
            owner[key] = value


def _children(node: Any) -> list[tuple[str | int, Any]]:
    if isinstance(node, nnx.List):
        return list(enumerate(node))
    if isinstance(node, nnx.Pytree):
        # In the order that a model has after a transformation.
        named = sorted(vars(node).items())
        return [(k, v) for k, v in named if not k.startswith("_pytree__")]
    if isinstance(node, dict):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, (list, tuple)) else []


def _references(
    node: Any, parts: tuple = (), owners: tuple = ()
) -> Iterator[_Reference]:
    """Every place, shared ones as often as they are reached."""
    if any(node is owner for owner in owners):
        return  # a cycle
    for key, child in _children(node):
        if isinstance(child, (nnx.Variable, Kernel)):
            yield _Reference((*parts, key), (*owners, node), child)
        else:
            yield from _references(child, (*parts, key), (*owners, node))


def _read(reference: _Reference, axes: Any, blocks: int | None) -> Layout | str:
    """The layout of a parameter, or why it has none.

    Raises:
      ValueError: where there may be a reading but not one only.
    """
    variable, owner = reference.child, reference.owners[-1]
    shape, name = np.shape(variable.get_value()), reference.parts[-1]
    if len(shape) < 2:
        return "a scalar" if not shape else "a vector"
    if not jnp.issubdtype(variable.dtype, jnp.floating):
        return f"numbers of dtype {variable.dtype}"
    reading = None
    for kind, (key, how) in _KERNELS.items():
        if isinstance(owner, kind):
            if name != key:
                return f"not the kernel of a {kind.__name__}"
            reading = how
    if axes is not None:
        return layout(shape, axes, 1 if blocks is None else blocks)
    axes_of_owner = reading(owner) if reading else None
    if axes_of_owner is None or not _ends_in(shape, axes_of_owner[0]):
        raise ValueError(
            "axes must be given, (input axes, output axes), for a kernel of shape "
            f"{shape}, or where must leave it out: a {type(owner).__name__} has no one "
            "reading of it"
        )
    expected, inputs, outputs, parts = axes_of_owner
    lead = len(shape) - len(expected)
    sides = [[lead + i for i in side] for side in (inputs, outputs)]
    own = parts * _gates(reference)
    return layout(shape, sides, own if blocks is None else blocks)


def _ends_in(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether what is ahead of the layer's own axes can count kernels."""
    lead = len(shape) - len(expected)
    own = zip(shape[lead:], expected, strict=True) if lead >= 0 else ()
    return lead >= 0 and all(size == e or e is None for size, e in own)


def _gates(reference: _Reference) -> int:
    if len(reference.owners) < 2 or reference.parts[-2] not in ("dense_i", "dense_h"):
        return 1
    cell = reference.owners[-2]
    return next((n for kind, n in _FUSED.items() if isinstance(cell, kind)), 1)


# --- which places are meant ---------------------------------------------------------


def _matcher(where: Any) -> Callable[[_Reference], bool]:
    """A predicate of places from what users may say."""
    if isinstance(where, str):
        return lambda r: glob(where.split("/"), r.parts)
    if isinstance(where, type) and not issubclass(where, nnx.Variable):
        return lambda r: any(isinstance(owner, where) for owner in r.owners)
    if isinstance(where, (list, tuple)):
        matchers = [_matcher(w) for w in where]
        return lambda r: any(match(r) for match in matchers)
    of_flax = type(where).__module__ == nnx.filterlib.__name__
    if of_flax or isinstance(where, (type, bool)) or where is ...:
        accepts = nnx.filterlib.to_predicate(where)

        def is_accepted(reference):
            variable = reference.child
            if isinstance(variable, Kernel):  # which counts as what it stands for
                variable = variable._abstract()
            return bool(accepts(reference.parts, variable))

        return is_accepted
    if not callable(where):
        raise ValueError(
            "where must be a glob, a predicate of path and module, a module type or an "
            f"NNX filter, got {where!r}"
        )

    def matches(reference):
        owners = enumerate(reference.owners)
        depth = max((i for i, o in owners if isinstance(o, nnx.Pytree)), default=0)
        path = "/".join(map(str, reference.parts[:depth]))
        return bool(where(path, reference.owners[depth]))

    return matches


def _check_model(model: Any) -> None:
    # Containers too: a model may be a list of modules.
    if not isinstance(model, (nnx.Pytree, dict, list, tuple)):
        raise ValueError(
            "model must be an nnx.Module, or a list or dict of some (constrain_tree"
            f" takes trees of arrays), got {type(model).__name__}"
        )


def _matching(model: Any, where: Any, kind: Any, what: str) -> list[_Reference]:
    """Places of that kind that `where` matches; ValueError where it matches none."""
    _check_model(model)
    everything = [r for r in _references(model) if isinstance(r.child, kind)]
    matches = _matcher(where)
    matched = [r for r in everything if matches(r)]
    if not matched:
        paths = ", ".join(r.path for r in everything[:8]) or "none"
        more = ", ..." if len(everything) > 8 else ""
        raise ValueError(
            f"where must match {what} of the model ({paths}{more}), got {where!r}"
        )
    return matched


class Paths(tuple):
    """Paths that were changed; `skipped` has those that matched in vain, and why."""

    skipped: dict[str, str]

    def __new__(cls, paths: Iterable[str], skipped: dict[str, str]):
        """The paths, and {path: why not}."""
        self = super().__new__(cls, paths)
        self.skipped = skipped
        return self

    def __getnewargs__(self):
        """What `__new__` takes, which copies and pickles call."""
        return tuple(self), self.skipped

    def __repr__(self):
        if not self.skipped:
            return super().__repr__()
        return f"{super().__repr__()}, not constrained: {_listed(self.skipped)}"


def _listed(skipped: dict[str, str]) -> str:
    return ", ".join(f"{path} ({why})" for path, why in skipped.items())


# --- what users call ----------------------------------------------------------------


def constrain(
    model: nnx.Module,
    constraint: Constraint,
    where: Any = "**",
    *,
    axes: Any = None,
    blocks: int | None = None,
    init: str = "project",
    init_sigma: ArrayLike | None = None,
    rngs: nnx.Rngs | None = None,
) -> Paths:
    """Puts kernels of a model under a constraint, in place.

    To be called before an optimizer is made; optax ends the update of one that was made
    before with a "pytree structure error". A kernel W (n_out, n_in) is read with its
    input axes flattened against its output axes: `nnx.Linear`, `LinearGeneral`,
    `Einsum`, `MultiHeadAttention` as they multiply; `Conv` from a patch to a pixel, and
    each group by itself; `ConvTranspose` from a pixel to a patch; `Embed` from one-hot
    to features; the kernels of `nnx.OptimizedLSTMCell` and `nnx.GRUCell` gate by gate.
    Axes ahead of those that a layer needs (`nnx.vmap`) count kernels; `axes` reads what
    is stacked along another one. A kernel that is split over a mesh becomes parameters
    that are whole on every device.

    Args:
      model: any NNX model.
      constraint: `Spectral`, `Orthogonal`, `SpectralNorm` or your own.
      where: a glob over "/"-joined paths, `**` for any number of parts, which may also
        stop at a module (`"blocks/*/attention"`); a predicate of (path, module), asked
        for the module that holds the parameter; a module type, meaning all below such
        modules; an NNX filter; or several of these, any of which may match.
      axes: (input axes, output axes) of the kernels, for layers that are not known or
        to be read in another way; axes in neither count matrices.
      blocks: equal parts of the outputs that are matrices of their own; None takes
        what the layer has.
      init: first value: `"project"` (the weight that is there, moved where it is not
        allowed), `"strict"` (an error where it would be), `"random"`, `"identity"`, or
        `"henaff"` or `"cayley"`, which need square matrices (a rotation of planes of
        two coordinates by random angles, see `initializers.rotation_angles`). A model
        of `nnx.eval_shape`, without values, takes all but the first two.
      init_sigma: the first singular values under `Spectral` and `SpectralNorm`: a
        number, or several that are taken in turn. None leaves them to `init`, and with
        `"project"` and `"strict"` it must be None.
      rngs: its `params` stream draws the random numbers of `init`; not read by an
        `init` that has none.

    Returns:
      The paths changed, a tuple; its `skipped` has the paths that matched but hold no
      kernel, with the reason. A kernel shared between layers stays shared, and each of
      its paths is there.

    Raises:
      ValueError: where nothing matches, or no kernel; for a kernel that is constrained
        already; without `axes` where a layer has no one reading; as the constraint
        does. The model is then as it was.
    """
    if not isinstance(constraint, Constraint):
        raise ValueError(f"constraint must be a svdrnn.Constraint, got {constraint!r}")
    check_name("init", init, INITS)
    source = _source(rngs) if init in DRAWN else None
    layouts, skipped = _layouts(model, where, axes, blocks)
    kernels: dict[int, Kernel] = {}
    for variable, path, read in layouts.values():
        key = None if source is None else source()
        try:
            matrices = read.matrices(variable.get_value())
            rule, named = start(
                constraint, read, matrices, init=init, init_sigma=init_sigma, key=key
            )
        except ValueError as error:
            raise ValueError(f"{error} ({path})") from None
        kernels[id(variable)] = Kernel(rule, named, variable)
    return Paths(_replace(model, kernels), skipped)


def _source(rngs: Any) -> Callable[[], jax.Array] | None:
    """What draws keys; ValueError unless there is none or it is of flax."""
    if rngs is None:
        return None
    if not (isinstance(rngs, nnx.Rngs) and {"params", "default"} & {*rngs}):
        raise ValueError(
            "rngs must be nnx.Rngs with a stream params or default, or None, got"
            f" {rngs!r}"
        )
    return rngs.params


def _layouts(
    model: nnx.Module, where: Any, axes: Any, blocks: int | None
) -> tuple[dict[int, tuple[nnx.Variable, str, Layout]], dict[str, str]]:
    """(variable, first path, layout) by identity; what has no layout, and why."""
    layouts: dict[int, tuple[nnx.Variable, str, Layout]] = {}
    skipped = {}
    for reference in _matching(model, where, (nnx.Param, Kernel), "a parameter"):
        child = reference.child
        if isinstance(child, Kernel):
            raise ValueError(
                f"where must match no constrained kernel, got {where!r}, which matches "
                f"{reference.path} under {child.rule.constraint}"
            )
        try:
            read = _read(reference, axes, blocks)
        except ValueError as error:
            raise ValueError(f"{error} ({reference.path})") from None
        if isinstance(read, str):
            skipped[reference.path] = read
            continue
        first = layouts.setdefault(id(child), (child, reference.path, read))
        if first[2] != read:
            raise ValueError(
                f"axes must be given for a kernel read in two ways, as {first[1]} and "
                f"as {reference.path}"
            )
    if not layouts:
        raise ValueError(
            f"where must match a kernel, got {where!r}, which matches "
            f"{_listed(skipped)}"
        )
    return layouts, skipped


def _replace(model: nnx.Module, others: Mapping[int, Any]) -> list[str]:
    """Puts others in the places of what is there, by identity; the paths changed."""
    places = [r for r in _references(model) if id(r.child) in others]
    for reference in places:  # before the first one is changed
        reference.check_settable()
    for reference in places:
        reference.set(others[id(reference.child)])
    return [reference.path for reference in places]


def unconstrain(model: nnx.Module, where: Any = "**") -> Paths:
    """Puts plain parameters back, with the matrices of now, in place.

    Args:
      model: with constrained kernels.
      where: as for `constrain`.

    Returns:
      The paths changed.

    Raises:
      ValueError: where no constrained kernel matches.
    """
    matched = _matching(model, where, Kernel, "a constrained kernel")
    kernels = {id(r.child): r.child for r in matched}
    plain = {key: kernel.plain() for key, kernel in kernels.items()}
    return Paths(_replace(model, plain), {})


def bake(model: nnx.Module) -> nnx.Module:
    """A model like this one with plain kernels, each built once.

    Inside a function that is being traced (a loss) gradients flow through it to the
    parameters of `model`, and all else is shared: what the baked model makes or updates
    while it is called (sown values, batch statistics, random counters, caches) `model`
    has as well. A recurrent layer then builds its kernels once a call and not at every
    step. Outside, the result is a copy of its own, an ordinary flax model for serving
    and export. A model without constraints may be given too.

    Cost: each kernel once.

    Raises:
      ValueError: for what is no model.
    """
    _check_model(model)
    if is_traced(nnx.state(model)):
        return _baked(model)

    def plain(path, node):
        del path
        return node.plain() if isinstance(node, Kernel) else node

    return nnx.clone(nnx.recursive_map(plain, model, graph=True), arrays=True)


def _baked(model: Any) -> Any:
    """Only what leads to a kernel is copied, so that all else is the model's."""
    kernels = [r for r in _references(model) if isinstance(r.child, Kernel)]
    copied = {id(node) for r in kernels for node in (*r.owners, r.child)}
    copies: dict[int, Any] = {}

    def copy(node):
        if id(node) not in copied or id(node) in copies:
            return copies.get(id(node), node)
        if isinstance(node, Kernel):
            copies[id(node)] = node.plain()
        elif isinstance(node, nnx.Pytree):
            copies[id(node)] = empty_copy(node)  # first: it may be inside of itself
            copied_values = {name: copy(value) for name, value in vars(node).items()}
            own = {k: v for k, v in copied_values.items() if v is not vars(node)[k]}
            fill(copies[id(node)], node, own)
        else:
            inside = functools.partial(operator.is_not, node)
            copies[id(node)] = jax.tree.map(copy, node, is_leaf=inside)
        return copies[id(node)]

    return copy(model)


def set_matrix(kernel: Kernel, w: ArrayLike, *, init: str = "strict") -> None:
    """Gives a constrained kernel another matrix, in place.

    Args:
      kernel: as in `model.layer.kernel`.
      w: in the shape of `kernel.matrix()`: (n_out, n_in), the transpose of what
        `nnx.Linear` stores, after axes that count matrices if there are any.
      init: `"strict"`, an error where w is not allowed, or `"project"`.

    Raises:
      ValueError: for what is not a constrained kernel; another shape; complex numbers;
        as `constrain`.
    """
    if not isinstance(kernel, Kernel):
        raise ValueError(f"kernel must be a constrained kernel, got {type(kernel)}")
    check_name("init", init, FROM_MATRIX)
    rule = kernel.rule
    lead = rule.lead(kernel._parameters())
    shape = (*lead, *rule.layout.stack_shape, *rule.layout.matrix_shape)
    if jnp.shape(w) != shape:
        raise ValueError(f"w must have shape {shape}, got {jnp.shape(w)}")
    w = jnp.asarray(w)
    check_real("w", w)
    w = replicated(w.astype(kernel.dtype))
    _, named = start(rule.constraint, rule.layout, w, init=init)
    for name, value in named.items():
        getattr(kernel, name)[...] = value


class Report(NamedTuple):
    """What holds for a constrained kernel.

    Attributes:
      path: where it is; the first place of a shared one.
      shape: of the kernel.
      constraint: what was asked.
      interval: range of the singular values.
      reflectors: (of U, of V), or None where there are none.
      violation: the largest one, measured by numpy on the kernel itself; None under a
        transformation, where no value is known.
    """

    path: str
    shape: tuple[int, ...]
    constraint: Constraint
    interval: tuple[float, float]
    reflectors: tuple[int, int] | None
    violation: float | None


def report(path: str, kernel: Kernel) -> Report:
    """The report of one kernel."""
    return _report(path, kernel, kernel.violation())


def _report(path: str, kernel: Kernel, violation: float | None) -> Report:
    constraint = kernel.rule.constraint
    reflectors = constraint.reflectors_of(kernel.rule.layout.matrix_shape)
    return Report(
        *(path, kernel.shape, constraint, constraint.interval, reflectors, violation)
    )


class Reports(tuple):
    """Reports, printed as a table."""

    def __repr__(self):
        lines = [Report._fields]
        for report in self:
            low, high = report.interval
            worst = "unknown" if report.violation is None else f"{report.violation:.1e}"
            shown = (*report[:3], f"[{low:.4g}, {high:.4g}]", report.reflectors, worst)
            lines.append(tuple(map(str, shown)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
        return "\n".join(rows)


def constraints(model: nnx.Module) -> Reports:
    """What every constrained kernel of a model has to keep, and keeps.

    Returns:
      A tuple of `Report`, one a kernel; printed, a table. Empty without constraints.

    Cost: the singular values of every kernel in float64, by numpy.

    Raises:
      ValueError: for what is no model.
    """
    _check_model(model)
    kernels: dict[int, tuple[str, Kernel]] = {}
    for reference in _references(model):
        if isinstance(reference.child, Kernel):
            kernels.setdefault(id(reference.child), (reference.path, reference.child))
    return Reports(report(path, kernel) for path, kernel in kernels.values())
