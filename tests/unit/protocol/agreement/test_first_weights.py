"""First weights from the seed: the same at the centre and at a site, and no others pass."""

import pytest
import torch

from protocol.agreement.first_weights import digests_sent, first_weights, same_start
from protocol.config.study import StudyProtocol, merged
from protocol.wire.compression import as_sent

TINY = merged(
    StudyProtocol(organs={"ball": 2}, seed=4),
    {"network": {"width": 2, "kernel": 3}, "confidence": {"width": 2}},
)


def test_the_same_seed_gives_the_same_digests() -> None:
    once, again = first_weights(TINY), first_weights(TINY)
    assert list(once) == ["segmenter", "confidence"]
    assert digests_sent(TINY, once) == digests_sent(TINY, again)
    other = merged(TINY, {"seed": 5})
    assert digests_sent(other, first_weights(other)) != digests_sent(TINY, once)


def test_without_a_confidence_network_there_is_none() -> None:
    assert list(first_weights(merged(TINY, {"method": {"name": "semi-fcn"}}))) == ["segmenter"]


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_what_the_wire_rounds_is_the_same_start_and_a_crafted_weight_is_not(form: str) -> None:
    protocol = merged(TINY, {"wire": {"format": form}})
    own = first_weights(protocol)["segmenter"]
    received = as_sent(own, protocol.wire)
    assert same_start(protocol, received, own)
    name = max(own, key=lambda name: own[name].numel())
    crafted = {key: tensor.clone() for key, tensor in received.items()}
    crafted[name].view(-1)[3] += 0.02 * own[name].abs().max()
    assert not same_start(protocol, crafted, own)


def test_another_machines_last_bit_is_the_same_start() -> None:
    own = first_weights(TINY)["segmenter"]
    other = {n: torch.nextafter(t, torch.full_like(t, 9.0)) * 1.0 for n, t in own.items()}
    assert same_start(TINY, {n: other[n] if own[n].any() else own[n] for n in own}, own)


def test_other_names_and_shapes_are_another_start() -> None:
    own = first_weights(TINY)["segmenter"]
    first = next(iter(own))
    assert not same_start(TINY, {n: t for n, t in own.items() if n != first}, own)
    assert not same_start(TINY, own | {first: torch.zeros(1)}, own)
