"""Models: from `config.model` and a task to a network. Imports no JAX."""

from experiments.models.registry import (
    BESIDE,
    MODELS,
    is_known,
    is_own,
    names,
    register,
)

__all__ = ["BESIDE", "MODELS", "is_known", "is_own", "names", "register"]
