"""All tests of the library run with its annotations checked."""

import svdrnn
from tests import typechecking

CHECKED = [
    name
    for module in typechecking.public_modules(svdrnn)
    for name in typechecking.check_module(module)
]
