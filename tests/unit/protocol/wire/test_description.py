"""What the audit log says of a message: kinds, sizes, and a digest that any change alters."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    RecordDict,
)
from flwr.common.serde import message_from_proto, message_to_proto
from safetensors.torch import save
from torch import Tensor
from wire_samples import EVALUATED, FACTS, PROTOCOL, RUN, WEIGHTS, trained

from protocol.config.schedule import plan_round
from protocol.wire.description import describe
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    pack_evaluation,
    pack_facts,
    pack_instruction,
)
from protocol.wire.metrics import allowed_metrics
from protocol.wire.weights import pack_weights


def message(content: RecordDict, kind: str = MessageType.TRAIN, group: str = "3") -> Message:
    made = Message(content, 17, kind, group_id=group)
    made.metadata.__dict__["_message_id"] = "instruction-1"
    return made


TWO_ARRAYS = ArrayRecord(
    array_dict={"z": Array(np.zeros(2, np.float32)), "a": Array(np.ones(3, np.uint8))}
)


def digest(content: RecordDict) -> str:
    return describe(message(content))["sha256"]


def turned(content: RecordDict) -> RecordDict:
    """The same content, inserted the other way round."""
    made = RecordDict()
    for key in reversed(list(content)):
        items = dict(reversed(list(content[key].items())))
        kind = type(content[key])
        made[key] = ArrayRecord(array_dict=items) if kind is ArrayRecord else kind(items)
    return made


@pytest.mark.usefixtures("flower_task")
def test_a_description_by_hand() -> None:
    found = describe(message(trained()))
    # NumPy's 128 before the bytes; the file's own 8, its header, and its values.
    stored = 128 + len(save(WEIGHTS))
    assert (found["what"], found["round"]) == ("train instruction", 3)
    assert found["items"] == {
        "metrics values": len(allowed_metrics("train", PROTOCOL)),
        "segmenter bytes": stored,
        "segmenter tensors": 2,
        "site values": 1,
    }
    assert found["bytes"] > stored
    assert len(found["sha256"]) == 64


@pytest.mark.usefixtures("flower_task")
def test_kinds_of_messages_have_names() -> None:
    asked = message(trained(), MessageType.QUERY)
    assert describe(asked)["what"] == "facts instruction"
    assert describe(Message(RecordDict(), reply_to=asked))["what"] == "facts reply"
    assert describe(message(RecordDict(), MessageType.EVALUATE))["what"] == "evaluate instruction"
    failed = describe(Message(Error(2, "ValueError"), reply_to=asked))
    assert failed == {
        "what": "facts error reply", "round": 3, "sha256": "", "bytes": 0, "items": {}
    }  # fmt: skip


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize(
    ("group", "number"),
    [
        *(("", 0), ("12", 12), ("-1", 0), ("x", 0), ("²", 0), ("٣", 0), ("+1", 0)),
        *(("1 ", 0), (" 1", 0), ("1\n", 0), ("1_0", 0), ("1.0", 0), ("0012", 12)),
        *(("123456789", 123456789), ("1234567890", 0), ("0" * 10, 0), ("9" * 10**5, 0)),
    ],
)
def test_the_round_is_the_group(group: str, number: int) -> None:
    assert describe(message(RecordDict(), group=group))["round"] == number


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize(
    "content",
    [
        trained(),
        pack_facts("A", FACTS, PROTOCOL),
        pack_evaluation("A", EVALUATED, PROTOCOL),
        pack_instruction(PROTOCOL, plan_round(PROTOCOL, 1), WEIGHTS, {"d": torch.ones(1)}, run=RUN),
        # Not of the agreed form: what is refused is described too.
        RecordDict({"more": TWO_ARRAYS, SEGMENTER: TWO_ARRAYS}),
        RecordDict(),
    ],
)
def test_equal_content_is_described_equally(content: RecordDict) -> None:
    expected = describe(message(content))
    assert describe(message(turned(content))) == expected
    # As it arrives at the other end.
    arrived = message_from_proto(message_to_proto(message(content)))
    assert describe(arrived) == expected


def changed_metric(name: str, value: float) -> Callable[[RecordDict], None]:
    return lambda content: content["metrics"].__setitem__(name, value)


def changed_weights(**changes: Tensor | None) -> Callable[[RecordDict], None]:
    """Other tensors in the segmenter's file; those that are None are left out."""
    changed = {**WEIGHTS, **{name.replace("_", "."): w for name, w in changes.items()}}
    file = pack_weights({name: w for name, w in changed.items() if w is not None})
    return lambda content: content.__setitem__(SEGMENTER, file)


def changed_array(change: Callable[[Array], Array]) -> Callable[[RecordDict], None]:
    def spoil(content: RecordDict) -> None:
        content[SEGMENTER]["safetensors"] = change(content[SEGMENTER]["safetensors"])

    return spoil


def changed_bit(array: Array) -> Array:
    return replace(array, data=array.data[:-1] + bytes([array.data[-1] ^ 1]))


def renamed(content: RecordDict, record: str, old: str, new: str) -> None:
    content[record][new] = content[record].pop(old)


def other_name_of_a_record(content: RecordDict) -> None:
    content[CONFIDENCE] = content.pop(SEGMENTER)


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize(
    "change",
    [
        changed_metric("seconds", 1.5000000000000002),
        changed_metric("loss/dice/sum", -0.0),
        changed_weights(a_bias=torch.tensor([0.5, -0.50000006])),
        changed_weights(a_weight=WEIGHTS["a.weight"].reshape(3, 2)),
        changed_weights(a_weight=WEIGHTS["a.weight"].double()),
        changed_weights(a_bias=None),
        changed_weights(a_bias=None, b_bias=WEIGHTS["a.bias"]),
        changed_weights(a_bias=WEIGHTS["a.weight"], a_weight=WEIGHTS["a.bias"]),
        changed_array(changed_bit),
        changed_array(lambda array: replace(array, data=array.data + b"x")),
        changed_array(lambda array: replace(array, dtype="int8")),
        changed_array(lambda array: replace(array, shape=(2, 3))),
        lambda content: renamed(content, "metrics", "steps", "step"),
        lambda content: renamed(content, SEGMENTER, "safetensors", "file"),
        lambda content: content[SEGMENTER].update(TWO_ARRAYS),
        lambda content: renamed(content, "site", "name", "site"),
        lambda content: content["site"].__setitem__("name", "B"),
        lambda content: content["metrics"].pop("steps"),
        lambda content: content[SEGMENTER].pop("safetensors"),
        lambda content: content["metrics"].__setitem__("more", 0.0),
        lambda content: content.__setitem__("more", ConfigRecord()),
        lambda content: content.pop("site"),
        other_name_of_a_record,
    ],
)
def test_any_change_is_another_digest(change: Callable[[RecordDict], None]) -> None:
    content = trained()
    change(content)
    assert digest(content) != digest(trained())
    assert digest(turned(content)) == digest(content)


@pytest.mark.usefixtures("flower_task")
def test_every_number_of_a_reply_is_in_the_digest() -> None:
    expected = digest(trained())
    for name, value in trained()["metrics"].items():
        content = trained()
        content["metrics"][name] = value + 1
        assert digest(content) != expected, name


@pytest.mark.usefixtures("flower_task")
def test_bytes_are_in_the_digest() -> None:
    one, other = (RecordDict({"r": ConfigRecord({"b": value})}) for value in (b"\0", b"\1"))
    assert digest(one) != digest(other)


@pytest.mark.usefixtures("flower_task")
def test_every_byte_of_the_weights_is_in_the_digest() -> None:
    expected, size = digest(trained()), len(trained()[SEGMENTER]["safetensors"].data)
    for place in range(size):
        content = trained()
        array = content[SEGMENTER]["safetensors"]
        data = bytearray(array.data)
        data[place] ^= 1
        content[SEGMENTER]["safetensors"] = replace(array, data=bytes(data))
        assert digest(content) != expected, place


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize("file", [b"", b"rubbish", bytes(8), b"\x02" + bytes(7) + b"[]"])
def test_weights_that_are_rubbish_are_described(file: bytes) -> None:
    """What is refused stands in the log as well: nothing that came may end its writing."""
    array = Array(np.frombuffer(file, np.uint8))
    content = RecordDict({SEGMENTER: ArrayRecord(array_dict={"safetensors": array})})
    found = describe(message(content))
    assert found["items"] == {"segmenter tensors": 0, "segmenter bytes": len(array.data)}
    assert len(found["sha256"]) == 64
