"""The examples do what their docstrings say."""

import importlib.util
import pathlib
import re

import pytest

import svdrnn

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))

pytestmark = pytest.mark.slow


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def words(line):
    """A line without its numbers, and without the spaces that align them."""
    return re.sub(r"[-\d.e+]+", "#", line).split()


def run(name, capsys, **arguments):
    """What main gives; it prints the lines of its docstring and no others.

    Numbers apart, so that a line of one step stands for those of the others.
    """
    example = load(name)
    found = example.main(**arguments)
    _, prints = example.__doc__.split("Prints")
    shown = {tuple(words(line)) for line in prints.splitlines() if line[:4] == " " * 4}
    printed = {tuple(words(x)) for x in capsys.readouterr().out.splitlines()}
    # Of what was sorted the digits are many words.
    assert {x for x in printed if x[0] != "sorted:"} == {
        x for x in shown if x[0] != "sorted:"
    }
    return found


def test_every_example_is_tested():
    tests = pathlib.Path(__file__).read_text()
    assert len(NAMES) >= 5 and all(f'"{name}"' in tests for name in NAMES)


@pytest.mark.parametrize(
    ("name", "steps", "least"),
    [("constrained_transformer", 101, 0.9), ("spectral_lstm", 76, 0.95)],
)
def test_constrained_models(name, steps, least, capsys):
    model, accuracy = run(name, capsys, steps=steps)
    assert accuracy > least
    assert max(r.violation for r in svdrnn.constraints(model)) < 1e-5


def test_a_spectral_layer_remembers_what_a_plain_one_does_not(capsys):
    model, accuracy, plain = run("spectral_classifier", capsys, steps=101)
    assert accuracy > 0.9 > plain
    sigma = model.rnn.cell.weight.singular_values()
    assert 0.9 <= sigma.min() and sigma.max() <= 1.1


def test_a_stream_and_its_export(capsys):
    difference, changed = run("streaming", capsys)
    assert difference < 1e-5 and changed < 1e-6


def test_reading_w(capsys):
    model, norms, (bound, own), measured = run("reading_w", capsys, steps=201)
    sigma = model.rnn.cell.weight.singular_values()
    assert 0.95 <= sigma.min() and sigma.max() <= 1.05
    assert norms.shape == (50,) and (norms > 0).all()
    assert measured.shape == (100,) and 0 < measured.max() <= own * 1.0001 <= bound
