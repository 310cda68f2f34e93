"""Weights in fewer bytes, where the study's `wire` says so: bfloat16 or int8, compressed.

Down go the global weights, up the differences from what was sent.  What both sides have agreed on
(names, shapes, formats) is not in these bytes: they are the values alone, tensor by tensor in the
order of the names, so that their number is known beforehand and there is no header to hide in.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod

import torch
import zstandard
from flwr.app import ArrayRecord, RecordDict
from pydantic import NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor

from protocol.study import WireConfig
from protocol.weights import (
    HEAD_BYTES,
    Bytes,
    MessageError,
    Weights,
    array_of,
    pack_weights,
    read_weights,
    stored_bytes,
)

Shapes = dict[str, tuple[int, ...]]
# One network as it travels.
Packed = ArrayRecord

_LARGEST = 127
# Below it, a float32 has not all of its digits, and a scale of few digits would be a wrong one.
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny
_Shapes = TypeAdapter(dict[str, dict[str, tuple[NonNegativeInt, ...]]])


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Of the tensors that travel, in the order in which they do."""
    return {
        name: tuple(state[name].shape) for name in sorted(state) if state[name].is_floating_point()
    }


def shapes_text(networks: Mapping[str, Weights]) -> str:
    """The shapes of what is sent, for whoever has to guard the reply without the networks' code."""
    return json.dumps({name: shapes_of(weights) for name, weights in networks.items()})


def read_shapes(text: str) -> dict[str, Shapes]:
    """The shapes back, by network.

    Raises:
        MessageError: If the text is something else.
    """
    try:
        found = _Shapes.validate_json(text)
    except ValidationError:
        raise MessageError("instruction: 'weights' does not give the tensors' shapes") from None
    return {network: dict(sorted(shapes.items())) for network, shapes in found.items()}


def body_bytes(shapes: Mapping[str, tuple[int, ...]], wire: WireConfig) -> int:
    """What the values take before compression, bytes."""
    return sum(_size(shape, wire) for shape in shapes.values())


# ---- one tensor ---------------------------------------------------------------------------------


def quantise(value: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8: value ~ scale * q, with one scale for each index of the first axis.

    Args:
        value: float32, of two or more axes; the first is a convolution's output channel.

    Returns:
        Scales, float32 (C,), the channel's largest magnitude / 127; q, int8, shaped as `value`, in
        [-127, 127].  A channel of noughts has scale 0.  Half a step is rounded to the even one.
    """
    rows = value.flatten(1)
    largest = rows.abs().amax(1) if rows.numel() else rows.new_zeros(rows.shape[0])
    scales = largest / _LARGEST
    scales[scales < _SMALLEST_SCALE] = 0
    steps = torch.where(scales > 0, scales, torch.ones_like(scales))
    q = (rows / steps[:, None]).round_().clamp_(-_LARGEST, _LARGEST)
    return scales, q.to(torch.int8).reshape(value.shape)


def _narrow(shape: tuple[int, ...], wire: WireConfig) -> bool:
    """Biases and norms, of one axis, are a thousandth of the bytes and stay float32."""
    return wire.format != "fp32" and len(shape) > 1


def _size(shape: tuple[int, ...], wire: WireConfig) -> int:
    if not _narrow(shape, wire):
        return 4 * prod(shape)
    return 2 * prod(shape) if wire.format == "bf16" else 4 * shape[0] + prod(shape)


def _encoded(value: Tensor, wire: WireConfig) -> bytes:
    if not _narrow(tuple(value.shape), wire):
        return value.numpy().tobytes()
    if wire.format == "bf16":
        return value.bfloat16().view(torch.int16).numpy().tobytes()
    scales, q = quantise(value)
    return scales.numpy().tobytes() + q.numpy().tobytes()


def _decoded(data: memoryview, shape: tuple[int, ...], wire: WireConfig) -> Tensor:
    """Raises MessageError where `_encoded` could not have made these bytes."""
    if not _narrow(shape, wire) or wire.format == "bf16":
        kind = torch.bfloat16 if _narrow(shape, wire) else torch.float32
        value = _values(data, kind).float().reshape(shape)
    else:
        scales, q = _values(data[: 4 * shape[0]], torch.float32), _values(data[4 * shape[0] :])
        q = q.reshape(shape[0], prod(shape[1:]))
        _refuse_other_codes(scales, q)
        value = (q.float() * scales[:, None]).reshape(shape)
    if not torch.isfinite(value).all():
        raise MessageError("holds NaN or infinity")
    return value


def _values(data: memoryview, kind: torch.dtype = torch.int8) -> Tensor:
    if not data:
        return torch.zeros(0, dtype=kind)
    # A copy: the bytes of a message cannot be written to, and are let go.
    return torch.frombuffer(bytearray(data), dtype=kind)


def _refuse_other_codes(scales: Tensor, q: Tensor) -> None:
    """One value, one code: a second way to write the same would be a way to say something else."""
    if not torch.isfinite(scales).all():
        raise MessageError("has a scale that is NaN or infinity")
    if (scales.signbit() | ((scales > 0) & (scales < _SMALLEST_SCALE))).any():
        raise MessageError("has a scale that is neither 0 nor a positive normal number")
    if q.numel() and int(q.min()) < -_LARGEST:
        raise MessageError("holds -128, must be in [-127, 127]")
    largest = q.abs().amax(1).int() if q.numel() else torch.zeros(len(scales), dtype=torch.int32)
    if not torch.equal(largest, _LARGEST * (scales > 0).int()):
        raise MessageError("has a channel that is neither full (127) nor all nought at scale 0")


# ---- one network --------------------------------------------------------------------------------


def _key(wire: WireConfig) -> str:
    return f"{wire.format}.zst" if wire.compress else wire.format


def short_names() -> frozenset[str]:
    """What an array without a header can be called."""
    formats = ("fp32", "bf16", "int8")
    return frozenset(
        _key(WireConfig(format=name, compress=level)) for name in formats for level in (0, 1)
    )


def _packed(parts: Iterable[bytes], wire: WireConfig) -> ArrayRecord:
    body = b"".join(parts)
    if wire.compress:
        body = zstandard.ZstdCompressor(level=wire.compress).compress(body)
    return ArrayRecord(array_dict={_key(wire): array_of(body)})


def _body(
    content: RecordDict, name: str, shapes: Shapes, wire: WireConfig, *, consume: bool
) -> memoryview | None:
    """The values' bytes, of exactly the number that they take; None where they were not sent."""
    size = body_bytes(shapes, wire)
    # What zstd adds to what it cannot compress: a 256th, and a little.
    most = size + (size // 256 + 1024 if wire.compress else 0) + HEAD_BYTES
    stored = stored_bytes(content, name, _key(wire), most, consume=consume)
    if stored is None:
        return None
    body = _decompressed(stored, size, name) if wire.compress else stored.data
    if len(body) != size:
        raise MessageError(f"{name}: is of {len(body)} bytes, must be of {size}")
    return body


def _decompressed(data: Bytes, size: int, name: str) -> memoryview:
    """One frame that says its size, which is the agreed one, and nothing behind it.

    The size is looked at before a byte is decompressed: no stream becomes larger than agreed.
    """
    try:
        told = zstandard.frame_content_size(data.data)
        if told != size:
            raise MessageError(f"{name}: decompresses to {told} bytes, must to {size}")
        body = zstandard.ZstdDecompressor().decompress(
            data.data, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError:
        raise MessageError(f"{name}: cannot be decompressed") from None
    return memoryview(body)


def _tensors(
    body: memoryview, shapes: Shapes, wire: WireConfig, name: str
) -> Iterator[tuple[str, Tensor]]:
    start = 0
    for key, shape in shapes.items():
        end = start + _size(shape, wire)
        try:
            yield key, _decoded(body[start:end], shape, wire)
        except MessageError as error:
            raise MessageError(f"{name}: {key} {error}") from None
        start = end


def remade(content: RecordDict, name: str, shapes: Shapes, wire: WireConfig) -> ArrayRecord | None:
    """A site's update, made anew of its values alone: every byte of them has one meaning.

    Raises:
        MessageError: If it is not of the agreed form.
    """
    body = _body(content, name, shapes, wire, consume=False)
    if body is None:
        return None
    for _ in _tensors(body, shapes, wire, name):
        pass  # each is looked at
    return _packed([body.tobytes()], wire)


# ---- down ---------------------------------------------------------------------------------------


def pack_global(weights: Weights, wire: WireConfig) -> ArrayRecord:
    """The global weights for the sites, each time whole: a site may have missed any round.

    What is rounded off is not lost: the centre's own weights keep it, and the next round's
    rounding begins from them.
    """
    if wire.plain:
        return pack_weights(weights)
    return _packed((_encoded(weights[name], wire) for name in sorted(weights)), wire)


def read_global(
    content: RecordDict, name: str, like: Mapping[str, Tensor], wire: WireConfig
) -> Weights | None:
    """The global weights as every site has them, in the order of `like`.

    Raises:
        MessageError: If they are not of the agreed form.
    """
    if wire.plain:
        return read_weights(content, name, like)
    shapes = shapes_of(like)
    body = _body(content, name, shapes, wire, consume=False)
    if body is None:
        return None
    found = dict(_tensors(body, shapes, wire, name))
    return {key: found[key] for key in like if key in found}


def as_sent(weights: Weights, wire: WireConfig) -> Weights:
    """What a site has that was sent these weights."""
    if wire.format == "fp32":
        return weights
    return {
        name: _decoded(memoryview(_encoded(w, wire)), tuple(w.shape), wire)
        for name, w in weights.items()
    }


# ---- up -----------------------------------------------------------------------------------------


def pack_update(
    trained: Weights, sent: Weights, wire: WireConfig, residual: Weights | None = None
) -> tuple[ArrayRecord, Weights]:
    """A site's update, and what its rounding leaves for the next one (error feedback).

    Sent is Q(trained - sent + residual); the rest stays at the site.  fp32 sends the trained
    weights themselves, and nothing is left.

    Args:
        trained: After the round.
        sent: What the site was sent for it, as it read them.
        wire: The study's.
        residual: Of the site's last round; None is nought.

    Returns:
        The record, and the new residual, {} for fp32.

    Source: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019, Algorithm 1.
    """
    if wire.format == "fp32":
        return pack_global(trained, wire), {}
    parts, left = [], {}
    for name in sorted(trained):
        meant = trained[name] - sent[name]
        if residual and name in residual:
            meant += residual[name]
        parts.append(_encoded(meant, wire))
        left[name] = meant - _decoded(memoryview(parts[-1]), tuple(meant.shape), wire)
    return _packed(parts, wire), left


def read_update(
    content: RecordDict,
    name: str,
    current: Weights,
    wire: WireConfig,
    *,
    consume: bool = False,
) -> Weights | None:
    """A site's update as weights: what the centre has, moved by what was sent.

    Args:
        content: The reply's.
        name: Of the network.
        current: The centre's global weights.
        wire: The study's.
        consume: Take the array out of the reply, so that it is not in memory beside the result.

    Raises:
        MessageError: If it is not of the agreed form, or moves a weight beyond all numbers.
    """
    if wire.plain:
        return read_weights(content, name, current, consume=consume)
    shapes = shapes_of(current)
    body = _body(content, name, shapes, wire, consume=consume)
    if body is None:
        return None
    update: Weights = {}
    for key, value in _tensors(body, shapes, wire, name):
        update[key] = value if wire.format == "fp32" else value.add_(current[key])
        if not torch.isfinite(update[key]).all():
            raise MessageError(f"{name}: {key} holds NaN or infinity")
    return {key: update[key] for key in current}
