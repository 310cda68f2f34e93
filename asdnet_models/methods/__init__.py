"""Training methods by name: one module each, built on `common`."""

from asdnet_models.catalogue import METHODS, imported
from asdnet_models.methods.common import Method


def method_named(name: str) -> type[Method]:
    """The class of that name in the catalogue."""
    method: type[Method] = imported(METHODS[name].build)
    return method
