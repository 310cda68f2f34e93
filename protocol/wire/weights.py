"""Networks' weights on the wire: one safetensors file in one array for each network.

Flower moves every array of a record as objects of its own, each a request and a commit at the
SuperLink: one array for a network is 70 times fewer of them than one for each tensor.
"""

import io
import json
from collections.abc import Mapping, Set

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

_FILE = "safetensors"
# A tensor's line in the header of a safetensors file, and what NumPy writes before the bytes.
_LINE_BYTES, HEAD_BYTES = 512, 1024

Weights = dict[str, Tensor]
Bytes = NDArray[np.uint8]


class MessageError(ValueError):
    """A message that is not of the agreed form."""


def names_differ(received: Set[str], expected: Set[str]) -> str:
    """How they differ.  What the other side made up is counted, not quoted: it could be anything,
    such as a patient's name, and this text goes into logs.
    """
    missing = sorted(expected - received)
    first = f", first {missing[0]!r}" if missing else ""
    return f"{len(missing)} missing{first}; {len(received - expected)} that are not agreed"


def wire_weights(state: Mapping[str, Tensor]) -> Weights:
    """The floating tensors of a state dict; counters such as num_batches_tracked stay home."""
    return {
        name: tensor.detach().cpu().float().contiguous()
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }


def bytes_of(weights: Mapping[str, Tensor] | None) -> int:
    """Payload of these weights, bytes."""
    return sum(w.numel() * w.element_size() for w in weights.values()) if weights else 0


def most_bytes(weights: Mapping[str, Tensor] | None) -> int:
    """What these weights take at most as they travel, in whatever format, bytes.

    A number of a channel of its own takes five bytes in int8: itself and its scale.
    """
    if not weights:
        return 0
    return sum(5 * w.numel() for w in weights.values()) + _LINE_BYTES * len(weights) + HEAD_BYTES


def bytes_sent(content: RecordDict) -> int:
    """What the weights of a message take on the wire, bytes: their arrays, heads and all."""
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return sum(len(array.data) for record in records for array in record.values())


def pack_weights(weights: Weights) -> ArrayRecord:
    """One record with one array of bytes."""
    return ArrayRecord(array_dict={_FILE: array_of(save(weights))})


def array_of(data: bytes) -> Array:
    """As Flower makes an array of bytes, with one copy of them instead of two."""
    head = io.BytesIO()
    form = {"descr": "|u1", "fortran_order": False, "shape": (len(data),)}
    np.lib.format.write_array_header_1_0(head, form)
    stored = b"".join([head.getvalue(), data])
    return Array(dtype="uint8", shape=(len(data),), stype="numpy.ndarray", data=stored)


def raw_weights(content: RecordDict, name: str) -> Weights | None:
    """The weights of that name as they were sent; None where they were not.

    Raises:
        MessageError: If they cannot be decoded.
    """
    stored = stored_bytes(content, name, _FILE)
    return None if stored is None else _decoded(stored.tobytes(), name)


def read_weights(
    content: RecordDict, name: str, like: Mapping[str, Tensor], *, consume: bool = False
) -> Weights | None:
    """The weights of that name, with exactly the names, shapes and dtype of `like`, all finite.

    Args:
        content: The message's.
        name: Of the network.
        like: A state of the network.
        consume: Take the array out of the message, so that it is not in memory beside the result.

    Returns:
        None where they were not sent.

    Raises:
        MessageError: On the first difference.
    """
    expected = {name: tensor for name, tensor in like.items() if tensor.is_floating_point()}
    most = sum(4 * w.numel() for w in expected.values()) + _LINE_BYTES * len(expected) + HEAD_BYTES
    stored = stored_bytes(content, name, _FILE, most, consume=consume)
    if stored is None:
        return None
    file = stored.tobytes()
    # A copy of a network each: none is kept longer than it is of use.
    del stored
    weights = _decoded(file, name)
    del file
    if set(weights) != set(expected):
        raise MessageError(
            f"{name}: tensor names differ: {names_differ(set(weights), set(expected))}"
        )
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape or tensor.dtype != torch.float32:
            raise MessageError(
                f"{name}: {key} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"must be torch.float32 {tuple(expected[key].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise MessageError(f"{name}: {key} holds NaN or infinity")
    return {key: weights[key] for key in expected}


def count_tensors(record: ArrayRecord) -> int:
    """Tensors in a record of weights, by its header; 0 where it has none or cannot be read."""
    try:
        file = _only_array(record, "", _FILE).numpy()
        header = json.loads(file[8 : 8 + int.from_bytes(file[:8].tobytes(), "little")].tobytes())
        return len(header.keys() - {"__metadata__"})
    except Exception:
        # The other side's bytes; NumPy and JSON may refuse them in any way.
        return 0


def stored_bytes(
    content: RecordDict, name: str, key: str, most: int | None = None, *, consume: bool = False
) -> Bytes | None:
    """The bytes of the one array that a network's record holds; None where there is no record.

    Args:
        content: The message's.
        name: Of the network.
        key: The array's name.
        most: More bytes than it can have are not even looked at.
        consume: Take the array out of the message.

    Raises:
        MessageError: If the record holds anything else.
    """
    record = content.get(name)
    if record is None:
        return None
    array = _only_array(record, name, key)
    if most is not None and len(array.data) > most:
        raise MessageError(f"{name}: is of {len(array.data)} bytes, can be of {most} at most")
    try:
        stored: Bytes = array.numpy()
    except Exception as error:
        # The other side's bytes; NumPy may refuse them in any way.
        raise MessageError(f"{name}: cannot be decoded") from error
    if stored.dtype != np.uint8:
        raise MessageError(f"{name}: must be bytes, not {stored.dtype}")
    if consume:
        del content[name][key]
    return stored.reshape(-1)


def _only_array(record: object, what: str, key: str) -> Array:
    if not isinstance(record, ArrayRecord):
        raise MessageError(f"{what}: must be an ArrayRecord, not {type(record).__name__}")
    if set(record) != {key}:
        raise MessageError(f"{what}: must hold one array {key!r} alone, holds {len(record)}")
    return record[key]


def _decoded(file: bytes, what: str) -> Weights:
    try:
        return load(file)
    except Exception as error:
        # The other side's bytes; safetensors may refuse them in any way.
        raise MessageError(f"{what}: cannot be decoded") from error
