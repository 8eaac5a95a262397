"""That annotations are checked at all, by run time and by type checker."""

import collections
import importlib.util
import inspect
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jaxtyping import Array, Float

import svdrnn
from svdrnn import householder
from tests import typechecking
from tests.library import conftest

PUBLIC = typechecking.public_modules(svdrnn)


def test_the_version_has_three_parts():
    assert svdrnn.__version__.count(".") == 2


def test_public_functions_run_checked():
    assert "svdrnn.householder.orthogonal_matrix" in conftest.CHECKED
    assert "svdrnn.rnn.TransitionRNN.__call__" in conftest.CHECKED
    assert householder.orthogonal_matrix.__wrapped__ is not None


def test_every_public_function_has_types_for_all_arguments_and_the_result():
    bare = []
    for module in PUBLIC:
        for key, value in vars(module).items():
            own = getattr(value, "__module__", "") == module.__name__
            if key.startswith("_") or not own or not inspect.isfunction(value):
                continue
            signature = inspect.signature(value)
            types = [each.annotation for each in signature.parameters.values()]
            if inspect.Signature.empty in [*types, signature.return_annotation]:
                bare.append(f"{module.__name__}.{key}")
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
    svdrnn.SpectralMatrix: ("n_in", "n_out", "reflectors", "init_sigma"),
    svdrnn.DenseMatrix: ("n", "init"),
    svdrnn.OrthogonalMatrix: ("n", "map", "negative_fraction", "init"),
}

# Keywords that mean another thing in some classes than in all others.
OTHER_MEANINGS = {
    "hidden_features": (svdrnn.TransitionCell,),
    "in_features": (svdrnn.SpectralLinear,),
    "method": (svdrnn.SpectralLinear,),
}
INIT_OF = ("Spectral", "Dense", "Orthogonal")  # each kind of W has starts of its own


def meaning(kind, keyword):
    """The keyword, and what tells it from others of its name."""
    if keyword == "init":
        return keyword, next(w for w in INIT_OF if kind.__name__.startswith(w))
    return keyword, kind if kind in OTHER_MEANINGS.get(keyword, ()) else None


def argument_texts(kind):
    """The text of every argument in the docstring, on one line."""
    block = inspect.getdoc(kind).split("\nArgs:\n")[1].split("\n\n")[0]
    texts = re.split(r"^  (\w+): ", block, flags=re.MULTILINE)[1:]
    texts = [" ".join(text.split()) for text in texts]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def test_a_keyword_of_several_classes_is_the_same_in_all_of_them():
    spellings = collections.defaultdict(set)
    for kind in LAYERS:
        texts = argument_texts(kind)
        parameters = inspect.signature(kind).parameters
        assert list(texts) == list(parameters)
        for keyword, parameter in parameters.items():
            spelled = parameter.default, parameter.annotation, parameter.kind
            spellings[meaning(kind, keyword)].add((*spelled, texts[keyword]))
    assert {key: s for key, s in spellings.items() if len(s) > 1} == {}
    # The exceptions are needed.
    of_keyword = collections.Counter(keyword for keyword, _ in spellings)
    assert {k: n for k, n in of_keyword.items() if n > 1} == {
        **{keyword: 2 for keyword in OTHER_MEANINGS},
        "init": 3,
    }


# Of the matrix, which every kind of layer has its own of.
OF_THE_MATRIX = {
    svdrnn.SpectralRNN: {
        "reflectors": (3, 2),
        "radius": 0.25,
        "center": 0.5,
        "init": "random",
        "init_sigma": 0.4,
        "method": "dense",
    },
    svdrnn.OrthogonalRNN: {
        "map": "cayley",
        "negative_fraction": 0.5,
        "init": "identity",
    },
    svdrnn.DenseRNN: {"init": "identity"},
}


@pytest.mark.parametrize("kind", OF_THE_MATRIX, ids=lambda kind: kind.__name__)
def test_a_layer_passes_every_keyword_on(kind):
    """Each, with a value that is not its default, is seen in what the layer made."""
    given = OF_THE_MATRIX[kind] | {
        "param_dtype": jnp.bfloat16,
        "activation": "leaky_relu",
        "leak": 0.125,
        "use_bias": False,
        "input_scale": 1e-3,
        "dtype": jnp.float16,
        "precision": "highest",
        "custom_backward": False,
        "time_major": True,
        "return_carry": True,
        "reverse": True,
        "keep_order": True,
        "unroll": 2,
        "chunk": 3,
        "activation_every": 4,
        "output_every": 5,
    }
    names = ["in_features", "hidden_features", *given, "rngs"]
    assert sorted(names) == sorted(inspect.signature(kind).parameters)
    layer = kind(2, 4, **given, rngs=nnx.Rngs(0))
    for name in ("time_major", "return_carry", "reverse", "keep_order"):
        assert getattr(layer, name) is True
    assert (layer.unroll, layer.chunk, layer.activation_every) == (2, 3, 4)
    assert layer.output_every == 5
    cell = layer.cell
    assert (cell.in_features, cell.hidden_features) == (2, 4)
    assert cell.dtype == jnp.float16 and cell.param_dtype == jnp.bfloat16
    assert (cell.precision, cell.custom_backward) == ("highest", False)
    assert (cell.bias, cell.activation.leak) == (None, 0.125)
    assert cell.input_weights.dtype == jnp.bfloat16
    assert 0 < jnp.max(jnp.abs(cell.input_weights[...])) < 0.01
    weight = cell.weight
    stored = jax.tree.leaves(nnx.state(weight, nnx.Param))
    assert {leaf.dtype for leaf in stored} == {jnp.dtype(jnp.bfloat16)}
    if kind is svdrnn.SpectralRNN:
        assert (cell.method, weight.radius, weight.center) == ("dense", 0.25, 0.5)
        assert weight.u_vectors.shape == (3, 4) and weight.v_vectors.shape == (2, 4)
        assert jnp.allclose(weight.sigma(), 0.4, atol=1e-2)
    elif kind is svdrnn.OrthogonalRNN:
        assert (weight.map, weight.num_negative) == ("cayley", 2)
        assert not jnp.any(weight.skew_entries[...])
    else:
        assert jnp.array_equal(weight.matrix(), jnp.eye(4))


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_signature_and_help_have_every_argument(kind):
    parameters = inspect.signature(kind).parameters
    assert set(LAYERS[kind]) <= set(parameters)
    assert not any("kwargs" in name or "layer" == name for name in parameters)
    for name in parameters:
        assert f"\n  {name}: " in inspect.getdoc(kind)
    text = inspect.getdoc(kind)
    assert text.index("\nArgs:\n") < text.index("\nRaises:\n")


@pytest.mark.parametrize("kind", [svdrnn.SpectralRNN, svdrnn.DenseRNN])
def test_a_mistyped_argument_is_an_error(kind):
    with pytest.raises(TypeError, match="unexpected keyword argument 'unrol'"):
        kind(1, 2, unrol=2, rngs=nnx.Rngs(0))


PROGRAM = """
import jax
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
    lines = [
        line
        for line in found.stdout.splitlines()
        if "program.py" in line and " defined in " not in line
    ]
    told = [line.split(": ", 2)[2].split("  [")[0] for line in lines]
    short = [text.replace("jax._src.basearray.", "").split(";")[0] for text in told]
    assert short == [
        'Revealed type is "Array"',
        'Revealed type is "tuple[Array, Array]"',
        'Revealed type is "Array"',
        'Unexpected keyword argument "unrol" for "SpectralRNN"',
        'Argument "radius" to "SpectralRNN" has incompatible type "str"',
    ]
