"""Networks' weights on the wire: what goes in comes out, and no other file gets through."""

import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from safetensors.torch import save
from torch import Tensor, nn

import protocol.wire.weights
from protocol.wire.weights import (
    MessageError,
    bytes_of,
    count_tensors,
    pack_weights,
    raw_weights,
    read_weights,
    wire_weights,
)

NAME = "segmenter"
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, -0.5])}
W = {"w": torch.tensor([1.0, 2.0])}
LINE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DATA = np.array([1.0, 2.0], np.float32).tobytes()


def sent(weights: dict[str, Tensor]) -> RecordDict:
    return RecordDict({NAME: pack_weights(weights)})


def array_of(file: bytes) -> Array:
    return Array(np.frombuffer(file, np.uint8))


def holding(array: Array) -> RecordDict:
    return RecordDict({NAME: ArrayRecord(array_dict={"safetensors": array})})


def file_of(header: Any, data: bytes = DATA, size: int | None = None) -> bytes:
    """A safetensors file by hand: 8 bytes that say the header's size, the header, the values."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def assert_refused(content: RecordDict, message: str, like: dict[str, Tensor] = W) -> None:
    with pytest.raises(MessageError, match=f"segmenter: {message}"):
        read_weights(content, NAME, like)


# ---- round trips --------------------------------------------------------------------------------


def test_one_array_of_bytes_for_a_network() -> None:
    record = pack_weights(W)
    assert list(record) == ["safetensors"]
    array = record["safetensors"]
    assert (array.dtype, len(array.shape)) == ("uint8", 1)
    file = array.numpy().tobytes()
    size = int.from_bytes(file[:8], "little")
    assert json.loads(file[8 : 8 + size]) == {"w": LINE}
    assert file[8 + size :] == DATA


@pytest.mark.parametrize("size", [0, 1, 9, 10, 72, 10**6])
def test_an_array_of_bytes_is_as_flower_makes_it(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert protocol.wire.weights.array_of(data[:size]) == array_of(data[:size])


def test_weights_come_back_over_the_wire() -> None:
    content = recorddict_from_proto(recorddict_to_proto(sent(WEIGHTS)))
    found = read_weights(content, NAME, {name: w * 0 for name, w in WEIGHTS.items()})
    assert found is not None
    assert {name: w.tolist() for name, w in found.items()} == {
        "a.weight": [[0, 1, 2], [3, 4, 5]],
        "a.bias": [0.5, -0.5],
    }
    assert list(found) == list(WEIGHTS)  # the network's order, not the file's


def test_weights_that_were_not_sent_are_none() -> None:
    assert read_weights(RecordDict(), NAME, W) is None
    assert raw_weights(RecordDict(), NAME) is None


def test_the_order_of_the_tensors_tells_nothing() -> None:
    turned = dict(reversed(list(WEIGHTS.items())))
    assert pack_weights(turned)["safetensors"].data == pack_weights(WEIGHTS)["safetensors"].data


def test_counters_stay_home_and_floating_tensors_travel() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2)).double()
    network[1].num_batches_tracked += 7
    weights = wire_weights(network.state_dict())
    assert set(weights) == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
    }
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert not any(w.requires_grad for w in weights.values())
    content = sent(weights)
    assert set(raw_weights(content, NAME) or {}) == set(weights)
    found = read_weights(content, NAME, network.state_dict())
    assert found is not None
    assert set(found) == set(weights)


def test_received_weights_are_ones_own() -> None:
    found = read_weights(sent(WEIGHTS), NAME, WEIGHTS)
    assert found is not None
    found["a.bias"] += 1  # an array from the wire would be read-only
    assert WEIGHTS["a.bias"].tolist() == [0.5, -0.5]
    again = read_weights(sent(WEIGHTS), NAME, WEIGHTS)
    assert again is not None
    assert again["a.bias"].tolist() == [0.5, -0.5]


def test_weights_laid_out_otherwise_arrive_in_order() -> None:
    transposed = torch.arange(6.0).reshape(2, 3).t()
    found = read_weights(sent(wire_weights({"w": transposed})), NAME, {"w": torch.zeros(3, 2)})
    assert found is not None
    assert found["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_bytes_by_hand() -> None:
    assert bytes_of(WEIGHTS) == (6 + 2) * 4
    assert bytes_of({}) == 0
    assert bytes_of(None) == 0


# ---- other weights ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a.weight": torch.zeros(2, 3)}, "tensor names differ: 0 missing; 1 that are not agreed"),
        (WEIGHTS | {"b": torch.zeros(1)}, "tensor names differ: 1 missing, first 'b'"),
        (
            WEIGHTS | {"a.weight": torch.zeros(3, 2)},
            r"a.weight is torch.float32 \(2, 3\), must be torch.float32 \(3, 2\)",
        ),
        (
            WEIGHTS | {"a.weight": torch.zeros(6)},
            r"a.weight is torch.float32 \(2, 3\), must be torch.float32 \(6,\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused(like: dict[str, Tensor], message: str) -> None:
    assert_refused(sent(WEIGHTS), message, like)


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float16", "bfloat16", "int32", "int64", "uint8", "bool", "float8_e4m3fn"],
)
def test_weights_of_another_dtype_are_refused(dtype: str) -> None:
    content = sent({"w": torch.zeros(2).to(getattr(torch, dtype))})
    assert_refused(content, rf"w is torch.{dtype} \(2,\), must be torch.float32 \(2,\)")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    assert_refused(sent({"w": torch.tensor([0, value])}), "w holds NaN or infinity")


def test_empty_weights_are_refused() -> None:
    assert_refused(sent({}), "tensor names differ: 1 missing, first 'w'")


# ---- other records ------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_weights, raw_weights])
def test_weights_in_a_record_of_another_kind_are_refused(read: Any) -> None:
    content = RecordDict({NAME: ConfigRecord({"safetensors": save(W)})})
    given = (content, NAME, W) if read is read_weights else (content, NAME)
    with pytest.raises(MessageError, match="segmenter: must be an ArrayRecord, not ConfigRecord"):
        read(*given)


def renamed(name: str) -> dict[str, Array]:
    return {name: array_of(save(W))}


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        renamed("w"),
        renamed("Safetensors"),
        renamed("safetensors "),
        renamed("safetensors") | {"extra": array_of(b"pixels")},
        renamed("safetensors") | {"": array_of(b"")},
        {"w": Array(W["w"].numpy())},  # as every tensor was an array of its own
    ],
)
def test_a_record_holds_one_array_of_one_name(arrays: dict[str, Array]) -> None:
    content = RecordDict({NAME: ArrayRecord(array_dict=arrays)})
    assert_refused(content, "must hold one array 'safetensors' alone, holds ")
    with pytest.raises(MessageError, match="must hold one array 'safetensors' alone, holds "):
        raw_weights(content, NAME)


# ---- other arrays -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint16", "float32", "float64", "bool", "S1"])
def test_an_array_that_is_not_of_bytes_is_refused(dtype: str) -> None:
    """Whatever the array's own word: what is stored counts."""
    file = save(W)
    array = Array(np.frombuffer(file, np.uint8).view(dtype))
    assert array.numpy().tobytes() == file
    lying = replace(array, dtype="uint8", shape=(len(file),))
    for each in (array, lying):
        assert_refused(holding(each), "must be bytes, not ")


def test_the_weights_themselves_as_the_array_are_refused() -> None:
    array = Array(np.zeros(2, np.float32))
    assert_refused(holding(array), "must be bytes, not float32")


class Trap:
    """Does what it must not when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _spring, ()


def _spring() -> None:
    Trap.sprung = True


def stored_pickle() -> bytes:
    """An .npy file of objects, which NumPy reads by unpickling where it is allowed to."""
    head = Array(np.zeros(1, np.uint8)).data[:-1]
    return head.replace(b"'|u1'", b"'|O' ") + pickle.dumps([Trap()])


@pytest.mark.parametrize(
    "array",
    [
        replace(Array(np.zeros(1, np.uint8)), data=stored_pickle()),
        replace(Array(np.zeros(1, np.uint8)), data=pickle.dumps(Trap())),
        array_of(pickle.dumps(Trap())),
    ],
)
def test_a_pickle_is_refused_and_never_loaded(array: Array) -> None:
    assert_refused(holding(array), "cannot be decoded")
    assert count_tensors(holding(array).array_records[NAME]) == 0
    assert not Trap.sprung
    pickle.loads(pickle.dumps(Trap()))  # the trap itself works
    assert Trap.sprung
    Trap.sprung = False


@pytest.mark.parametrize(
    ("change", "stype"),
    [
        (b"rubbish", "numpy.ndarray"),
        (b"", "numpy.ndarray"),
        (b"\x93NUMPY\x01\x00", "numpy.ndarray"),
        (b"PK\x03\x04" + bytes(200), "numpy.ndarray"),
        (array_of(save(W)).data[:-1], "numpy.ndarray"),
        (array_of(save(W)).data, "pickle"),
    ],
)
def test_an_array_that_is_rubbish_is_refused(change: bytes, stype: str) -> None:
    rubbish = Array(dtype="uint8", shape=(len(change),), stype=stype, data=change)
    assert_refused(holding(rubbish), "cannot be decoded$")


def test_an_array_that_says_it_is_vast_is_refused() -> None:
    honest = array_of(save(W))
    more = b"0" * 15
    said = honest.data.replace(b"(72,), }" + b" " * 15, b"(72" + more + b",), }")
    assert (len(said), said == honest.data) == (len(honest.data), False)
    vast = replace(honest, data=said)
    assert_refused(holding(vast), "cannot be decoded$")


# ---- other files --------------------------------------------------------------------------------


def test_a_file_by_hand_is_read() -> None:
    """Else the next test would refuse what is right in all but its form."""
    found = read_weights(holding(array_of(file_of({"w": LINE}))), NAME, W)
    assert found is not None
    assert torch.equal(found["w"], W["w"])


SECOND = LINE | {"data_offsets": [8, 16]}


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"rubbish",
        bytes(8),
        file_of(b"rubbish"),
        file_of(b"[]", b""),
        file_of(b"[" * 400, b""),
        # Its own size.
        file_of({"w": LINE}, size=2**63),
        file_of({"w": LINE}, size=10**6),
        file_of({"w": LINE}, size=0),
        file_of({"w": LINE}, size=len(json.dumps({"w": LINE})) + 1),
        file_of({"w": LINE}, size=len(json.dumps({"w": LINE})) - 1),
        # More or fewer values than it tells of.
        file_of({"w": LINE}, DATA + b"x"),
        file_of({"w": LINE}, DATA + DATA),
        file_of({"w": LINE}, DATA[:-1]),
        file_of({"w": LINE}, b""),
        # A lying header.
        file_of({"w": LINE | {"shape": [3]}}),
        file_of({"w": LINE | {"shape": [1]}}),
        file_of({"w": LINE | {"shape": [-2]}}),
        file_of({"w": LINE | {"shape": [2**62, 2**62]}}),
        file_of({"w": LINE | {"dtype": "F64"}}),
        file_of({"w": LINE | {"dtype": "O"}}),
        file_of({"w": LINE | {"data_offsets": [8, 0]}}),
        file_of({"w": SECOND}),
        file_of({"w": LINE | {"data_offsets": [0, 2**60]}}),
        # Room between, before or behind the tensors, and two in one place.
        file_of({"w": SECOND}, DATA + DATA),
        file_of({"v": LINE, "w": LINE | {"data_offsets": [12, 20]}}, bytes(20)),
        file_of({"v": LINE, "w": LINE}),
        # What else a header may not hold.
        file_of({"__metadata__": {"patient": 3}, "w": LINE}),
        file_of({"__metadata__": "Doe^John", "w": LINE}),
        file_of({"w": {"dtype": "F32"}}),
        file_of({"w": "Doe^John"}),
    ],
)
def test_a_file_that_is_rubbish_is_refused(file: bytes) -> None:
    content = holding(array_of(file))
    assert_refused(content, "cannot be decoded")
    with pytest.raises(MessageError, match="segmenter: cannot be decoded"):
        raw_weights(content, NAME)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"w": LINE, "v": SECOND}, "tensor names differ: 0 missing; 1 that"),
        ({"W": LINE}, "tensor names differ: 1 missing, first 'w'; 1 that"),
        ({"w": LINE | {"shape": [2, 1]}}, r"w is torch.float32 \(2, 1\)"),
        ({"w": LINE | {"shape": []} | {"data_offsets": [0, 4]}}, r"w is torch.float32 \(\)"),
        ({"w": LINE | {"shape": [2**62, 0], "data_offsets": [0, 0]}}, r"w is torch.float32 \(4"),
        ({"w": LINE | {"dtype": "I32"}}, r"w is torch.int32 \(2,\)"),
    ],
)
def test_a_file_of_another_network_is_refused(header: dict[str, Any], message: str) -> None:
    values = max(line["data_offsets"][1] for line in header.values())
    assert_refused(holding(array_of(file_of(header, bytes(values)))), message)


# ---- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("like", "most"),
    [
        ({"w": torch.zeros(2)}, 2 * 4 + 512 + 1024),
        (WEIGHTS, (6 + 2) * 4 + 2 * 512 + 1024),
        # Counters are no tensors of the file.
        ({"w": torch.zeros(2), "n": torch.tensor(3)}, 2 * 4 + 512 + 1024),
    ],
)
@pytest.mark.parametrize(("surplus", "passes"), [(0, True), (1, False), (10**6, False)])
def test_a_file_has_no_more_bytes_than_it_can_have(
    monkeypatch: pytest.MonkeyPatch, like: dict[str, Tensor], most: int, surplus: int, passes: bool
) -> None:
    """Four bytes a value, 512 a tensor, 1024 besides; what is larger is not even decoded."""
    honest = pack_weights(wire_weights(like))["safetensors"]
    padding = most - len(honest.data) + surplus
    large = replace(honest, data=honest.data + bytes(padding))
    decoded: list[int] = []
    numpy = Array.numpy

    def watched(array: Array) -> Any:
        decoded.append(len(array.data))
        return numpy(array)

    monkeypatch.setattr(Array, "numpy", watched)
    if passes:
        assert read_weights(holding(large), NAME, like) is not None
        assert decoded == [most]
    else:
        message = f"is of {most + surplus} bytes, can be of {most} at most"
        assert_refused(holding(large), message, like)
        assert decoded == []


def test_a_network_of_long_names_is_within_the_bound() -> None:
    """Thousands of small tensors: the worst case of header against values."""
    name = "segmenter.encoder.stages.3.blocks.11.attention.relative_position_bias_table"
    weights = {f"{name}.{number}": torch.zeros(1, 1, 1, 1, 1) for number in range(2000)}
    assert read_weights(sent(weights), NAME, weights) is not None


# ---- raw weights and counts ---------------------------------------------------------------------


def test_raw_weights_are_those_that_were_sent() -> None:
    raw = raw_weights(sent(WEIGHTS), NAME)
    assert raw is not None
    assert set(raw) == set(WEIGHTS)
    assert all(torch.equal(raw[name], WEIGHTS[name]) for name in raw)
    assert raw_weights(sent(WEIGHTS), "confidence") is None


@pytest.mark.parametrize(
    ("weights", "count"), [({}, 0), (W, 1), (WEIGHTS, 2), ({f"t{n}": W["w"] for n in range(9)}, 9)]
)
def test_tensors_are_counted_by_the_header(weights: dict[str, Tensor], count: int) -> None:
    assert count_tensors(pack_weights({k: w.clone() for k, w in weights.items()})) == count


def test_counting_decodes_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    record = pack_weights(WEIGHTS)
    monkeypatch.setattr(protocol.wire.weights, "load", None)
    assert count_tensors(record) == 2


def test_metadata_are_no_tensor() -> None:
    record = holding(array_of(save(WEIGHTS, {"patient": "Doe^John"}))).array_records[NAME]
    assert count_tensors(record) == 2


@pytest.mark.parametrize(
    "record",
    [
        ArrayRecord(array_dict={}),
        ArrayRecord(array_dict=renamed("w")),
        ArrayRecord(array_dict=renamed("safetensors") | renamed("more")),
        *(
            ArrayRecord(array_dict={"safetensors": array})
            for array in (
                array_of(b""),
                array_of(b"rubbish"),
                array_of(file_of(b"[]", b"")),
                array_of(file_of(b"7", b"")),
                array_of(file_of(b"[" * 100_000, b"")),
                array_of(file_of(b'{"w": ', b"")),
                array_of(file_of(b"\xff\xfe\xff", b"")),
                array_of(file_of({}, size=2**64 - 1)),
                Array(dtype="uint8", shape=(7,), stype="numpy.ndarray", data=b"rubbish"),
            )
        ),
    ],
)
def test_what_cannot_be_counted_counts_nothing(record: ArrayRecord) -> None:
    assert count_tensors(record) == 0


# ---- what errors quote --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({NAME: ArrayRecord(array_dict=renamed("x" * 10**6))}),
        holding(array_of(save({"a" * 1000: torch.zeros(2)}))),
        holding(array_of(file_of({"w": LINE | {"dtype": "x" * 1000}}))),
    ],
)
def test_what_a_site_wrote_is_quoted_in_part(content: RecordDict) -> None:
    """The text goes into the centre's log and failures, once for each bad reply."""
    with pytest.raises(MessageError) as caught:
        read_weights(content, NAME, W)
    assert len(str(caught.value)) < 400
