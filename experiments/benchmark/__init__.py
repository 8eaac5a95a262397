"""Benchmark: step times of recurrent layers and orthogonal matrices, and rivals."""
