"""The annotations of the library's public functions, checked at run time.

What the annotations refuse the function has to refuse by an error of its own, so that
tests of bad input run as they are; what it takes or gives in spite of them is a wrong
annotation.
"""

import functools
import importlib
import inspect
import pkgutil
import types

import jax
import jax.export
import jaxtyping
from beartype import BeartypeConf, beartype

# An int is a float, as type checkers have it.
_CHECKER = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function):
    """The function with its arguments and its result checked against annotations."""
    strict = jaxtyping.jaxtyped(function, typechecker=_CHECKER)

    @functools.wraps(function)
    def call(*args, **kwargs):
        if _symbolic((args, kwargs)):
            return function(*args, **kwargs)
        try:
            return strict(*args, **kwargs)
        except jaxtyping.TypeCheckError as error:
            function(*args, **kwargs)
            raise AssertionError(
                f"{function.__qualname__} takes or gives what its annotations refuse:"
                f" {error}"
            ) from error

    return call


def _symbolic(tree):
    """Whether some size is symbolic, as `jax.export` has them: no annotation has."""
    leaves = jax.tree.leaves(tree)
    sizes = [size for leaf in leaves for size in getattr(leaf, "shape", ())]
    return any(map(jax.export.is_symbolic_dim, leaves + sizes))


def public_modules(package: types.ModuleType) -> list[types.ModuleType]:
    """The modules of a package and of those in it, without those that are private."""
    return [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if "._" not in info.name
    ]


def check_module(module: types.ModuleType) -> list[str]:
    """Puts checked functions and methods in the place of a module's public ones."""
    found = []
    for name, value in list(vars(module).items()):
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(value):
            setattr(module, name, checked(value))
            found.append(f"{module.__name__}.{name}")
        if inspect.isclass(value):
            for method, function in list(vars(value).items()):
                public = method == "__call__" or not method.startswith("_")
                if public and inspect.isfunction(function):
                    setattr(value, method, checked(function))
                    found.append(f"{module.__name__}.{name}.{method}")
    return found
