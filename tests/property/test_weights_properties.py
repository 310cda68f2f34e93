"""Whatever bytes arrive for weights: the agreed network comes out, or one kind of error."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from protocol.wire.weights import (
    MessageError,
    count_tensors,
    pack_weights,
    raw_weights,
    read_weights,
)

LIKE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, -0.5])}
FILE = save(LIKE)
STORED = pack_weights(LIKE)["safetensors"].data
quick = settings(max_examples=200)

names = st.text(max_size=20).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4)


@st.composite
def damaged(draw: st.DrawFn, honest: bytes) -> bytes:
    """The honest bytes with a piece of them replaced, taken out or added to."""
    start = draw(st.integers(0, len(honest)))
    end = draw(st.integers(start, min(len(honest), start + 8)))
    return honest[:start] + draw(st.binary(max_size=8)) + honest[end:]


def weights_or_error(array: Array) -> dict[str, Tensor] | None:
    record = ArrayRecord(array_dict={"safetensors": array})
    content = RecordDict({"segmenter": record})
    assert count_tensors(record) >= 0
    try:
        raw_weights(content, "segmenter")
    except MessageError:
        with pytest.raises(MessageError):
            read_weights(content, "segmenter", LIKE)
        return None
    try:
        found = read_weights(content, "segmenter", LIKE)
    except MessageError:
        return None
    assert found is not None
    assert {name: (w.shape, w.dtype) for name, w in found.items()} == {
        name: (w.shape, torch.float32) for name, w in LIKE.items()
    }
    assert all(torch.isfinite(w).all() for w in found.values())
    # Made anew, nothing is left of how it came but the values.
    assert len(pack_weights(found)["safetensors"].data) == len(STORED)
    return found


@quick
@given(st.one_of(st.binary(max_size=300), damaged(FILE)))
def test_any_file_is_the_network_or_an_error(file: bytes) -> None:
    found = weights_or_error(Array(np.frombuffer(file, np.uint8)))
    if len(file) != len(FILE):
        # The header says where every value is: nothing may be missing or left over ...
        size = int.from_bytes(file[:8], "little") if len(file) > 8 else 0
        # ... unless the header itself has grown or shrunk by as much.
        assert found is None or len(file) == 8 + size + 32


@quick
@given(st.one_of(st.binary(max_size=300), damaged(STORED)))
def test_any_array_is_the_network_or_an_error(data: bytes) -> None:
    weights_or_error(Array(dtype="uint8", shape=(1,), stype="numpy.ndarray", data=data))


@quick
@given(st.dictionaries(names, shapes, max_size=4), st.integers(0, 2**32 - 1))
def test_any_network_comes_back(form: dict[str, list[int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in form.items()}
    record = pack_weights(weights)
    found = read_weights(RecordDict({"d": record}), "d", weights)
    assert found is not None
    assert list(found) == list(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert count_tensors(record) == len(weights)
