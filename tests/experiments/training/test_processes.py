"""Processes of a run on many machines: how they find each other, and how they end."""

import pytest

from experiments.training import processes


@pytest.mark.parametrize(
    "given, words",
    [
        (("host:1", 2, None), "must be given together, got 'host:1', 2 and None"),
        ((None, None, 0), "must be given together"),
        (("host:1", 2, 2), "--process_id must be less than --num_processes 2, got 2"),
    ],
)
def test_processes_that_cannot_be(given, words):
    with pytest.raises(ValueError, match=words):
        processes.join(*given, timeout=1)
