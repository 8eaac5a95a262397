"""Models: from `config.model` and a task to a network. Imports no JAX."""

from experiments.models.registry import BESIDE, MODELS, names, register

__all__ = ["BESIDE", "MODELS", "names", "register"]
