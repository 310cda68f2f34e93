"""Whatever the weights and whatever the bytes: round trips, bounds, one kind of error."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.config.study import WireConfig
from protocol.wire.codec import quantise
from protocol.wire.compression import (
    as_sent,
    body_bytes,
    pack_global,
    pack_update,
    read_global,
    read_update,
    reencode,
    shapes_of,
)
from protocol.wire.weights import MessageError, Weights

quick = settings(max_examples=150)
names = st.text(max_size=20)
shapes = st.lists(st.integers(0, 4), max_size=4)
forms = st.sampled_from(["fp32", "bf16", "int8"])
wires = st.builds(WireConfig, format=forms, compress=st.sampled_from([0, 1, 3]))
LIKE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, -0.5])}


@st.composite
def networks(draw: st.DrawFn) -> Weights:
    """Any names and shapes, values over many magnitudes."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    form = draw(st.dictionaries(names, shapes, max_size=4))
    size = draw(st.floats(-30, 30))
    return {
        name: torch.randn(shape, generator=generator) * 10.0 ** (size / (1 + i))
        for i, (name, shape) in enumerate(form.items())
    }


@quick
@given(networks(), wires)
def test_both_sides_have_the_same_bits(weights: Weights, wire: WireConfig) -> None:
    found = read_global(RecordDict({"s": pack_global(weights, wire)}), "s", weights, wire)
    expected = as_sent(weights, wire)
    assert found is not None
    assert list(found) == list(weights)
    assert all(torch.equal(found[name], expected[name]) for name in weights)
    if wire.format == "fp32":
        assert all(torch.equal(found[name], weights[name]) for name in weights)


@quick
@given(networks(), wires)
def test_an_update_and_what_is_left_make_the_whole(weights: Weights, wire: WireConfig) -> None:
    nothing = {name: torch.zeros_like(w) for name, w in weights.items()}
    record, left = pack_update(weights, nothing, wire)
    found = read_update(RecordDict({"s": record}), "s", nothing, wire)
    assert found is not None
    for name, w in weights.items():
        rest = left.get(name, torch.zeros_like(w))
        torch.testing.assert_close(found[name] + rest, w, rtol=1e-6, atol=1e-37)
    again, same = pack_update(weights, nothing, wire)
    assert again == record
    assert all(torch.equal(same[name], left[name]) for name in left)
    if not wire.plain:
        assert reencode(RecordDict({"s": record}), "s", shapes_of(weights), wire) == record


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 40), st.floats(-30, 30))
def test_int8_is_within_half_a_step_and_full(seed: int, rows: int, wide: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(rows, wide, generator=generator) * 10.0**size
    scales, q = quantise(value)
    assert int(q.min()) >= -127
    assert q.abs().amax(1).tolist() == [127] * rows
    error = (value - q * scales[:, None]).abs()
    assert (error <= scales[:, None] * 0.500002).all()
    # Multiplying by a power of two changes the scales alone: the bits do not hang on the unit.
    doubled, same = quantise(value * 2)
    assert torch.equal(doubled, scales * 2)
    assert torch.equal(same, q)


@quick
@given(st.sampled_from(["fp32", "bf16", "int8"]), st.sampled_from([0, 3]), st.data())
def test_any_bytes_are_an_update_or_an_error(form: Any, compress: int, data: st.DataObject) -> None:
    wire = WireConfig(format=form, compress=compress)
    if wire.plain:
        return
    size = body_bytes(shapes_of(LIKE), wire)
    honest = pack_global(LIKE, wire)
    ((key, array),) = honest.items()
    body = array.numpy().tobytes()
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 4)))
    body = body[:start] + data.draw(st.binary(max_size=6)) + body[end:]
    body = data.draw(st.one_of(st.just(body), st.binary(min_size=size, max_size=size)))
    content = RecordDict({"s": ArrayRecord(array_dict={key: Array(np.frombuffer(body, np.uint8))})})
    try:
        record = reencode(content, "s", shapes_of(LIKE), wire)
    except MessageError:
        with pytest.raises(MessageError):
            read_update(content, "s", LIKE, wire)
        return
    assert record is not None
    found = read_update(RecordDict({"s": record}), "s", LIKE, wire)
    assert found is not None
    assert all(torch.isfinite(found[name]).all() for name in LIKE)
    if not compress:
        # What leaves is what was looked at, to the byte.
        assert record[key].numpy().tobytes() == body
