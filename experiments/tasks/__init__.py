"""Tasks: data, loss and metrics of each experiment. Imports no JAX."""

from experiments.tasks.registry import (
    BESIDE,
    TASKS,
    build,
    check,
    is_known,
    is_own,
    register,
)

__all__ = ["BESIDE", "TASKS", "build", "check", "is_known", "is_own", "register"]
