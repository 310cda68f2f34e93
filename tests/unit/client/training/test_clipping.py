"""A site's update is shortened to the study's bound before it is packed."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import Context, Message, MessageType, RecordDict

from asdnet_models.networks import build_confidence, build_segmenter
from client.app import build_client_app
from client.training.clipping import clip_update
from protocol.agreement.bounds import distance, rounding_norm, update_bound
from protocol.config.schedule import plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, WireConfig
from protocol.wire.compression import read_update
from protocol.wire.messages import CONFIDENCE, SEGMENTER, pack_instruction
from protocol.wire.weights import Weights, wire_weights

NOTHING: Weights = {"w": torch.zeros(2)}
FAR: Weights = {"w": torch.tensor([6.0, 8.0])}


def test_within_the_bound_nothing_changes() -> None:
    assert clip_update(FAR, NOTHING, None, 10.0) == (FAR, None)


def test_a_long_update_is_shortened() -> None:
    found, left = clip_update(FAR, NOTHING, None, 5.0)
    assert found["w"].tolist() == [3.0, 4.0]
    assert not left


def test_the_bound_is_of_what_travels_with_what_was_left_before() -> None:
    residual = {"w": torch.tensor([6.0, 8.0])}
    found, left = clip_update(FAR, NOTHING, residual, 10.0)
    assert left is not None
    assert (found["w"] + left["w"]).tolist() == [6.0, 8.0]


def test_what_was_left_may_cancel_the_change() -> None:
    residual = {"w": torch.tensor([-6.0, 0.0])}
    assert clip_update(FAR, NOTHING, residual, 8.0) == (FAR, residual)


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_a_site_sends_no_more_than_the_bound(
    make_site: Callable[..., SiteConfig], make_protocol: Callable[..., StudyProtocol], form: str
) -> None:
    def share_of_the_bound(max_update: float) -> float:
        """The larger one of both networks' updates, less what rounding may add."""
        study = make_protocol(wire={"format": form}, aggregation={"max_update": max_update})
        plan = plan_round(study, 1)
        current = {
            SEGMENTER: wire_weights(build_segmenter(study).state_dict()),
            CONFIDENCE: wire_weights(build_confidence(study).state_dict()),
        }
        content = pack_instruction(study, plan, *current.values(), run="clipped")
        reply = answer(make_site(), Message(content, 17, MessageType.TRAIN, group_id="1"))
        shares = []
        for network, weights in current.items():
            update = read_update(reply, network, weights, study.wire)
            assert update is not None
            change = {name: update[name] - weights[name] for name in weights}
            rounded = rounding_norm(change, study.wire) + rounding_norm(weights, WireConfig())
            bound = update_bound(study, plan, network, weights)
            shares.append((distance(update, weights) - rounded) / bound)
        return max(shares)

    # Two honest steps take more than a hundredth of the bound, and less than all of it.
    assert 0.01 < share_of_the_bound(1.0) < 1.0
    assert share_of_the_bound(0.01) <= 1.0


def answer(config: SiteConfig, asked: Message) -> RecordDict:
    asked.metadata.__dict__["_message_id"] = "instruction-1"
    context = Context(run_id=1, node_id=17, node_config={}, state=RecordDict(), run_config={})
    reply = build_client_app(lambda _: config)(asked, context)
    assert reply.has_content(), reply.error
    return reply.content
