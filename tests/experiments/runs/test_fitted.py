"""What a task took from its training data is that of the run, or an error."""

import pytest

from experiments.runs import fitted, folder

KEPT = {"data": "abc", "inputs": {"mean": [0.1, 2.0], "fill": None}, "classes": 3}


def test_it_is_kept_once_and_rounding_does_not_count(tmp_path):
    fitted.keep(tmp_path, KEPT)
    written = (tmp_path / fitted.NAME).read_text()
    rounded = KEPT | {"inputs": {"mean": [0.1 * (1 + 1e-12), 2.0], "fill": None}}
    fitted.keep(tmp_path, rounded)
    assert (tmp_path / fitted.NAME).read_text() == written
    assert fitted.NAME in folder._WRITTEN


@pytest.mark.parametrize(
    "change,words",
    [
        ({"data": "abd"}, "data of .*task.json is 'abc', that of the data now 'abd'$"),
        ({"classes": 4}, "classes of .* is 3, that of the data now 4$"),
        (
            {"inputs": {"mean": [0.2, 2.0], "fill": None}},
            r"inputs.mean of .*\[0.1, 2.0\]",
        ),
        ({"inputs": {"mean": [0.1], "fill": None}}, "inputs.mean of "),
        ({"inputs": {"mean": [0.1, 2.0], "fill": [0.0]}}, "inputs.fill of .* is None"),
        ({"more": 1}, r"more of .* is '\(absent\)', that of the data now 1$"),
    ],
)
def test_a_difference_is_an_error(tmp_path, change, words):
    fitted.keep(tmp_path, KEPT)
    with pytest.raises(
        ValueError, match=f"^the data must be those of the run.*{words}"
    ):
        fitted.check(tmp_path, KEPT | change)


def test_a_task_that_fits_nothing_leaves_no_file(tmp_path):
    fitted.keep(tmp_path, {})
    fitted.check(tmp_path, {})
    assert not list(tmp_path.iterdir())
