"""All tests of the library run with its annotations checked."""

import pkgutil

import svdrnn
from tests import typechecking

CHECKED = [
    name
    for module in pkgutil.iter_modules(svdrnn.__path__)
    if not module.name.startswith("_")
    for name in typechecking.check_module(getattr(svdrnn, module.name))
]
