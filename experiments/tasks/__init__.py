"""Tasks: data, loss and metrics of each experiment. Imports no JAX."""

from experiments.tasks.registry import (
    TASKS,
    build,
    check,
    is_known,
    is_own,
    register,
)

__all__ = ["TASKS", "build", "check", "is_known", "is_own", "register"]
