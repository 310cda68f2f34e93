"""Rounded updates at a site: the rest stays, and a round trained again sends the same bytes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from safetensors.torch import load_file

from asdnet_models.networks import build_confidence, build_segmenter
from client.app import build_client_app
from client.node.egress import filter_reply
from client.training.error_feedback import pack_with_feedback
from protocol.config.schedule import plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, WireConfig
from protocol.wire.compression import pack_global, read_update, shapes_of
from protocol.wire.error_words import REFUSED
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    pack_instruction,
    read_training,
    sent_shapes,
)
from protocol.wire.weights import Weights, bytes_sent, wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]
INT8 = WireConfig(format="int8", compress=3)
RUN = "tiny-1"

pytestmark = pytest.mark.usefixtures("flower_task")


def sites_folder(config: SiteConfig) -> list[str]:
    return sorted(os.listdir(config.state / "residuals" / RUN))


def instruction(protocol: StudyProtocol, number: int) -> Message:
    weights = {
        SEGMENTER: wire_weights(build_segmenter(protocol).state_dict()),
        CONFIDENCE: wire_weights(build_confidence(protocol).state_dict()),
    }
    plan = plan_round(protocol, number, organ_box=None)
    content = pack_instruction(protocol, plan, weights[SEGMENTER], weights[CONFIDENCE], run=RUN)
    message = Message(content, 17, MessageType.TRAIN, group_id=str(number))
    message.metadata.__dict__["_message_id"] = "instruction-1"
    return message


def train(config: SiteConfig, protocol: StudyProtocol, number: int) -> RecordDict:
    """The round, through the app and the door behind it."""
    app = build_client_app(lambda _: config)
    asked = instruction(protocol, number)
    context = Context(run_id=1, node_id=17, node_config={}, state=RecordDict(), run_config={})
    reply = filter_reply(app(asked, context), asked, config.site, config.min_cases_reported)
    assert reply.has_content(), reply.error
    return reply.content


@pytest.mark.parametrize("form", ["bf16", "int8"])
def test_a_round_trained_again_sends_the_same_bytes(
    make_site: MakeSite, make_protocol: MakeProtocol, form: str
) -> None:
    config, protocol = make_site(), make_protocol(wire={"format": form, "compress": 3})
    train(config, protocol, 1)
    second = train(config, protocol, 2)
    third = train(config, protocol, 3)
    again = train(config, protocol, 3)
    for network in (SEGMENTER, CONFIDENCE):
        assert again[network] == third[network]
        assert again[network] != second[network]
    assert sites_folder(config) == ["round-00002.safetensors", "round-00003.safetensors"]
    # Both networks' rounding is kept, and nothing else is.
    kept = load_file(config.state / "residuals" / RUN / "round-00003.safetensors")
    networks = (build_segmenter(protocol), build_confidence(protocol))
    assert len(kept) == sum(len(wire_weights(n.state_dict())) for n in networks)
    assert any(bool(w.any()) for w in kept.values())


def test_a_quantised_reply_is_small_and_is_read_at_the_centre(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(), make_protocol(wire={"format": "int8"})
    content = train(config, protocol, 1)
    current = wire_weights(build_segmenter(protocol).state_dict())
    found = read_update(content, SEGMENTER, current, protocol.wire)
    assert found is not None
    assert any(not torch.equal(found[name], current[name]) for name in current)
    assert read_training(content, protocol).steps == 2
    plain = make_protocol()
    large = pack_instruction(plain, plan_round(plain, 1), current, None, run=RUN)
    assert bytes_sent(content) < 0.5 * bytes_sent(large)  # tiny tensors: names weigh most of fp32


def test_fp32_leaves_nothing_behind(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config = make_site()
    train(config, make_protocol(wire={"compress": 3}), 1)
    train(config, make_protocol(), 1)
    assert not (config.state / "residuals").exists()


def test_what_is_left_goes_into_the_next_round(tmp_path: Path) -> None:
    nothing: Weights = {"w": torch.zeros(1, 2)}
    trained: Weights = {"w": torch.tensor([[1.27, 0.014]])}

    def sent(number: int) -> float:
        records = pack_with_feedback(
            tmp_path,
            RUN,
            number,
            INT8,
            {SEGMENTER: trained},
            {SEGMENTER: nothing},
            {SEGMENTER: 10.0},
        )
        found = read_update(RecordDict(dict(records)), SEGMENTER, nothing, INT8)
        assert found is not None
        return round(found["w"][0, 1].item(), 4)

    assert [sent(number) for number in (1, 2, 2, 3, 4, 4)] == [0.01, 0.02, 0.02, 0.01, 0.02, 0.02]
    # Another run begins with nothing left.
    assert not (tmp_path / "residuals" / "other").exists()


# ---- the door -----------------------------------------------------------------------------------


@pytest.fixture
def answered(make_protocol: MakeProtocol) -> tuple[Message, RecordDict, StudyProtocol]:
    """An instruction and an honest reply to it, without training."""
    from protocol.wire.messages import pack_training
    from protocol.wire.reports import TrainReport

    protocol = make_protocol(wire={"format": "int8", "compress": 3})
    asked = instruction(protocol, 1)
    report = TrainReport(labelled=2, unlabelled=1, steps=2, seconds=0.5)
    parts = {
        name: pack_global(wire_weights(build(protocol).state_dict()), protocol.wire)
        for name, build in ((SEGMENTER, build_segmenter), (CONFIDENCE, build_confidence))
    }
    content = pack_training("A", report, protocol, parts[SEGMENTER], parts[CONFIDENCE])
    return asked, content, protocol


def test_an_instruction_gives_the_filter_the_shapes(
    answered: tuple[Message, RecordDict, StudyProtocol],
) -> None:
    asked, content, protocol = answered
    assert sent_shapes(asked.content) == {
        SEGMENTER: shapes_of(build_segmenter(protocol).state_dict()),
        CONFIDENCE: shapes_of(build_confidence(protocol).state_dict()),
    }
    out = filter_reply(Message(content, reply_to=asked), asked, "A", 1)
    assert out.content == content


def changed(content: RecordDict, change: Callable[[Any], Any]) -> None:
    record = content[SEGMENTER]
    assert isinstance(record, ArrayRecord)
    array = record["int8.zst"]
    record["int8.zst"] = type(array)(change(array.numpy()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: changed(c, lambda body: body[:-1]),
        lambda c: changed(c, lambda body: body.repeat(2)),
        lambda c: changed(c, lambda body: body.view("int8")),
        lambda c: c[SEGMENTER].update(extra=c[SEGMENTER]["int8.zst"]),
        lambda c: c[SEGMENTER].update(int8=c[SEGMENTER].pop("int8.zst")),
        lambda c: c.update({SEGMENTER: c[CONFIDENCE]}),
        lambda c: c.pop(SEGMENTER),
    ],
)
def test_a_malformed_reply_does_not_leave(
    answered: tuple[Message, RecordDict, StudyProtocol], spoil: Callable[[RecordDict], object]
) -> None:
    asked, content, _ = answered
    spoil(content)
    out = filter_reply(Message(content, reply_to=asked), asked, "A", 1)
    assert out.has_error()
    assert out.error.reason == REFUSED


@pytest.mark.parametrize("text", [None, "{}", '{"segmenter": {"Doe": [1]}}', "x"])
def test_without_the_agreed_shapes_nothing_leaves(
    answered: tuple[Message, RecordDict, StudyProtocol], text: str | None
) -> None:
    asked, content, _ = answered
    if text is None:
        del asked.content["study"]["weights"]
    else:
        asked.content["study"]["weights"] = text
    out = filter_reply(Message(content, reply_to=asked), asked, "A", 1)
    assert (out.has_error(), out.error.reason) == (True, REFUSED)


def test_an_arrays_head_is_made_anew(
    answered: tuple[Message, RecordDict, StudyProtocol],
) -> None:
    asked, content, _ = answered
    honest = content[SEGMENTER]["int8.zst"]
    padded = type(honest)(
        dtype="Doe^John", shape=(71,), stype=honest.stype, data=honest.data + b"Doe^John"
    )
    spoilt = RecordDict(dict(content))
    spoilt[SEGMENTER] = ArrayRecord(array_dict={"int8.zst": padded})
    out = filter_reply(Message(spoilt, reply_to=asked), asked, "A", 1)
    assert out.content[SEGMENTER]["int8.zst"] == honest
