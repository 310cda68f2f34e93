"""A message is refused before it takes more memory than it may: Flower's own, and forged ones."""

import json
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
)
from flwr.superlink.grid import http_grid

from flower_compat.grid import PromptGrid, UnreadableReplyError
from flower_compat.inflating import BadMessageError, Bounds, bound_pulls
from protocol.wire.weights import array_of

MIB = 2**20
pytestmark = pytest.mark.usefixtures("flower_task")
# As one chunk is cut by Flower, without its head.
CHUNK = 5 * MIB


@pytest.fixture(autouse=True)
def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pull_objects", "inflate_object_from_contents"):
        monkeypatch.setattr(http_grid, name, getattr(http_grid, name))


def message(content: RecordDict) -> Message:
    return Message(content, dst_node_id=2, message_type="train")


def deflated(sent: Message) -> dict[str, bytes]:
    return {name: thing.deflate() for name, thing in get_all_nested_objects(sent).items()}


def weights(data: bytes) -> RecordDict:
    return RecordDict({"segmenter": ArrayRecord(array_dict={"safetensors": array_of(data)})})


def taken(bounds: Bounds, objects: dict[str, bytes], root: str) -> Message:
    contents = bounds.pull(list(objects), objects.__getitem__)
    return bounds.inflate(root, contents)


class Forged:
    """Objects of a site's own making, as they lie in the SuperLink's store."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def add(self, kind: str, children: list[str], body: bytes) -> str:
        head = f"{kind} {','.join(children)} {len(body)}".encode()
        content = head + b"\0" + body
        name = get_object_id(content)
        self.objects[name] = content
        return name

    def array(self, chunks: list[str], named: list[int]) -> str:
        body = {"dtype": "uint8", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": named}
        return self.add("Array", chunks, json.dumps(body).encode())

    def reply(self, arrays: dict[str, str]) -> str:
        record = self.add(
            "ArrayRecord", list(dict.fromkeys(arrays.values())), json.dumps(arrays).encode()
        )
        content = self.add("RecordDict", [record], json.dumps({"segmenter": record}).encode())
        # Flower's own, with another content.
        empty = message(RecordDict())
        body = deflated(empty)[empty.object_id].partition(b"\0")[2]
        return self.add("Message", [content], body)


def test_what_is_lawful_is_taken_to_the_last_byte() -> None:
    rng = np.random.default_rng(1)
    content = weights(rng.bytes(12 * MIB))
    content["metrics"] = MetricRecord({"loss": 0.5})
    sent = message(content)
    size = len(content["segmenter"]["safetensors"].data)
    here = taken(Bounds(array_bytes=size), deflated(sent), sent.object_id)
    assert here.content["segmenter"]["safetensors"].data == content["segmenter"]["safetensors"].data
    with pytest.raises(
        BadMessageError, match=rf"would take {size} bytes of values, {size - 1} are"
    ):
        taken(Bounds(array_bytes=size - 1), deflated(sent), sent.object_id)


def test_600_mib_of_zeros_as_one_repeated_chunk_take_nothing() -> None:
    """As Flower itself sends them; and terabytes, as nobody could."""
    for times in (120, 300_000):
        forged = Forged()
        chunk = forged.add("ArrayChunk", [], bytes(CHUNK))
        root = forged.reply({"safetensors": forged.array([chunk], [0] * times)})
        contents = dict(forged.objects)
        tracemalloc.start()
        with pytest.raises(BadMessageError, match=f"would take {times * CHUNK} bytes"):
            taken(Bounds(array_bytes=10 * MIB), contents, root)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 40 * MIB


def test_one_chunk_in_many_arrays_counts_as_often() -> None:
    forged = Forged()
    chunk = forged.add("ArrayChunk", [], bytes(CHUNK))
    arrays = {f"a{n}": forged.array([chunk], [0] * (n + 1)) for n in range(10)}
    with pytest.raises(BadMessageError, match=f"would take {55 * CHUNK} bytes"):
        taken(Bounds(array_bytes=54 * CHUNK), forged.objects, forged.reply(arrays))


def test_more_than_is_allowed_is_not_pulled() -> None:
    pulled: list[str] = []

    def pull(name: str) -> bytes:
        pulled.append(name)
        return b"ArrayChunk  5242880\0" + bytes(CHUNK)

    with pytest.raises(BadMessageError, match="has over 11534336 bytes of values"):
        Bounds(array_bytes=10 * MIB).pull([f"{n:064x}" for n in range(500)], pull)
    assert len(pulled) < 10
    with pytest.raises(BadMessageError, match="has 1025 objects, 1024 are allowed"):
        Bounds(array_bytes=10 * MIB).pull([f"{n:064x}" for n in range(1025)], pull)


@pytest.mark.parametrize(
    "record",
    [
        MetricRecord({"scan": [0] * 2_000_000}),
        ConfigRecord({"scan": "0" * 2_000_000}),
        ConfigRecord({"scan": [b""] * 1_000_000}),
    ],
    ids=["metrics", "text", "list"],
)
def test_large_numbers_and_texts_are_not_pulled(record: MetricRecord | ConfigRecord) -> None:
    sent = message(RecordDict({"metrics": record}))
    with pytest.raises(BadMessageError, match="has over 1048576 bytes beside its values"):
        taken(Bounds(array_bytes=100 * MIB), deflated(sent), sent.object_id)


FORGERIES: dict[str, Callable[[Forged], str]] = {
    "an index that is not there": lambda f: f.reply({"a": f.array([], [0])}),
    "an index that is no number": lambda f: f.reply({"a": f.array([], ["x"])}),  # type: ignore[list-item]
    "no list of chunks": lambda f: f.reply({"a": f.add("Array", [], b"{}")}),
    "no JSON": lambda f: f.reply({"a": f.add("Array", [], b"[")}),
    "deep JSON": lambda f: f.reply({"a": f.add("Array", [], b"[" * 500_000)}),
    "a child that is not there": lambda f: f.reply({"a": "0" * 64}),
    "a record for a message": lambda f: f.add("RecordDict", [], b"{}"),
    "an unknown kind": lambda f: f.reply({"a": f.add("Pickle", [], b"")}),
    "no head": lambda f: f.objects.setdefault("x", b"abc") and "x",
    "an array that names itself a message": lambda f: f.add("Message", [], b"\xff" * 9),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_what_cannot_be_put_together_is_no_message(kind: str) -> None:
    forged = Forged()
    root = FORGERIES[kind](forged)
    with pytest.raises(BadMessageError, match=r"cannot be read|and no message"):
        taken(Bounds(array_bytes=MIB), forged.objects, root)


def test_the_centre_refuses_such_a_reply_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forged = Forged()
    chunk = forged.add("ArrayChunk", [], bytes(CHUNK))
    root = forged.reply({"safetensors": forged.array([chunk], [0] * 120)})

    class Grid:
        """As HttpGrid pulls, by the names that it has imported."""

        def pull_messages(self, message_ids: list[str]) -> list[Any]:
            contents = http_grid.pull_objects(
                object_ids=list(forged.objects), pull_object_fn=forged.objects.__getitem__
            )
            return [http_grid.inflate_object_from_contents(root, contents)]

    grid = PromptGrid(Grid(), MIB)  # type: ignore[arg-type]
    with pytest.raises(UnreadableReplyError):
        while not list(grid.pull_messages(["instruction"])):
            pass
    assert "a reply is refused: it has over 2097152 bytes of values" in caplog.text


def test_a_site_takes_no_such_instruction(caplog: pytest.LogCaptureFixture) -> None:
    """The same by the way in which the executor pulls."""
    sent = message(weights(np.random.default_rng(1).bytes(2 * MIB)))
    objects, tree = deflated(sent), get_object_tree(sent)
    module: dict[str, Any] = {"pull_and_inflate_object_from_tree": None}
    confirmed: list[str] = []

    def pull(array_bytes: int) -> Message:
        bound_pulls(Bounds(array_bytes=array_bytes), module)
        function = module["pull_and_inflate_object_from_tree"]
        return function(tree, objects.__getitem__, confirmed.append, return_type=Message)  # type: ignore[no-any-return]

    assert set(pull(3 * MIB).content) == {"segmenter"} and confirmed == [tree.object_id]
    with pytest.raises(BadMessageError, match="bytes of values"):
        pull(MIB // 2)


def test_a_flower_that_pulls_in_another_way_is_told() -> None:
    with pytest.raises(RuntimeError, match="pulls messages in another way"):
        bound_pulls(Bounds(array_bytes=1), vars(SimpleNamespace()))
    assert ObjectTree(object_id="x").object_id == "x"
