"""Counts what JAX compiles, and what of it no cache has."""

import contextlib

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"  # or read from a cache
WRITTEN = "/jax/compilation_cache/cache_misses"


@contextlib.contextmanager
def programs():
    """A list of the names of all programs that are compiled or read meanwhile.

    What this process has compiled before counts again.
    """
    names = []

    def note(event, seconds, **about):
        if event == COMPILED:
            names.append(about["fun_name"])

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


@contextlib.contextmanager
def written():
    """A list with an item for each program that is written to a folder meanwhile."""
    events = []

    def note(event, **about):
        if event == WRITTEN:
            events.append(event)

    jax.clear_caches()
    jax.monitoring.register_event_listener(note)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_listener(note)
