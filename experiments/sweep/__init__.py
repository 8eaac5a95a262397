"""Sweeps: what is searched, where it is kept, how it is worked off and shown."""
