"""Types that annotations share."""

import numpy as np
from jaxtyping import Array

# What functions take in the place of a JAX array; what they give is always one.
AnyArray = Array | np.ndarray

# Numbers as they come; `svdrnn.checks` makes Python's own of them.
Count = int | np.integer
Number = int | float | np.integer | np.floating | Array
