"""Flower's simulation engine, Ray, kept running from one study to the next."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_engine() -> Iterator[None]:
    """Ray, which Flower starts for a study and shuts down after it, serves all within.

    Its start is a third of a short study.  Each study has actors of its own all the same.
    """
    import ray

    shutdown = ray.shutdown
    ray.shutdown = lambda *_, **__: None
    try:
        yield
    finally:
        ray.shutdown = shutdown
        shutdown()
