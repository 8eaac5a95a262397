"""Checkpoints: the newest two, each complete."""

import jax.numpy as jnp
import numpy as np

from experiments.training import checkpoints


def test_checkpoints_keep_two_and_skip_a_step_that_exists(tmp_path):
    saved = checkpoints.Checkpoints(tmp_path / "checkpoints")
    state = {"weights": jnp.arange(3.0), "nothing": None, "empty": {}}
    for step in (1, 2, 3):
        saved.save(step, state, {"weights": jnp.full(3, step)}, {"best": step})
    saved.save(3, state, {"weights": jnp.zeros(3)}, {"best": 0})
    assert saved.latest() == 3
    assert sorted(p.name for p in saved.directory.iterdir()) == ["2", "3"]
    found, best_params, record = saved.restore(state, {"weights": jnp.zeros(3)})
    saved.close()
    assert record == {"best": 3} and found["nothing"] is None
    np.testing.assert_array_equal(found["weights"], [0, 1, 2])
    np.testing.assert_array_equal(best_params["weights"], [3, 3, 3])
