"""A site scores the average of the global weights and trains from the plain ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, MessageType, RecordDict

import client.training.evaluation
import client.training.round
from asdnet_models.networks import build_confidence, build_segmenter
from client.app import build_client_app, read_scored_round
from protocol.agreement.average import averaged
from protocol.config.schedule import plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import pack_instruction
from protocol.wire.weights import MessageError, Weights, wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]
RUN, ROUNDS = "tiny-1", 3

pytestmark = pytest.mark.usefixtures("flower_task")


def ask(config: SiteConfig, kind: str, content: RecordDict) -> Message:
    context = Context(run_id=2, node_id=17, node_config={}, state=RecordDict(), run_config={})
    reply = build_client_app(lambda _: config)(Message(content, 17, kind), context)
    assert not reply.has_error()
    return reply


def after(protocol: StudyProtocol, number: int) -> Weights:
    """S as the centre has it after a round."""
    first = wire_weights(build_segmenter(protocol).state_dict())
    return {name: tensor + 0.01 * number for name, tensor in first.items()}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Weights]]:
    """S as a site trained from it, and as it scored it."""
    found: dict[str, list[Weights]] = {"train": [], "evaluate": []}
    train, evaluate = client.training.round.train_round, client.training.evaluation.evaluate_site

    def trained(*arguments: Any, **named: Any) -> Any:
        found["train"].append(arguments[4])
        return train(*arguments, **named)

    def scored(*arguments: Any) -> Any:
        found["evaluate"].append(arguments[3])
        return evaluate(*arguments)

    monkeypatch.setattr(client.training.round, "train_round", trained)
    monkeypatch.setattr(client.training.evaluation, "evaluate_site", scored)
    return found


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_a_study_at_a_site(
    make_site: MakeSite, make_protocol: MakeProtocol, seen: dict[str, list[Weights]], decay: float
) -> None:
    config = make_site(labelled=1, validation=1)
    protocol = make_protocol(
        training={"rounds": ROUNDS, "local_steps": 1, "average_decay": decay},
        evaluation={"every_rounds": 1},
    )
    d = wire_weights(build_confidence(protocol).state_dict())
    average = None
    for number in range(1, ROUNDS + 1):
        before, now = after(protocol, number - 1), after(protocol, number)
        plan = plan_round(protocol, number)
        ask(config, MessageType.TRAIN, pack_instruction(protocol, plan, before, d, run=RUN))
        content = pack_instruction(protocol, None, now, d, run=RUN, scored_round=number)
        ask(config, MessageType.EVALUATE, content)
        average = averaged(average, now, number, decay or 0.5)
        expected = average.weights if decay else now
        for name in now:
            assert torch.equal(seen["train"][-1][name], before[name])
            assert torch.equal(seen["evaluate"][-1][name], expected[name])
    assert (config.state / "averages").exists() is (decay > 0)


def test_an_evaluation_says_after_which_round(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    assert read_scored_round(pack_instruction(protocol, run=RUN, scored_round=4)) == 4
    with pytest.raises(MessageError, match="has no round that it scores"):
        read_scored_round(pack_instruction(protocol, run=RUN))
