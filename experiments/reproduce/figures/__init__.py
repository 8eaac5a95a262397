"""The paper's figures: a file each with its runs and its drawing. No JAX."""
