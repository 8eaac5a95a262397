"""Spectrally parameterized networks: W = U Sigma V^T with bounded singular values."""

from svdrnn import (
    activations,
    cells,
    certification,
    checks,
    diagnostics,
    generalization,
    householder,
    initializers,
    layers,
    matrices,
    projection,
    recurrence,
    rnn,
    skew,
    spectral,
    transitions,
)
from svdrnn._version import __version__
from svdrnn.cells import (
    DenseRNNCell,
    OrthogonalRNNCell,
    SpectralRNNCell,
    TransitionCell,
)
from svdrnn.layers import SpectralLinear
from svdrnn.matrices import DenseMatrix, OrthogonalMatrix, SpectralMatrix
from svdrnn.rnn import DenseRNN, OrthogonalRNN, SpectralRNN, TransitionRNN

__all__ = [
    "DenseMatrix",
    "DenseRNN",
    "DenseRNNCell",
    "OrthogonalMatrix",
    "OrthogonalRNN",
    "OrthogonalRNNCell",
    "SpectralLinear",
    "SpectralMatrix",
    "SpectralRNN",
    "SpectralRNNCell",
    "TransitionCell",
    "TransitionRNN",
    "__version__",
    "activations",
    "cells",
    "certification",
    "checks",
    "diagnostics",
    "generalization",
    "householder",
    "initializers",
    "layers",
    "matrices",
    "projection",
    "recurrence",
    "rnn",
    "skew",
    "spectral",
    "transitions",
]
