"""metrics.jsonl: what is written is strict JSON, and what is read is the last of it."""

import io
import struct

import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from tensorboardX.proto import event_pb2, plugin_hparams_pb2

from experiments.runs import files, logs
from tests.experiments.small import strict_lines


def test_log_lines_are_strict_json(tmp_path):
    log = logs.MetricLog(tmp_path, None)
    log.write(3, "train", {"loss": float("nan"), "norm": np.float32("inf")})
    log.write(4, "valid", {"loss": jnp.float32(0.5), "count": 3})
    log.event(4, "note", text="so")
    lines = strict_lines(tmp_path / "metrics.jsonl")  # flushed: not closed yet
    log.close()
    assert lines == [
        {"step": 3, "split": "train", "loss": None, "norm": None},
        {"step": 4, "split": "valid", "loss": 0.5, "count": 3},
        {"step": 4, "split": "event", "event": "note", "text": "so"},
    ]


@pytest.mark.parametrize("step", [0, 2, 3])
def test_log_cuts_what_lies_behind_a_checkpoint(tmp_path, step):
    path = tmp_path / "metrics.jsonl"
    lines = [f'{{"step": {each}, "split": "train"}}' for each in (1, 2, 3)]
    path.write_text("\n".join(["foreign", *lines, '{"step": 4, "sp']))
    log = logs.MetricLog(tmp_path, step)
    log.close()
    kept = ["foreign", *lines[:step]] if step else []
    assert path.read_text() == "".join(f"{each}\n" for each in kept)


def test_log_cuts_a_return_that_no_checkpoint_has(tmp_path):
    log = logs.MetricLog(tmp_path, None)
    log.write(2, "valid", {"loss": 1.0})
    log.event(2, "restored", restores=1)
    log.go_back(2)  # again, by the same process
    log.event(2, "restored", restores=2)
    log.close()
    path = tmp_path / "metrics.jsonl"
    first, *returns = path.read_text().splitlines()
    assert len(returns) == 2
    for restores, kept in ((1, returns[:1]), (0, [])):  # killed before the next one
        logs.MetricLog(tmp_path, 2, restores).close()
        assert path.read_text().splitlines() == [first, *kept]


def test_a_log_that_left_its_folder_is_an_error(tmp_path):
    log = logs.MetricLog(tmp_path, None)
    path = tmp_path / "metrics.jsonl"
    for change in (path.unlink, path.touch):
        change()
        with pytest.raises(files.Unwritable, match="metrics.jsonl cannot be written"):
            log.write(1, "train", {"loss": 1.0})
    log.close()


def written_events(workdir):
    """The events of all files of TensorBoard in a folder, the oldest first."""
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:  # a record: its length, a checksum, the event, a checksum
            (size,) = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def test_tensorboard_reads_the_numbers(tmp_path):
    for resumed_from, step in ((None, 1), (1, 2)):
        log = logs.MetricLog(tmp_path, resumed_from)
        log.write(step, "train", {"loss": 0.5 * step, "what": "text", "norm": None})
        log.close()
    found = list(written_events(tmp_path))
    numbers = [(each.step, value) for each in found for value in each.summary.value]
    assert [(s, v.tag, v.simple_value) for s, v in numbers] == [
        *((1, "train/loss", 0.5), (2, "train/loss", 1.0))
    ]
    starts = [e for e in found if e.session_log.status == event_pb2.SessionLog.START]
    assert [each.step for each in starts] == [2]


def hparams(values):
    """What the HParams tab reads: {kind: content} of the summaries of its plugin."""
    parts = {}
    for value in values:
        if value.metadata.plugin_data.plugin_name == "hparams":
            content = value.metadata.plugin_data.content
            data = plugin_hparams_pb2.HParamsPluginData.FromString(content)
            (kind,) = (field.name for field, _ in data.ListFields())
            parts[value.tag] = getattr(data, kind)
    assert {tag.removeprefix("_hparams_/") for tag in parts} <= {
        *("experiment", "session_start_info", "session_end_info")
    }
    return {tag.removeprefix("_hparams_/"): part for tag, part in parts.items()}


def test_tensorboard_compares_the_fields_and_the_result(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(5, 7, 4), dtype=np.uint8)
    picture = tmp_path / "curve.png"
    matplotlib.image.imsave(picture, pixels)
    fields = {"steps": 9, "rate": 0.1, "tied": True, "name": "rnn"}
    fields |= {"reflectors": [8, 16], "ema": None}
    log = logs.MetricLog(tmp_path, None)
    log.compare(9, fields, {"best/valid/mse": 0.5, "best/test/mse": None}, picture)
    log.close()
    *_, event = written_events(tmp_path)
    assert event.step == 9
    parts = hparams(event.summary.value)
    start = parts["session_start_info"].hparams
    assert {name: getattr(v, v.WhichOneof("kind")) for name, v in start.items()} == {
        **{"steps": 9.0, "rate": 0.1, "tied": True, "name": "rnn"},
        **{"reflectors": "[8, 16]", "ema": "None"},
    }
    columns = [each.name for each in parts["experiment"].hparam_infos]
    assert columns == list(fields)
    (metric,) = parts["experiment"].metric_infos
    assert metric.name.tag == "best/valid/mse"
    values = {value.tag: value for value in event.summary.value}
    assert values["best/valid/mse"].simple_value == 0.5
    assert "best/test/mse" not in values
    shown = values["curve"].image
    assert (shown.height, shown.width, shown.colorspace) == (5, 7, 4)
    drawn = matplotlib.image.imread(io.BytesIO(shown.encoded_image_string), "png")
    np.testing.assert_array_equal(drawn, pixels / np.float32(255))
