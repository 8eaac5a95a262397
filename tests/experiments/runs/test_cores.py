"""Cores of a process: which there are, fair shares, and who is kept to them."""

import os
import subprocess
import sys

import pytest

from experiments.runs import cores


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_shares_are_all_of_the_cores_once_and_nearly_equal(monkeypatch, parts):
    there = [1, 2, 3, 5, 8, 13, 21]
    monkeypatch.setattr(cores, "available", lambda: there)
    shares = [cores.share(index, parts) for index in range(parts)]
    assert sorted(core for share in shares for core in share) == there
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1


def test_more_parts_than_cores_take_them_in_turn(monkeypatch):
    monkeypatch.setattr(cores, "available", lambda: [4, 6])
    assert [cores.share(i, 5) for i in range(5)] == [{4}, {6}, {4}, {6}, {4}]


def test_a_process_that_is_started_meanwhile_has_its_share_alone():
    before = cores.available()
    assert cores.count() == len(before) >= 1
    with cores.only({before[-1]}):
        code = "from experiments.runs import cores; print(cores.available())"
        printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert cores.available() == before
    if hasattr(os, "sched_setaffinity"):
        assert printed == f"[{before[-1]}]\n"


def test_without_affinity_all_cores_count(monkeypatch):
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cores.available() == [0, 1, 2]
    with cores.only({0}):
        assert cores.count() == 3
