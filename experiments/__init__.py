"""Tasks, training loop, figures and benchmarks built on top of `svdrnn`."""
