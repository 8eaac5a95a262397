"""Constraints on leaves of any tree of parameters: Linen, Equinox, plain JAX."""

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from svdrnn._types import is_abstract
from svdrnn.checks import check_floating
from svdrnn.constraint import Constraint
from svdrnn.layouts import Rule, layout, start


def glob(pattern: Sequence[str], parts: Sequence[str | int]) -> bool:
    """Whether a pattern matches a path or a leading part of it, part by part.

    `*`, `?` and `[...]` stay within a part; `**` is any number of parts.
    """
    if not pattern:
        return True
    if pattern[0] == "**":
        rest = bool(parts) and glob(pattern, parts[1:])
        return glob(pattern[1:], parts) or rest
    first = bool(parts) and fnmatch.fnmatchcase(str(parts[0]), pattern[0])
    return first and glob(pattern[1:], parts[1:])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """The map from free parameters to the tree as it was: `params = dense(raw)`.

    A pytree, whose arrays are what constraints keep fixed (signs of reflectors, the
    base of an exponential or Cayley map): to be saved with `raw` where there are any.

    Attributes:
      fixed: for each leaf of the tree, its fixed arrays by name.
      treedef: of the tree.
      rules: for each leaf (path, rule) or None.
    """

    fixed: tuple[dict[str, Array], ...]
    treedef: Any = dataclasses.field(metadata={"static": True})
    rules: tuple[tuple[str, Rule] | None, ...] = dataclasses.field(
        metadata={"static": True}
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """Leaves under the constraint."""
        return tuple(rule[0] for rule in self.rules if rule is not None)

    def __call__(self, raw: Any) -> Any:
        """The tree of parameters, each constrained leaf built from its own."""
        leaves = self.treedef.flatten_up_to(raw)
        built = [
            leaf if rule is None else rule[1].kernel({**leaf, **fixed})
            for leaf, fixed, rule in zip(leaves, self.fixed, self.rules, strict=True)
        ]
        return self.treedef.unflatten(built)


def _path(keys: Any) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _matches(where: str | Callable[[str, Any], bool], path: str, leaf: Any) -> bool:
    if isinstance(where, str):
        return glob(where.split("/"), path.split("/"))
    return bool(where(path, leaf))


def constrain_tree(
    params: Any,
    where: str | Callable[[str, Any], bool],
    constraint: Constraint,
    *,
    axes: Any = None,
    blocks: int = 1,
    init: str = "project",
    init_sigma: ArrayLike | None = None,
    key: jax.Array | None = None,
) -> tuple[Any, Dense]:
    """Free parameters for leaves of a tree that are to stay under a constraint.

    Train `raw`, with the loss taken at `dense(raw)`:

        raw, dense = constrain_tree(params, "**/kernel", Spectral(radius=0.1))
        gradient = jax.grad(lambda raw: loss(apply(dense(raw), x)))(raw)

    Args:
      params: any pytree of arrays.
      where: a glob over "/"-joined paths of leaves, as in `constrain`, or a predicate
        of (path, leaf). Leaves of fewer than two axes are left as they are; of layers
        that are stacked along an axis (`nn.scan`, `nn.vmap`, `jax.vmap`) biases have
        two, so that there a pattern that ends in the kernels' name is needed.
      constraint: what is to hold.
      axes: (input axes, output axes) of the leaves; None reads those of two axes as
        (in, out), the order of flax. Axes in neither count matrices: (1, 2) reads the
        kernels (layers, in, out) of stacked layers.
      blocks: equal parts of the outputs that are matrices of their own.
      init: first value, as in `constrain`.
      init_sigma: first singular values, as in `constrain`.
      key: of `jax.random`, for an `init` that draws random numbers.

    Returns:
      raw: the tree with a dict of parameters for every constrained leaf.
      dense: `Dense`, the way back.

    Raises:
      ValueError: where nothing matches that has two axes or more; without `axes` for
        leaves of more than two; as the constraint does. It names the leaf.
    """
    if not isinstance(constraint, Constraint):
        raise ValueError(f"constraint must be a svdrnn.Constraint, got {constraint!r}")
    if not isinstance(where, str) and not callable(where):
        raise ValueError(
            f"where must be a glob or a predicate of path and leaf, got {where!r}"
        )
    if key is not None and not isinstance(key, (jax.Array, np.ndarray)):
        raise ValueError(f"key must be a key of jax.random or None, got {key!r}")
    with_paths, structure = jax.tree_util.tree_flatten_with_path(params)
    treedef: Any = structure
    raw: list[Any] = []
    fixed: list[dict[str, Array]] = []
    rules: list[tuple[str, Rule] | None] = []
    for keys, leaf in with_paths:
        path = _path(keys)
        if not _matches(where, path, leaf) or np.ndim(leaf) < 2:
            raw.append(leaf)
            fixed.append({})
            rules.append(None)
            continue
        if axes is None and leaf.ndim > 2:
            raise ValueError(
                f"axes must be given, (input axes, output axes), for {path} of shape "
                f"{leaf.shape}"
            )
        own = None if key is None else jax.random.fold_in(key, len(raw))
        try:
            read = layout(leaf.shape, ((0,), (1,)) if axes is None else axes, blocks)
            values = leaf if is_abstract(leaf) else jnp.asarray(leaf)
            check_floating("kernel", values)
            matrices = read.matrices(values)
            rule, named = start(
                constraint, read, matrices, init=init, init_sigma=init_sigma, key=own
            )
        except ValueError as error:
            raise ValueError(f"{error} ({path})") from None
        fixed.append({name: named.pop(name) for name in constraint.fixed})
        raw.append(named)
        rules.append((path, rule))
    if not any(rules):
        paths = ", ".join(_path(keys) for keys, _ in with_paths[:8])
        raise ValueError(
            f"where must match a leaf of two axes or more ({paths}), got {where!r}"
        )
    return treedef.unflatten(raw), Dense(tuple(fixed), treedef, tuple(rules))
