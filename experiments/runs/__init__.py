"""Runs: what a run is, what it writes, and what is kept and drawn of it."""
