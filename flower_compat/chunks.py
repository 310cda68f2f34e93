"""How large the pieces are in which Flower moves an array.

Each piece is a request, a hash and a commit of its own at every hop.  Flower 1.41 cuts at 5 MiB and
has an environment variable for it, which would have to be set before anything of it is imported.
"""

from flwr.app.message import array

# Half of the body that `server.admin.gate` lets through: each site sends two at a time, and
# `server.admin.connections` bounds what is on its way from one address, which sites may share.
CHUNK_BYTES = 8 * 2**20

_NAME = "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"


def send_large_chunks() -> None:
    """From now on, this process cuts what it sends into chunks of `CHUNK_BYTES`."""
    if _NAME not in vars(array):
        raise RuntimeError("this version of Flower cuts arrays in another way")
    setattr(array, _NAME, CHUNK_BYTES)
