"""Models: from `config.model` and a task to a network. Imports no JAX."""

from experiments.models.registry import MODELS, OF_REFLECTORS, register

__all__ = ["MODELS", "OF_REFLECTORS", "register"]
