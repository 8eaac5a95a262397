"""The oracles under their former name, for the library's tests."""

from tests.oracles import *  # noqa: F403
from tests.oracles import jit  # noqa: F401
