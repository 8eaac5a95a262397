"""That annotations are checked at all, by run time and by type checker."""

import importlib.util
import inspect
import pkgutil
import subprocess
import sys

import jax.numpy as jnp
import pytest
from flax import nnx
from jaxtyping import Array, Float

import svdrnn
from svdrnn import householder
from tests import typechecking
from tests.library import conftest

PUBLIC = [
    module.name
    for module in pkgutil.iter_modules(svdrnn.__path__)
    if not module.name.startswith("_")
]


def test_every_module_of_the_library_is_there_after_import():
    for name in PUBLIC:
        assert inspect.ismodule(getattr(svdrnn, name))
    assert svdrnn.__version__.count(".") == 2


def test_public_functions_run_checked():
    assert "svdrnn.householder.orthogonal_matrix" in conftest.CHECKED
    assert "svdrnn.rnn.TransitionRNN.__call__" in conftest.CHECKED
    assert householder.orthogonal_matrix.__wrapped__ is not None


def test_every_public_function_has_types_for_all_arguments_and_the_result():
    bare = []
    for name in PUBLIC:
        module = getattr(svdrnn, name)
        for key, value in vars(module).items():
            own = getattr(value, "__module__", "") == module.__name__
            if key.startswith("_") or not own or not inspect.isfunction(value):
                continue
            signature = inspect.signature(value)
            types = [each.annotation for each in signature.parameters.values()]
            if inspect.Signature.empty in [*types, signature.return_annotation]:
                bare.append(f"{name}.{key}")
    assert not bare


def test_the_checker_finds_a_wrong_shape():
    def transpose(x: Float[Array, "m n"]) -> Float[Array, "m n"]:
        return x.T

    with pytest.raises(AssertionError, match="transpose takes or gives what"):
        typechecking.checked(transpose)(jnp.ones((2, 3)))

    def first(x: Float[Array, " n"]) -> Float[Array, ""]:
        if x.ndim != 1:
            raise ValueError("x must be a vector")
        return x[0]

    with pytest.raises(ValueError, match="x must be a vector"):
        typechecking.checked(first)(jnp.ones((2, 3)))


LAYERS = {
    svdrnn.SpectralRNN: ("reflectors", "radius", "leak", "method", "chunk"),
    svdrnn.SpectralRNNCell: ("reflectors", "radius", "leak", "method"),
    svdrnn.DenseRNN: ("init", "leak", "chunk"),
    svdrnn.DenseRNNCell: ("init", "leak"),
    svdrnn.OrthogonalRNN: ("map", "negative_fraction", "leak", "chunk"),
    svdrnn.OrthogonalRNNCell: ("map", "negative_fraction", "leak"),
    svdrnn.TransitionCell: ("weight", "in_features", "leak"),
    svdrnn.TransitionRNN: ("cell", "time_major", "chunk"),
    svdrnn.SpectralLinear: ("in_features", "reflectors", "use_bias"),
}


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_signature_and_help_have_every_argument(kind):
    parameters = inspect.signature(kind).parameters
    assert set(LAYERS[kind]) <= set(parameters)
    assert not any("kwargs" in name or "layer" == name for name in parameters)
    for name in parameters:
        assert f"\n  {name}: " in kind.__doc__
    text = inspect.getdoc(kind)
    assert text.index("\nArgs:\n") < text.index("\nRaises:\n")


@pytest.mark.parametrize("kind", [svdrnn.SpectralRNN, svdrnn.DenseRNN])
def test_a_mistyped_argument_is_an_error(kind):
    with pytest.raises(TypeError, match="unexpected keyword argument 'unrol'"):
        kind(1, 2, unrol=2, rngs=nnx.Rngs(0))


PROGRAM = """
import jax.numpy as jnp
from flax import nnx
from svdrnn import SpectralRNN

layer = SpectralRNN(1, 4, reflectors=2, radius=0.1, rngs=nnx.Rngs(0))
x = jnp.ones((2, 3, 1))
reveal_type(layer(x))
reveal_type(layer(x, return_carry=True))
reveal_type(layer(x, last_only=True))
SpectralRNN(1, 4, reflectors=2, radius=0.1, unrol=2, rngs=nnx.Rngs(0))
SpectralRNN(1, 4, reflectors=2, radius="small", rngs=nnx.Rngs(0))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is absent")
def test_a_type_checker_knows_arguments_and_results(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache")]
    found = subprocess.run(
        [*command, str(program)], capture_output=True, text=True, check=False
    )
    lines = [line for line in found.stdout.splitlines() if "program.py" in line]
    told = [line.split(": ", 2)[2].split("  [")[0] for line in lines]
    short = [text.replace("jax._src.basearray.", "").split(";")[0] for text in told]
    assert short == [
        'Revealed type is "Array"',
        'Revealed type is "tuple[Array, Array]"',
        'Revealed type is "Array"',
        'Unexpected keyword argument "unrol" for "SpectralRNN"',
        'Argument "radius" to "SpectralRNN" has incompatible type "str"',
    ]
