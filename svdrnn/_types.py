"""Types that annotations share."""

import numpy as np
from jaxtyping import Array

# What functions take in the place of a JAX array; what they give is always one.
AnyArray = Array | np.ndarray
