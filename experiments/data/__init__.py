"""Data sets as numpy arrays: read from files, or downloaded and kept."""
