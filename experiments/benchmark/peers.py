"""PyTorch's recurrent layers and orthogonal matrices, as rivals in the benchmark.

Needs `torch` and, for its own rows, `geotorch`; neither is a requirement of the
project. PyTorch is given what favours it: inputs unbound over time before the loop, the
parametrized matrix computed once a sequence (`parametrize.cached`), denormals
flushed to zero. Its RNNs have a tanh, where ours have a leaky ReLU.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from experiments.benchmark import timing


def _torch() -> Any:
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("error: --peers needs PyTorch: pip install torch==2.13.0")
    import torch

    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    return torch


def layers(n: int, batch: int) -> list[timing.Contender]:
    """`nn.RNN`, `nn.LSTM` and an RNN loop under each orthogonal parametrization."""
    torch = _torch()
    builds: dict[str, Callable[[], Any]] = {
        "torch nn.RNN": functools.partial(_library_rnn, torch.nn.RNN, n),
        "torch nn.LSTM": functools.partial(_library_rnn, torch.nn.LSTM, n),
    }
    for kind in ("householder", "cayley", "matrix_exp"):
        builds[f"torch loop, {kind}"] = functools.partial(_Loop, torch, n, kind)
    if importlib.util.find_spec("geotorch") is not None:
        builds["torch loop, geotorch"] = functools.partial(_Loop, torch, n, "geotorch")
    return [
        timing.Contender(name, _step(torch, build(), n, batch))
        for name, build in builds.items()
    ]


def _library_rnn(kind: Callable, n: int) -> Callable:
    layer = kind(1, n, batch_first=False)

    def last(x: Any) -> Any:
        return layer(x)[0][-1]

    last.parameters = layer.parameters  # type: ignore[attr-defined]
    return last


class _Loop:
    """h_t = tanh(W h_{t-1} + M x_t + b) with W under a parametrization."""

    def __init__(self, torch: Any, n: int, kind: str):
        self.torch = torch
        self.hidden = torch.nn.Linear(n, n, bias=False)
        self.inputs = torch.nn.Linear(1, n)
        if kind == "geotorch":
            import geotorch

            geotorch.orthogonal(self.hidden, "weight")
        else:
            torch.nn.utils.parametrizations.orthogonal(self.hidden, orthogonal_map=kind)

    def parameters(self) -> Iterator[Any]:
        """Of both layers."""
        yield from self.hidden.parameters()
        yield from self.inputs.parameters()

    def __call__(self, x: Any) -> Any:
        """The last state (batch, n) of inputs (time, batch, 1)."""
        torch = self.torch
        with torch.nn.utils.parametrize.cached():
            w = self.hidden.weight.T
            h = x.new_zeros(x.shape[1], w.shape[0])
            for drive in self.inputs(x).unbind(0):
                h = torch.tanh(torch.addmm(drive, h, w))
        return h


def _step(torch: Any, layer: Any, n: int, batch: int) -> timing.Make:
    """T -> loss and gradient, called like a compiled step."""
    weights = torch.randn(batch, n)

    def make(steps: int) -> tuple[Callable, None]:
        x = torch.rand(steps, batch, 1)
        parameters = list(layer.parameters())

        def step() -> list:
            loss = (layer(x) * weights).sum()
            return [float(loss.detach()), torch.autograd.grad(loss, parameters)]

        return step, None

    return make


def matrices(n: int) -> list[timing.Contender]:
    """Value and gradient of `torch.linalg.householder_product` at m = n."""
    torch = _torch()
    # Unit diagonal and zeros above it, as LAPACK wants its reflectors.
    raw = torch.tril(torch.randn(n, n) / n**0.5, -1) + torch.eye(n)
    raw.requires_grad_()
    weights = torch.randn(n, n)

    def make(_: int) -> tuple[Callable, None]:
        def step() -> list:
            tau = 2 / (raw * raw).sum(0)
            q = torch.linalg.householder_product(raw, tau)
            return [torch.autograd.grad((q * weights).sum(), raw)]

        return step, None

    return [timing.Contender("torch householder_product", make)]
