"""What is read of an optimized program, and what the command calls wrong."""

import pytest

from tests.accelerators import __main__ as command
from tests.accelerators import reading, targets

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[], f32[8]{0}) parameter(0)
  %h = f32[8]{0} get-tuple-element(%state), index=1
  %i = s32[] get-tuple-element(%state), index=0
  %next = s32[] add(%i, %i)
  %fusion.1 = f32[8]{0} fusion(%h), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"7"}
  ROOT %out = (s32[], f32[8]{0}) tuple(%next, %fusion.1)
}

%inner_condition (state.1: (s32[], f32[8])) -> pred[] {
  %state.1 = (s32[], f32[8]{0}) parameter(0)
  %j = s32[] get-tuple-element(%state.1), index=0
  %many = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%j, %many), direction=LT
}

%body (state.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state.2 = (s32[], f32[8]{0}) parameter(0)
  %while.1 = (s32[], f32[8]{0}) while(%state.2), condition=%inner_condition, body=%inner_body
  %g = f32[8]{0} get-tuple-element(%while.1), index=1
  %begun = f32[8]{0} all-reduce-start(%g), to_apply=%add
  %done = f32[8]{0} all-reduce-done(%begun)
  %copy.1 = f32[8]{0:T(8)S(1)} copy(%done), backend_config={"estimated_cycles":"20"}
  ROOT %out.2 = (s32[], f32[8]{0}) tuple(%g, %copy.1)
}

ENTRY %main (x: (s32[], f32[8])) -> f32[8] {
  %x = (s32[], f32[8]{0}) parameter(0)
  %reduced = (f32[8]{0}, s32[]) all-reduce(%x, %x), to_apply=%add
  %while.2 = (s32[], f32[8]{0}) while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %end = f32[8]{0} get-tuple-element(%while.2), index=1
}
"""  # noqa: E501


@pytest.mark.parametrize("accelerator,inner,outer", [("tpu", 1, 2), ("cuda", 2, 2)])
def test_reading(accelerator, inner, outer):
    found = reading.read(PROGRAM, accelerator)
    assert found.loops == [reading.Loop(3, outer), reading.Loop(5, inner)]
    assert found.collectives == 1 + 3 * 1
    assert found.cycles == 3 * (20 + 5 * 7)


def test_a_collective_inside_of_what_was_begun_counts():
    text = """\
%wrapped (p: f32[8]) -> f32[4] {
  %p = f32[8]{0} parameter(0)
  ROOT %scattered = f32[4]{0} reduce-scatter(%p), to_apply=%add
}

ENTRY %main (x: f32[8]) -> f32[4] {
  %x = f32[8]{0} parameter(0)
  %begun = ((f32[8]{0}), f32[4]{0}, s32[]) async-start(%x), calls=%wrapped
  ROOT %done = f32[4]{0} async-done(%begun)
}
"""
    assert reading.read(text, "tpu").collectives == 1


class Step:
    name, collectives = "config c: training step", 1


@pytest.mark.parametrize(
    "changed,message",
    [
        ({}, None),
        ({"temp_bytes": 101}, None),
        ({"temp_bytes": 90}, None),
        ({"collectives": 2}, "collectives must be 1, got 2"),
        ({"collectives": 0}, "collectives must be 1, got 0"),
        ({"temp_bytes": 110}, "temporary memory must be at most 102 bytes, got 110"),
        ({"replicated": False}, "parameters must be whole on every device"),
    ],
)
def test_what_is_wrong(changed, message):
    row = {"collectives": 1, "temp_bytes": 100, "replicated": True} | changed
    expected = [] if message is None else [f"{Step.name}: {message}"]
    assert command.wrong(Step, row, {"temp_bytes": 100}) == expected
    assert (
        message is None or "memory" not in message or not command.wrong(Step, row, None)
    )


def test_targets():
    assert targets.named("v5p:2x2x1").platform == "tpu"
    assert targets.named("h100").platform == "gpu"
    for name in ("v5e", "a100", "v5e:2x"):
        with pytest.raises(ValueError, match="--target must be h100 or a TPU"):
            targets.named(name)


def test_compilers_are_those_of_the_jax_that_there_is():
    assert targets.named("v5e:2x2").packages()[0].startswith("libtpu==")
    assert all("==" in name for name in targets.named("h100").packages())
