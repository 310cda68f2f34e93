"""Digests of weights: worked out by hand, and different for whatever differs."""

import hashlib

import pytest
import torch

from protocol.agreement.digests import weights_digest
from protocol.wire.messages import SEGMENTER
from protocol.wire.weights import pack_weights, read_weights


def test_it_is_the_sum_of_names_shapes_and_bytes() -> None:
    weights = {"b": torch.tensor([[1.0, -2.0]]), "a": torch.tensor(0.5)}
    by_hand = (
        b'["a", []]\n' + b"\x00\x00\x00\x3f"
        b'["b", [1, 2]]\n' + b"\x00\x00\x80\x3f" + b"\x00\x00\x00\xc0"
    )
    assert weights_digest(weights) == hashlib.sha256(by_hand).hexdigest()


def test_neither_order_nor_memory_layout_counts() -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.tensor([7.0])
    digest = weights_digest({"a": a, "b": b})
    assert weights_digest({"b": b, "a": a.T.contiguous().T}) == digest
    parameter = torch.nn.Parameter(a.clone())
    assert weights_digest({"a": parameter, "b": b}) == digest


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.0, 3.0, 5.0])},
        {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])},
        {"b": torch.tensor([1.0, 2.0, 3.0, 4.0])},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])},
        {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([])},
        {},
    ],
)
def test_values_shapes_and_names_count(other: dict[str, torch.Tensor]) -> None:
    assert weights_digest({"a": torch.tensor([1.0, 2.0, 3.0, 4.0])}) != weights_digest(other)


def test_minus_zero_is_another_bit() -> None:
    assert weights_digest({"a": torch.tensor([0.0])}) != weights_digest({"a": torch.tensor([-0.0])})


def test_it_survives_the_wire() -> None:
    from flwr.app import RecordDict

    weights = {"layer.weight": torch.randn(2, 3, 4), "layer.bias": torch.randn(2)}
    content = RecordDict({SEGMENTER: pack_weights(weights)})
    received = read_weights(content, SEGMENTER, weights)
    assert received is not None
    assert weights_digest(received) == weights_digest(weights)


def test_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"digest: a is torch\.float64, must be torch\.float32"):
        weights_digest({"a": torch.tensor([1.0], dtype=torch.float64)})
