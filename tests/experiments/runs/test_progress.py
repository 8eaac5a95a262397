"""The line of progress, on a terminal and elsewhere."""

import itertools

import pytest

from experiments.runs import progress


class Stream:
    def __init__(self, terminal):
        self.text, self.terminal = "", terminal

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_line(terminal, monkeypatch):
    clock = itertools.count(0.0, 4.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = Stream(terminal)
    shown_on = progress.Progress(400, 128, stream)
    shown_on.show(1, 2.5, None)
    shown_on.validation("mse", 0.25)
    for step in (100, 200, 300, 400):
        shown_on.show(step, 0.125, 10.0)
    shown_on.close()
    separator = "\r" if terminal else "\n"
    shown = [part.rstrip() for part in stream.text.split(separator) if part.strip()]
    assert shown[0] == "step 1/400 | loss 2.5"
    assert shown[-1] == (
        "step 400/400 | loss 0.125 | valid mse 0.25 | 1280 examples/s | 0 s left"
    )
    assert len(shown) == (5 if terminal else 3)  # elsewhere every ten seconds
    assert stream.text.endswith("\n")


def test_duration():
    assert [progress.duration(each) for each in (12.4, 185, 7620)] == [
        *("12 s", "3 min 05 s", "2 h 07 min"),
    ]
