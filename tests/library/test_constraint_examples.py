"""The examples of constrained models do what their docstrings say."""

import importlib.util
import pathlib

import pytest

import svdrnn

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "least"),
    [("constrained_transformer", 101, 0.9), ("spectral_lstm", 76, 0.95)],
)
def test_example(name, steps, least, capsys):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    model, accuracy = example.main(steps)
    assert accuracy > least
    assert max(r.violation for r in svdrnn.constraints(model)) < 1e-5
    # Line by line as in the docstring, but for numbers.
    printed = capsys.readouterr().out.splitlines()
    shown = [line.strip() for line in example.__doc__.splitlines()]
    assert printed[0] in shown
    first = [line for line in shown if line.startswith("step    0")]
    assert printed[1].split()[:3] == first[0].split()[:3]
