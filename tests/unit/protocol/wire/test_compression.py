"""Weights without a header: every byte by hand, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from flwr.app import Array, ArrayRecord, RecordDict

from protocol.config.study import StudyProtocol, WireConfig
from protocol.wire.codec import quantise
from protocol.wire.compression import (
    as_sent,
    body_bytes,
    pack_global,
    pack_update,
    read_global,
    read_shapes,
    read_update,
    reencode,
    shapes_of,
    shapes_text,
)
from protocol.wire.weights import MessageError, Weights, bytes_sent, pack_weights

NAME = "segmenter"
WEIGHTS = {
    "b.weight": torch.tensor([[1.0, -0.5], [0.0, 0.0], [-254.0, 3.0]]),
    "a.bias": torch.tensor([0.1, -0.2]),
}
SHAPES = shapes_of(WEIGHTS)
ALL = [WireConfig(format=f, compress=c) for f in ("fp32", "bf16", "int8") for c in (0, 3)]
SHORT = [wire for wire in ALL if not wire.plain]
ROUNDED = [wire for wire in ALL if wire.format != "fp32"]


def wire_of(form: str, compress: int = 0) -> WireConfig:
    return WireConfig.model_validate({"format": form, "compress": compress})


def name_of(wire: WireConfig) -> Any:
    return f"{wire.format}-{wire.compress}"


def holding(record: ArrayRecord) -> RecordDict:
    return RecordDict({NAME: record})


def body_of(record: ArrayRecord) -> bytes:
    ((_, array),) = record.items()
    return array.numpy().tobytes()


def with_body(body: bytes, key: str) -> RecordDict:
    return holding(ArrayRecord(array_dict={key: Array(np.frombuffer(body, np.uint8))}))


def zeros() -> Weights:
    return {name: torch.zeros_like(w) for name, w in WEIGHTS.items()}


# ---- the bytes by hand --------------------------------------------------------------------------


def test_fp32_is_as_it_was() -> None:
    wire = wire_of("fp32")
    assert StudyProtocol().wire == wire
    assert pack_global(WEIGHTS, wire) == pack_weights(WEIGHTS)
    record, left = pack_update(WEIGHTS, zeros(), wire)
    assert (record, left) == (pack_weights(WEIGHTS), {})


def test_int8_by_hand() -> None:
    scales, q = quantise(WEIGHTS["b.weight"])
    assert scales.tolist() == pytest.approx([1 / 127, 0, 2])
    assert q.tolist() == [[127, -64], [0, 0], [-127, 2]]  # -63.5 and 1.5 go to the even one
    body = body_of(pack_global(WEIGHTS, wire_of("int8")))
    bias = np.array([0.1, -0.2], np.float32).tobytes()
    by_hand = np.array([1 / 127, 0, 2], np.float32).tobytes() + bytes([127, 192, 0, 0, 129, 2])
    assert body == bias + by_hand


def test_bf16_by_hand() -> None:
    # 1 = 0x3F80, -0.5 = 0xBF00, -254 = 0xC37E, 3 = 0x4040, little-endian.
    body = body_of(pack_global(WEIGHTS, wire_of("bf16")))
    bias = np.array([0.1, -0.2], np.float32).tobytes()
    assert body == bias + bytes.fromhex("803f 00bf 0000 0000 7ec3 4040")


def test_bf16_rounds_to_the_nearest() -> None:
    third = {"w": torch.tensor([[1 / 3]])}
    assert as_sent(third, wire_of("bf16"))["w"].item() == 0.333984375  # 0x3EAB


def test_fp32_compressed_is_the_values_alone() -> None:
    body = zstandard.decompress(body_of(pack_global(WEIGHTS, wire_of("fp32", 3))))
    assert body == b"".join(WEIGHTS[name].numpy().tobytes() for name in ("a.bias", "b.weight"))


@pytest.mark.parametrize(("form", "size"), [("fp32", 32), ("bf16", 20), ("int8", 26)])
def test_sizes_by_hand(form: str, size: int) -> None:
    assert body_bytes(SHAPES, wire_of(form)) == size
    record = pack_global(WEIGHTS, wire_of(form))
    if form != "fp32":
        assert bytes_sent(holding(record)) == size + 128  # NumPy's head


@pytest.mark.parametrize("wire", ALL, ids=name_of)
def test_odd_shapes_come_back(wire: WireConfig) -> None:
    shapes = ((), (0,), (3,), (0, 4), (3, 0), (1, 1), (2, 3, 1, 2))
    weights = {f"t{i}": torch.full(shape, 0.5) for i, shape in enumerate(shapes)}
    found = read_global(holding(pack_global(weights, wire)), NAME, weights, wire)
    assert found is not None
    assert list(found) == list(weights)
    assert all(torch.equal(found[name], w) for name, w in weights.items())


@pytest.mark.parametrize("wire", ALL, ids=name_of)
def test_a_site_has_what_the_centre_believes(wire: WireConfig) -> None:
    found = read_global(holding(pack_global(WEIGHTS, wire)), NAME, WEIGHTS, wire)
    expected = as_sent(WEIGHTS, wire)
    assert found is not None
    assert list(found) == list(WEIGHTS)
    assert all(torch.equal(found[name], expected[name]) for name in WEIGHTS)


@pytest.mark.parametrize("wire", ALL, ids=name_of)
def test_what_was_not_sent_is_none(wire: WireConfig) -> None:
    assert read_global(RecordDict(), NAME, WEIGHTS, wire) is None
    assert read_update(RecordDict(), NAME, WEIGHTS, wire) is None


def test_an_update_moves_the_centres_own_weights() -> None:
    """Not those that the sites have, which are rounded."""
    wire = wire_of("int8")
    current = {"w": torch.tensor([[0.3, 1.0]])}
    sent = as_sent(current, wire)
    assert not torch.equal(sent["w"], current["w"])
    record, _ = pack_update({"w": sent["w"] + torch.tensor([[0.0, 2.54]])}, sent, wire)
    found = read_update(holding(record), NAME, current, wire)
    assert found is not None
    torch.testing.assert_close(found["w"], torch.tensor([[0.3, 3.54]]), rtol=1e-6, atol=0)


def test_reading_can_take_the_array_out_of_the_message() -> None:
    for wire in ALL:
        content = holding(pack_update(WEIGHTS, zeros(), wire)[0])
        read_update(content, NAME, zeros(), wire)
        assert len(content[NAME]) == 1
        read_update(content, NAME, zeros(), wire, consume=True)
        assert len(content[NAME]) == 0


# ---- error feedback -----------------------------------------------------------------------------


def test_what_is_left_by_hand() -> None:
    """Largest 1.27: the step is 0.01."""
    trained = {"w": torch.tensor([[1.27, 0.014]])}
    nothing = {"w": torch.zeros(1, 2)}
    _, left = pack_update(trained, nothing, wire_of("int8"))
    torch.testing.assert_close(left["w"], torch.tensor([[0.0, 0.004]]), atol=1e-7, rtol=0)
    record, left = pack_update(trained, nothing, wire_of("int8"), left)
    found = read_update(holding(record), NAME, nothing, wire_of("int8"))
    assert found is not None
    # 0.014 + 0.004 is sent as 0.02, and 0.002 too much of it is taken back the next time.
    torch.testing.assert_close(found["w"], torch.tensor([[1.27, 0.02]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(left["w"], torch.tensor([[0.0, -0.002]]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("wire", ROUNDED, ids=name_of)
def test_over_the_rounds_what_arrives_is_what_was_meant(wire: WireConfig) -> None:
    generator = torch.Generator().manual_seed(3)
    nothing = {"w": torch.zeros(4, 30)}
    meant, arrived = torch.zeros(4, 30).double(), torch.zeros(4, 30).double()
    residual: Weights = {}
    for _ in range(40):
        step = (
            torch.randn(4, 30, generator=generator) * torch.tensor([1e-4, 1e-2, 1.0, 30.0])[:, None]
        )
        record, residual = pack_update({"w": step}, nothing, wire, residual)
        found = read_update(holding(record), NAME, nothing, wire)
        assert found is not None
        meant += step.double()
        arrived += found["w"].double()
    largest = 5 * torch.tensor([1e-4, 1e-2, 1.0, 30.0]).double()[:, None]
    bound = largest / 127 / 2 if wire.format == "int8" else largest / 2**8
    assert ((meant - arrived).abs() <= 1.2 * bound).all()
    torch.testing.assert_close(meant - arrived, residual["w"].double(), atol=1e-4, rtol=1e-3)


# ---- the door -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", SHORT, ids=name_of)
def test_a_good_update_is_reencoded_equal(wire: WireConfig) -> None:
    record, _ = pack_update(WEIGHTS, zeros(), wire)
    again = reencode(holding(record), NAME, SHAPES, wire)
    assert again == record
    assert again is not record
    assert reencode(RecordDict(), NAME, SHAPES, wire) is None


def int8(change: Callable[[bytearray], object]) -> bytes:
    """The body: bias 0 to 8, scales 8 to 20, values 20 to 26."""
    body = bytearray(body_of(pack_global(WEIGHTS, wire_of("int8"))))
    change(body)
    return bytes(body)


def scale(value: float) -> Callable[[bytearray], object]:
    return lambda body: body.__setitem__(slice(8, 12), np.float32(value).tobytes())


def at(place: int, value: int) -> Callable[[bytearray], object]:
    return lambda body: body.__setitem__(place, value)


BAD_INT8: dict[str, tuple[bytes, str]] = {
    "a byte more": (int8(lambda b: b.append(0)), "is of 27 bytes, must be of 26"),
    "a byte less": (int8(lambda b: b.pop()), "is of 25 bytes, must be of 26"),
    "nothing": (b"", "is of 0 bytes, must be of 26"),
    "NaN bias": (
        int8(lambda b: b.__setitem__(slice(0, 4), np.float32(np.nan).tobytes())),
        "a.bias holds NaN or infinity",
    ),
    "NaN scale": (int8(scale(np.nan)), "b.weight has a scale that is NaN or infinity"),
    "infinite scale": (int8(scale(np.inf)), "b.weight has a scale that is NaN or infinity"),
    "negative scale": (int8(scale(-1.0)), "neither 0 nor a positive normal number"),
    "negative zero": (int8(scale(-0.0)), "neither 0 nor a positive normal number"),
    "tiny scale": (int8(scale(1e-40)), "neither 0 nor a positive normal number"),
    "vast scale": (int8(scale(3e38)), "b.weight holds NaN or infinity"),
    "-128": (int8(at(21, 0x80)), "b.weight holds -128"),
    "channel not full": (int8(at(20, 126)), "neither full"),
    "values at scale 0": (int8(at(22, 1)), "neither full"),
    "zero at a scale": (int8(lambda b: b.__setitem__(slice(20, 22), b"\0\0")), "neither full"),
}


@pytest.mark.parametrize("kind", BAD_INT8)
@pytest.mark.parametrize("compress", [0, 3])
def test_a_malformed_int8_update_is_refused_at_both_doors(kind: str, compress: int) -> None:
    body, reason = BAD_INT8[kind]
    if compress:
        reason = reason.replace("is of", "decompresses to").replace("must be of", "must to")
        body = zstandard.ZstdCompressor(level=3).compress(body)
    wire = wire_of("int8", compress)
    content = with_body(body, "int8.zst" if compress else "int8")
    with pytest.raises(MessageError, match=reason):
        reencode(content, NAME, SHAPES, wire)
    with pytest.raises(MessageError, match=reason):
        read_update(content, NAME, WEIGHTS, wire)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["bf16", "fp32"])
def test_values_that_are_not_finite_are_refused(form: str, value: float) -> None:
    weights = {**WEIGHTS, "b.weight": torch.full((3, 2), value)}
    wire = wire_of(form, 3)
    content = holding(pack_global(weights, wire))
    for read in (
        lambda: reencode(content, NAME, SHAPES, wire),
        lambda: read_update(content, NAME, WEIGHTS, wire),
    ):
        with pytest.raises(MessageError, match=r"segmenter: b.weight holds NaN or infinity"):
            read()


def test_a_move_beyond_all_numbers_is_refused() -> None:
    far = {"w": torch.full((1, 2), 3e38)}
    record, _ = pack_update(far, {"w": torch.zeros(1, 2)}, wire_of("int8"))
    with pytest.raises(MessageError, match="w holds NaN or infinity"):
        read_update(holding(record), NAME, far, wire_of("int8"))


HONEST = body_of(pack_global(WEIGHTS, wire_of("int8")))
FRAME = zstandard.ZstdCompressor(level=3).compress(HONEST)
SKIPPED = b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + b"Doe^John"


def unsized(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_content_size=False).compress(body)


@pytest.mark.parametrize(
    "stream",
    [
        FRAME + b"Doe^John",
        FRAME + b"\0",
        FRAME + FRAME,
        FRAME + SKIPPED,
        SKIPPED + FRAME,
        FRAME[:-1],
        b"",
        b"rubbish",
        HONEST,
        unsized(HONEST),
        zstandard.compress(bytes(2**30)),  # a bomb: 1 GiB in 32 KiB, larger than it can be
        zstandard.compress(bytes(10**6)),  # a small one
        zstandard.compress(b""),
        # A frame that tells of 26 bytes and holds more.
        FRAME[:4] + zstandard.compress(bytes(282))[4:],
    ],
)
def test_no_other_stream_is_decompressed(stream: bytes) -> None:
    content = with_body(stream, "int8.zst")
    for read in (
        lambda: reencode(content, NAME, SHAPES, wire_of("int8", 3)),
        lambda: read_update(content, NAME, WEIGHTS, wire_of("int8", 3)),
    ):
        with pytest.raises(MessageError, match=r"segmenter: (decompresses|cannot be dec|is of)"):
            read()


def test_a_bomb_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.wire.compression.zstandard.ZstdDecompressor", None)
    content = with_body(zstandard.compress(bytes(10**6)), "int8.zst")
    with pytest.raises(MessageError, match="decompresses to 1000000 bytes, must to 26"):
        read_update(content, NAME, WEIGHTS, wire_of("int8", 3))


def test_nothing_rides_in_how_a_stream_is_compressed() -> None:
    honest, _ = pack_update(WEIGHTS, zeros(), wire_of("int8", 3))
    for level in (1, 19):
        other = zstandard.ZstdCompressor(level=level, write_checksum=True).compress(HONEST)
        again = reencode(with_body(other, "int8.zst"), NAME, SHAPES, wire_of("int8", 3))
        assert again == honest


@pytest.mark.parametrize("wire", ALL, ids=name_of)
@pytest.mark.parametrize("other", ALL, ids=name_of)
def test_another_format_than_agreed_is_refused(wire: WireConfig, other: WireConfig) -> None:
    content = holding(pack_global(WEIGHTS, other))
    if wire == other:
        assert read_update(content, NAME, WEIGHTS, wire) is not None
        return
    with pytest.raises(MessageError, match="segmenter: must hold one array"):
        read_update(content, NAME, WEIGHTS, wire)


def test_weights_of_another_shape_are_refused() -> None:
    content = holding(pack_global(WEIGHTS, wire_of("int8")))
    with pytest.raises(MessageError, match="is of 26 bytes, must be of"):
        read_update(content, NAME, {"a": torch.zeros(3, 3)}, wire_of("int8"))


# ---- shapes -------------------------------------------------------------------------------------


def test_shapes_come_back() -> None:
    text = shapes_text({"segmenter": WEIGHTS, "confidence": {"d": torch.zeros(2, 0)}})
    assert read_shapes(text) == {"segmenter": SHAPES, "confidence": {"d": (2, 0)}}


def test_counters_have_no_shape() -> None:
    assert shapes_of({"b": torch.zeros(2), "a": torch.zeros(1), "n": torch.tensor(3)}) == {
        "a": (1,),
        "b": (2,),
    }


@pytest.mark.parametrize(
    "text", ["", "rubbish", "[]", '{"s": 1}', '{"s": {"w": [-1]}}', '{"s": {"w": ["Doe"]}}']
)
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(MessageError, match="'weights' does not give the tensors' shapes"):
        read_shapes(text)


@pytest.mark.parametrize("change", [{"format": "fp16"}, {"compress": 20}, {"compress": -1}])
def test_other_formats_are_no_protocol(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wire"):
        StudyProtocol.model_validate({"wire": change})
