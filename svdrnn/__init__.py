"""Spectrally parameterized networks: W = U Sigma V^T with bounded singular values."""

from svdrnn.layers import SpectralLinear
from svdrnn.matrices import DenseMatrix, OrthogonalMatrix, SpectralMatrix
from svdrnn.rnn import (
    DenseRNN,
    DenseRNNCell,
    OrthogonalRNN,
    OrthogonalRNNCell,
    SpectralRNN,
    SpectralRNNCell,
    TransitionCell,
    TransitionRNN,
)

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
]
