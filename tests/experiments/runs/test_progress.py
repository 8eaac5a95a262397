"""The line of progress, on a terminal and elsewhere."""

import contextlib
import fcntl
import itertools
import pty
import struct
import termios

import pytest

from experiments.runs import progress


class Stream:
    text = ""

    def isatty(self):
        return False

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_nothing_is_shown_without_an_output(monkeypatch):
    monkeypatch.setattr(progress.sys, "stdout", None)
    shown = progress.Progress(1, 1, "examples")
    shown.show(1, 0.5, None)
    shown.close()


def test_lines_where_none_can_be_rewritten(monkeypatch):
    clock = itertools.count(0.0, 4.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = Stream()
    shown_on = progress.Progress(400, 128, "examples", stream)
    shown_on.show(1, 2.5, None)
    shown_on.validation("mse", 0.25)
    for step in (100, 200, 300, 400):
        shown_on.show(step, 0.125, 10.0)
    shown_on.close()
    shown = stream.text.splitlines()
    assert shown[0] == "step 1/400 | loss 2.5"
    assert shown[-1] == (
        "step 400/400 | loss 0.125 | valid mse 0.25 | 1280 examples/s | 0 s left"
    )
    assert len(shown) == 3  # every ten seconds
    assert stream.text.endswith("\n")


@pytest.mark.parametrize("columns", [80, 200, 20])
def test_a_terminal_has_one_line_within_its_width(columns):
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST  # "\n" stays as it is
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    with open(slave, "w") as terminal:
        shown_on = progress.Progress(15812, 16 * 150, "tokens", terminal)
        shown_on.show(1, 3.912, None)
        shown_on.validation("bits_per_character", 1.74632)
        shown_on.show(10540, 1.2345678e-5, 5.3)
        shown_on.show(15812, 1.2345678, 5.3)
        shown_on.close()
    text = ""
    with contextlib.suppress(OSError), open(master, newline="") as other:  # at its end
        while part := other.read(1):
            text += part
    lines = [line.rstrip() for line in text.split("\r") if line.strip()]
    assert text.count("\n") == 1 and text.endswith("\n")
    assert max(map(len, lines)) <= columns
    whole = "10540/15812 | loss 1.235e-05 | valid 1.746 | 12.7k tokens/s | 16:34 left"
    assert len(whole) < 80 and lines[1].startswith(whole[: columns - 1].rstrip())
    assert lines[-1].startswith("15812/15812 | loss")


def test_duration():
    assert [progress.duration(each) for each in (12.4, 185, 7620)] == [
        *("12 s", "3 min 05 s", "2 h 07 min"),
    ]
