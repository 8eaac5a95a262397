"""The version, for the package and for what builds it."""

__version__ = "0.1.0"
