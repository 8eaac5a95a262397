"""Training: from a config and a workdir to a result, whatever the task."""
