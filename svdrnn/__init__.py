"""Spectrally parameterized networks: W = U Sigma V^T with bounded singular values."""

from svdrnn import (
    activations,
    cells,
    checks,
    constraint,
    diagnostics,
    householder,
    initializers,
    kernels,
    layers,
    layouts,
    matrices,
    projection,
    recurrence,
    rnn,
    skew,
    spectral,
    transitions,
    trees,
)
from svdrnn._version import __version__
from svdrnn.cells import (
    DenseRNNCell,
    OrthogonalRNNCell,
    SpectralRNNCell,
    TransitionCell,
)
from svdrnn.constraint import Constraint, Free, Orthogonal, Spectral, SpectralNorm
from svdrnn.kernels import bake, constrain, constraints, set_matrix, unconstrain
from svdrnn.layers import SpectralLinear
from svdrnn.matrices import DenseMatrix, OrthogonalMatrix, SpectralMatrix
from svdrnn.rnn import DenseRNN, OrthogonalRNN, SpectralRNN, TransitionRNN
from svdrnn.trees import constrain_tree

__all__ = [
    "Constraint",
    "DenseMatrix",
    "DenseRNN",
    "DenseRNNCell",
    "Free",
    "Orthogonal",
    "OrthogonalMatrix",
    "OrthogonalRNN",
    "OrthogonalRNNCell",
    "Spectral",
    "SpectralLinear",
    "SpectralMatrix",
    "SpectralNorm",
    "SpectralRNN",
    "SpectralRNNCell",
    "TransitionCell",
    "TransitionRNN",
    "__version__",
    "activations",
    "bake",
    "cells",
    "checks",
    "constrain",
    "constrain_tree",
    "constraint",
    "constraints",
    "diagnostics",
    "householder",
    "initializers",
    "kernels",
    "layers",
    "layouts",
    "matrices",
    "projection",
    "recurrence",
    "rnn",
    "set_matrix",
    "skew",
    "spectral",
    "transitions",
    "trees",
    "unconstrain",
]
