"""Spectrally parameterized networks: W = U Sigma V^T with bounded singular values."""

from svdrnn.layers import SpectralLinear
from svdrnn.matrices import DenseMatrix, SpectralMatrix
from svdrnn.rnn import (
    DenseRNN,
    DenseRNNCell,
    SpectralRNN,
    SpectralRNNCell,
    TransitionCell,
    TransitionRNN,
)

__all__ = [
    "DenseMatrix",
    "DenseRNN",
    "DenseRNNCell",
    "SpectralLinear",
    "SpectralMatrix",
    "SpectralRNN",
    "SpectralRNNCell",
    "TransitionCell",
    "TransitionRNN",
]
