"""Timing by turns, on a clock of its own."""

import pytest

from experiments.benchmark import timing


class Clock:
    """Each call of a contender takes its own time, and nothing else does."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.order = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def call(self, name, *seconds):
        left = list(seconds)

        def step():
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return step


def test_every_call_once_a_round_and_the_first_does_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"a": clock.call("a", 50.0, 1.0, 3.0, 2.0), "b": clock.call("b", 4.0)}
    found = timing.in_turn(calls, seconds=1000.0, most=3)
    assert clock.order == ["a", "b"] * 4
    assert found["a"] == timing.Timing(median=2.0, low=1.0, high=3.0, repeats=3)
    assert found["b"] == timing.Timing(4.0, 4.0, 4.0, 3)


@pytest.mark.parametrize(
    "each,seconds,rounds",
    [
        (1.0, 5.5, 6),  # until the time is over
        (1.0, 1.5, 3),  # at least three
        (9.0, 4.0, 1),  # but one where one alone takes more
        (0.1, 100.0, 15),  # and 15 at most
    ],
)
def test_rounds(monkeypatch, each, seconds, rounds):
    clock = Clock(monkeypatch)
    found = timing.in_turn({"a": clock.call("a", each)}, seconds=seconds)
    assert found["a"].repeats == rounds
    assert len(clock.order) == rounds + 1


def test_a_slow_rival_is_called_once_and_the_others_three_times(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"slow": clock.call("slow", 9.0), "fast": clock.call("fast", 20.0, 1.0)}
    found = timing.in_turn(calls, seconds=4.0)
    assert (found["slow"].repeats, found["fast"].repeats) == (1, 3)


def test_nothing_to_time():
    assert timing.in_turn({}, seconds=1.0) == {}
