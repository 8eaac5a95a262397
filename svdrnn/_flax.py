"""The private parts of flax that are used, of the versions in pyproject.toml."""

from flax.nnx.nn.dtypes import canonicalize_dtype
from flax.nnx.nn.recurrent import flip_sequences

__all__ = ["canonicalize_dtype", "flip_sequences"]
