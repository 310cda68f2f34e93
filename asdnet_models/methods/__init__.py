"""Ways to train, by name: one module each, on the pieces of `common`."""

from asdnet_models.catalogue import METHODS
from asdnet_models.methods.common import Method
from asdnet_models.networks import named


def method_named(name: str) -> type[Method]:
    """The class of that name in the catalogue."""
    found: type[Method] = named(METHODS[name].build)
    return found
