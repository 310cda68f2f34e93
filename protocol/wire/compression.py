"""Weights in fewer bytes, by the study's `wire`: bfloat16 or int8, compressed.

Down go the global weights, up the differences from what was sent.  What both sides have agreed on
(names, shapes, formats) is not in these bytes: they are the values alone, tensor by tensor in the
order of the names, so that their number is known beforehand and there is no header to hide in.
"""

import json
from collections.abc import Iterable, Iterator, Mapping

import torch
import zstandard
from flwr.app import ArrayRecord, RecordDict
from pydantic import NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor

from protocol.config.study import WireConfig
from protocol.wire.codec import decoded, encoded, stored_size
from protocol.wire.weights import (
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

_Shapes = TypeAdapter(dict[str, dict[str, tuple[NonNegativeInt, ...]]])


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Of the tensors that travel, in the order in which they do."""
    return {
        name: tuple(state[name].shape) for name in sorted(state) if state[name].is_floating_point()
    }


def shapes_text(networks: Mapping[str, Weights]) -> str:
    """The shapes of what is sent, to check the reply without the networks' code."""
    return json.dumps({name: shapes_of(weights) for name, weights in networks.items()})


def read_shapes(text: str) -> dict[str, Shapes]:
    """The shapes back, by network.

    Raises:
        MessageError: If the text is something else.
    """
    try:
        networks = _Shapes.validate_json(text)
    except ValidationError:
        raise MessageError("instruction: 'weights' does not give the tensors' shapes") from None
    return {network: dict(sorted(shapes.items())) for network, shapes in networks.items()}


def body_bytes(shapes: Mapping[str, tuple[int, ...]], wire: WireConfig) -> int:
    """What the values take before compression, bytes."""
    return sum(stored_size(shape, wire) for shape in shapes.values())


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
    """One frame with its size, which is the agreed one, and nothing behind it.

    The size is looked at before a byte is decompressed: no stream becomes larger than agreed.
    """
    try:
        declared = zstandard.frame_content_size(data.data)
        if declared != size:
            raise MessageError(f"{name}: decompresses to {declared} bytes, must to {size}")
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
        end = start + stored_size(shape, wire)
        try:
            yield key, decoded(body[start:end], shape, wire)
        except MessageError as error:
            raise MessageError(f"{name}: {key} {error}") from None
        start = end


def reencode(
    content: RecordDict, name: str, shapes: Shapes, wire: WireConfig
) -> ArrayRecord | None:
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
    return _packed((encoded(weights[name], wire) for name in sorted(weights)), wire)


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
    weights = dict(_tensors(body, shapes, wire, name))
    return {key: weights[key] for key in like if key in weights}


def as_sent(weights: Weights, wire: WireConfig) -> Weights:
    """What a site has that was sent these weights."""
    if wire.format == "fp32":
        return weights
    return {
        name: decoded(memoryview(encoded(w, wire)), tuple(w.shape), wire)
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
        residual: Of the site's last round; None is zero.

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
        parts.append(encoded(meant, wire))
        left[name] = meant - decoded(memoryview(parts[-1]), tuple(meant.shape), wire)
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
