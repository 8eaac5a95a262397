"""Tasks: data, loss and metrics of each experiment. Imports no JAX."""

from experiments.tasks.registry import TASKS, build, check, register

__all__ = ["TASKS", "build", "check", "register"]
