"""The tables of the README and of docs/, made of records. No JAX."""
