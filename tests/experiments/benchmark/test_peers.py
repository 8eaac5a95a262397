"""PyTorch as a rival: what it computes where it is installed, one line where not."""

import importlib.util

import numpy as np
import pytest

from experiments.benchmark import peers


def test_without_pytorch_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for make in (lambda: peers.layers(4, 2), lambda: peers.matrices(4)):
        with pytest.raises(
            SystemExit, match="error: --peers needs PyTorch: pip"
        ) as end:
            make()
        assert "\n" not in str(end.value)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def test_layers_give_loss_and_gradients(torch):
    rivals = {each.name: each for each in peers.layers(4, 2)}
    loops = {f"torch loop, {kind}" for kind in ("householder", "cayley", "matrix_exp")}
    assert set(rivals) >= {"torch nn.RNN", "torch nn.LSTM"} | loops
    for each in rivals.values():
        call, arguments = each.make(3)
        assert arguments is None  # ready to run: nothing for JAX to compile
        loss, gradients = call()
        assert np.isfinite(loss) and len(gradients) >= 3
        assert call()[0] == pytest.approx(loss)


def test_a_loop_keeps_its_matrix_orthogonal(torch):
    for kind in ("householder", "cayley", "matrix_exp"):
        loop = peers._Loop(torch, 5, kind)
        w = loop.hidden.weight.detach().numpy()
        np.testing.assert_allclose(w @ w.T, np.eye(5), atol=1e-5)


def test_the_matrix_is_a_product_of_reflectors(torch):
    (rival,) = peers.matrices(6)
    call, arguments = rival.make(0)
    (gradients,) = call()
    assert arguments is None and gradients[0].shape == (6, 6)
