"""Types that annotations share."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

# What functions take in the place of a JAX array; what they give is always one.
AnyArray = Array | np.ndarray

# Numbers as they come; `svdrnn.checks` makes Python's own of them.
Count = int | np.integer
Number = int | float | np.integer | np.floating | Array


def is_abstract(tree: Any) -> bool:
    """Whether arrays have a shape and a dtype alone, as `jax.eval_shape` gives them."""
    leaves = jax.tree.leaves(tree)
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
