"""PyTorch's recurrent layers and orthogonal matrices, as rivals in the benchmark.

Needs `torch` and, for its own rows, `geotorch`; neither is a requirement of the
project. PyTorch is given what favours it: inputs unbound over time before the loop, the
parametrized matrix computed once a sequence (`parametrize.cached`), denormals
flushed to zero.
"""

import importlib.util

from experiments.timing import Contender


def _torch():
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("error: --peers needs PyTorch: pip install torch==2.13.0")
    import torch

    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    return torch


def layer_contenders(n: int, batch: int) -> list[Contender]:
    """`nn.RNN`, `nn.LSTM` and an RNN loop under each orthogonal parametrization."""
    torch = _torch()
    builds = {
        "torch nn.RNN": lambda: _library_rnn(torch, torch.nn.RNN, n),
        "torch nn.LSTM": lambda: _library_rnn(torch, torch.nn.LSTM, n),
    }
    for kind in ("householder", "cayley", "matrix_exp"):
        builds[f"torch loop, {kind}"] = lambda kind=kind: _Loop(torch, n, kind)
    if importlib.util.find_spec("geotorch") is not None:
        builds["torch loop, geotorch"] = lambda: _Loop(torch, n, "geotorch")
    return [
        Contender(name, _step(torch, build(), n, batch))
        for name, build in builds.items()
    ]


def _library_rnn(torch, kind, n):
    layer = kind(1, n, batch_first=False)

    def last(x):
        return layer(x)[0][-1]

    last.parameters = layer.parameters
    return last


class _Loop:
    """h_t = tanh(W h_{t-1} + M x_t + b) with W under a parametrization."""

    def __init__(self, torch, n, kind):
        self.torch = torch
        self.hidden = torch.nn.Linear(n, n, bias=False)
        self.inputs = torch.nn.Linear(1, n)
        if kind == "geotorch":
            import geotorch

            geotorch.orthogonal(self.hidden, "weight")
        else:
            torch.nn.utils.parametrizations.orthogonal(self.hidden, orthogonal_map=kind)

    def parameters(self):
        yield from self.hidden.parameters()
        yield from self.inputs.parameters()

    def __call__(self, x):
        torch = self.torch
        with torch.nn.utils.parametrize.cached():
            w = self.hidden.weight.T
            h = x.new_zeros(x.shape[1], w.shape[0])
            for drive in self.inputs(x).unbind(0):
                h = torch.tanh(torch.addmm(drive, h, w))
        return h


def _step(torch, layer, n, batch):
    """T -> loss and gradient, called like a compiled step."""
    weights = torch.randn(batch, n)

    def make(steps):
        x = torch.rand(steps, batch, 1)
        parameters = list(layer.parameters())

        def step():
            loss = (layer(x) * weights).sum()
            return [float(loss.detach()), torch.autograd.grad(loss, parameters)]

        return step, None

    return make


def matrix_contenders(n: int) -> list[Contender]:
    """Value and gradient of `torch.linalg.householder_product` at m = n."""
    torch = _torch()
    # Unit diagonal and zeros above it, as LAPACK wants its reflectors.
    raw = torch.tril(torch.randn(n, n) / n**0.5, -1) + torch.eye(n)
    raw.requires_grad_()
    weights = torch.randn(n, n)

    def make(_):
        def step():
            tau = 2 / (raw * raw).sum(0)
            q = torch.linalg.householder_product(raw, tau)
            return [torch.autograd.grad((q * weights).sum(), raw)]

        return step, None

    return [Contender("torch householder_product", make)]
