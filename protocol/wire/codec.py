"""One tensor as bytes: float32, bfloat16, or int8 with a scale for each output channel.

The bytes are the values and nothing else, and each value can be written in one way alone.
"""

from math import prod

import torch
from torch import Tensor

from protocol.config.study import WireConfig
from protocol.wire.weights import MessageError

_LARGEST = 127
# Below it, a float32 has not all of its digits, and a scale of few digits would be a wrong one.
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def quantise(value: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8: value ~ scale * q, with one scale for each index of the first axis.

    Args:
        value: float32, of two or more axes; the first is a convolution's output channel.

    Returns:
        Scales, float32 (C,), the channel's largest magnitude / 127; q, int8, shaped as `value`, in
        [-127, 127].  A channel of zeros has scale 0.  Half a step is rounded to the even one.
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


def stored_size(shape: tuple[int, ...], wire: WireConfig) -> int:
    """What a tensor of this shape takes, bytes."""
    if not _narrow(shape, wire):
        return 4 * prod(shape)
    return 2 * prod(shape) if wire.format == "bf16" else 4 * shape[0] + prod(shape)


def encoded(value: Tensor, wire: WireConfig) -> bytes:
    """A float32 tensor's bytes; bfloat16 is rounded to the nearest, half to the even one."""
    if not _narrow(tuple(value.shape), wire):
        return value.numpy().tobytes()
    if wire.format == "bf16":
        return value.bfloat16().view(torch.int16).numpy().tobytes()
    scales, q = quantise(value)
    return scales.numpy().tobytes() + q.numpy().tobytes()


def decoded(data: memoryview, shape: tuple[int, ...], wire: WireConfig) -> Tensor:
    """The float32 tensor back.

    Raises:
        MessageError: Where `encoded` could not have made these bytes.
    """
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
        raise MessageError("has a channel that is neither full (127) nor all zero at scale 0")
