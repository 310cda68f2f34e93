"""Arrays travel in as few pieces as the gate lets through."""

import numpy as np
import pytest
from flwr.app import Array
from flwr.app.message import array as flowers
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node

from flower_compat.chunks import CHUNK_BYTES, send_large_chunks
from server.admin.connections import Limits
from server.admin.gate import MAX_BODY_BYTES


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"
    monkeypatch.setattr(flowers, name, 5 * 2**20)


def test_what_flower_cuts_into_four_is_two_pieces() -> None:
    data = np.random.default_rng(1).integers(0, 255, CHUNK_BYTES + 2**20 * 7, np.uint8)
    assert len(Array(data).slice_array()) == 4
    send_large_chunks()
    assert len(Array(data).slice_array()) == 2
    assert len(Array(data[: CHUNK_BYTES - 1024]).slice_array()) == 1


def test_the_largest_piece_fits_through_the_gate() -> None:
    piece = ArrayChunk(memoryview(bytes(CHUNK_BYTES)))
    request = PushObjectRequest(
        node=Node(node_id=2**64 - 1),
        run_id=2**64 - 1,
        object_id="f" * 64,
        object_content=piece.deflate(),
        session_id="f" * 36,
    )
    assert request.ByteSize() < MAX_BODY_BYTES


def test_eight_sites_may_share_an_address() -> None:
    """Each sends two pieces at a time, in Flower's threads."""
    assert Limits().bytes_per_address >= 2 * 8 * CHUNK_BYTES


def test_a_flower_that_cuts_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(flowers, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE")
    with pytest.raises(RuntimeError, match="in another way"):
        send_large_chunks()
