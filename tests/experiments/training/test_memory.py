"""What cannot fit into memory is refused from its sizes, and what fits is not."""

import pytest
from flax import nnx

from configs import copying, ptb_word
from experiments import tasks
from experiments.models import build
from experiments.training import loop, memory
from tests.experiments.small import changed_addition


@pytest.mark.parametrize(
    "fields",
    [
        {"task__length": 10**9},
        {"train__batch_size": 10**9},
        {"model__hidden": 10**8},
        {"model__name": "rnn", "model__hidden": 10**6},
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_made(tmp_path, fields):
    config = changed_addition(**{"model__init": "random", **fields})
    value = list(fields.values())[-1]
    with pytest.raises(ValueError, match=f"must fit into .* GB .*got .*{value}.* GB"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_window_of_text_is_counted():
    config = ptb_word.get_config("smoke")
    config.data_dir = "stand-in"
    memory.check(config, tasks.build(config))
    config.task.window = 10**9
    with pytest.raises(ValueError, match="1000000000, which need"):
        memory.check(config, tasks.build(config))


def test_what_ships_fits(monkeypatch):
    config = copying.get_config("1000")
    task = tasks.build(config)
    memory.check(config, task)
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    with pytest.raises(ValueError, match="fit into 1e-05 GB"):
        memory.check(config, task)


@pytest.mark.parametrize(
    "fields,kept",
    [
        ({}, 100),
        ({"model__activation_every": 10}, 10),
        ({"model__activation": "identity"}, 0),
        ({"model__activation": "identity", "model__layers": 2}, 100),
        ({"model__activation": "identity", "model__pool": "mean"}, 100),
        ({"model__activation_every": 10, "model__bidirectional": True}, 20),
        ({"model__layers": 2, "model__bidirectional": True}, 400),
        ({"model__layers": 3, "model__output_every": 20}, 100 + 5 + 5),
        (
            {
                **{"model__layers": 2, "model__pool": "mean"},
                **{"model__activation": "identity", "model__output_every": 20},
            },
            5 + 5,
        ),
    ],
)
def test_states_of_linear_steps_are_not_counted(monkeypatch, fields, kept):
    config = changed_addition(task__length=100, model__hidden=64, **fields)
    task = tasks.build(config)
    counted = []
    monkeypatch.setattr(memory, "check_bytes", lambda *args: counted.append(args[-1]))
    memory.check(config, task)
    model = nnx.eval_shape(lambda: build.build(config.model, task, rngs=nnx.Rngs(0)))
    parameters = memory.COPIES * build.count_params(model)
    batch = config.train.batch_size
    expected = parameters + batch * (100 * task.in_features + kept * 64 + 1)
    assert counted == [memory.BYTES * expected]
