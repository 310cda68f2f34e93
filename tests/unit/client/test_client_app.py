"""Message in, reply out: the ClientApp's handlers, and what must not leave the site."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict

import client.app
import client.data.cohort
from asdnet_models.networks import build_confidence, build_segmenter
from client.app import build_client_app, site_from_node_config
from protocol.config.schedule import plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    pack_instruction,
    read_evaluation,
    read_facts,
    read_site_name,
    read_training,
)
from protocol.wire.metrics import allowed_metrics
from protocol.wire.weights import pack_weights, raw_weights, read_weights, wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]

RUN = "tiny-1"

pytestmark = pytest.mark.usefixtures("flower_task")


def ask(config: SiteConfig, kind: str, content: RecordDict) -> Message:
    message = Message(content, 17, kind)
    message.metadata.__dict__["_message_id"] = "instruction-1"
    context = Context(run_id=2, node_id=17, node_config={}, state=RecordDict(), run_config={})
    return build_client_app(lambda _: config)(message, context)


def instruction(protocol: StudyProtocol, number: int | None = 1) -> RecordDict:
    plan = plan_round(protocol, number) if number else None
    return pack_instruction(
        protocol,
        plan,
        wire_weights(build_segmenter(protocol).state_dict()),
        wire_weights(build_confidence(protocol).state_dict()) if plan else None,
        run=RUN,
    )


def array_of(file: bytes) -> Array:
    return Array(np.frombuffer(file, np.uint8))


def text_of(reply: Message) -> str:
    """Everything in a reply as text; files of weights by their raw bytes, header and all."""
    parts = [str(vars(reply.metadata))]
    if reply.has_error():
        return "\n".join([*parts, str(reply.error.code), str(reply.error.reason)])
    for name, record in reply.content.items():
        parts.append(name)
        if isinstance(record, ArrayRecord):
            parts += [f"{key} {a.data.decode('latin-1')}" for key, a in record.items()]
        else:
            parts.append(str(dict(record)))
    return "\n".join(parts)


def test_a_name_in_a_file_of_weights_would_be_seen() -> None:
    """The look at replies below goes into the files of weights."""
    content = RecordDict({SEGMENTER: pack_weights({"patient-1": torch.ones(1)})})
    asked = Message(RecordDict(), 17, MessageType.TRAIN)
    assert "patient-1" in text_of(Message(content, reply_to=asked))


def assert_private(reply: Message, config: SiteConfig) -> None:
    text = text_of(reply)
    for secret in ("patient-", "hospital-", str(config.data), str(config.state), ".nii", "images"):
        assert secret not in text


def test_query_declares_counts_and_box(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config, protocol = make_site("B", labelled=3, unlabelled=2, test=1), make_protocol()
    reply = ask(config, MessageType.QUERY, pack_instruction(protocol, run=RUN))
    facts = read_facts(reply.content, protocol)
    assert read_site_name(reply.content) == "B"
    assert (facts.labelled, facts.unlabelled, facts.validation, facts.test) == (3, 2, 0, 1)
    assert [edge.count for edge in facts.box] == [3.0] * 6
    low, high = facts.box[0].mean, facts.box[3].mean
    assert low is not None
    assert high is not None
    assert 0 < low < high < 1
    assert reply.metadata.reply_to_message_id == "instruction-1"
    assert_private(reply, config)


def test_the_box_of_few_cases_stays_at_the_site(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_site(labelled=2, threshold=3)
    reply = ask(config, MessageType.QUERY, pack_instruction(make_protocol(), run=RUN))
    facts = read_facts(reply.content, make_protocol())
    assert facts.labelled == 2
    assert all((edge.sum, edge.count) == (0.0, 0.0) for edge in facts.box)


def test_train_sends_both_networks(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config, protocol = make_site(), make_protocol()
    reply = ask(config, MessageType.TRAIN, instruction(protocol))
    like = build_segmenter(protocol).state_dict()
    trained = read_weights(reply.content, SEGMENTER, like)
    assert trained is not None
    assert any(not torch.equal(trained[name], like[name]) for name in trained)
    assert read_weights(reply.content, CONFIDENCE, build_confidence(protocol).state_dict())
    assert read_training(reply.content, protocol).steps == 2
    assert set(reply.content) == {"site", "metrics", SEGMENTER, CONFIDENCE}
    assert set(raw_weights(reply.content, SEGMENTER) or {}) == set(wire_weights(like))
    assert set(reply.content["metrics"]) == allowed_metrics("train", protocol)
    assert dict(reply.content["site"]) == {"name": "A"}
    assert_private(reply, config)


def test_a_label_free_site_sends_every_metric_and_no_d(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site("F", unlabelled=2), make_protocol()
    reply = ask(config, MessageType.TRAIN, instruction(protocol))
    assert set(reply.content) == {"site", "metrics", SEGMENTER}
    assert set(reply.content["metrics"]) == allowed_metrics("train", protocol)
    assert read_training(reply.content, protocol).losses["dice"].count == 0


def test_evaluate_sends_sums(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config, protocol = make_site(labelled=1, validation=1, test=2), make_protocol()
    reply = ask(config, MessageType.EVALUATE, instruction(protocol, None))
    report = read_evaluation(reply.content, protocol)
    assert report.cases == {"validation": 1, "test": 2}
    assert report.scores["test"]["ball"].dsc.count == 2
    assert set(reply.content) == {"site", "metrics"}
    assert_private(reply, config)


@pytest.mark.parametrize("kind", [MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE])
def test_an_exceptions_text_stays_at_the_site(
    make_site: MakeSite,
    make_protocol: MakeProtocol,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    config, protocol = make_site(labelled=1), make_protocol()

    def fail(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(f"{config.data}/patient-John_Doe_1950.nii.gz")

    monkeypatch.setattr(client.data.cohort, "prepare_site", fail)
    content = instruction(protocol, 1 if kind == MessageType.TRAIN else None)
    with caplog.at_level(logging.ERROR, logger="client.app"):
        reply = ask(config, kind, content)
    assert reply.has_error()
    assert reply.error.reason == "FileNotFoundError"
    assert "John" not in text_of(reply)
    assert_private(reply, config)
    assert "John_Doe_1950" in caplog.text  # the site's own log says what went wrong


@pytest.mark.parametrize("kind", [MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE])
def test_an_unknown_exceptions_name_stays_at_the_site(
    make_site: MakeSite,
    make_protocol: MakeProtocol,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    config, protocol = make_site(labelled=1), make_protocol()

    def fail(*_: Any, **__: Any) -> None:
        raise type("John_Doe_1950", (Exception,), {})(f"{config.data}/patient-John")

    monkeypatch.setattr(client.data.cohort, "prepare_site", fail)
    reply = ask(config, kind, instruction(protocol, 1 if kind == MessageType.TRAIN else None))
    assert (reply.error.code, reply.error.reason) == (2, "OtherError")
    assert "John" not in text_of(reply)
    assert_private(reply, config)


def test_what_a_handler_adds_does_not_leave(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole app: the guard stands behind every handler."""
    config, protocol = make_site(labelled=1), make_protocol()
    pack = client.app.pack_facts

    def more(*arguments: Any) -> RecordDict:
        content = pack(*arguments)
        content[record] = ConfigRecord({"name": "A", "patient": "John_Doe_1950"})
        return content

    monkeypatch.setattr(client.app, "pack_facts", more)
    record = "extra"
    reply = ask(config, MessageType.QUERY, pack_instruction(protocol, run=RUN))
    assert reply.error.reason == "OutgoingRefused"
    assert "John" not in text_of(reply)
    record = "site"
    reply = ask(config, MessageType.QUERY, pack_instruction(protocol, run=RUN))
    assert reply.error.reason == "OutgoingRefused"
    assert "John" not in text_of(reply)


def test_a_site_whose_file_is_missing_says_so_in_one_word() -> None:
    message = Message(RecordDict(), 17, MessageType.QUERY)
    message.metadata.__dict__["_message_id"] = "instruction-1"
    context = Context(2, 17, {"site-config": "/nowhere/John_Doe.yaml"}, RecordDict(), {})
    reply = client.app.app(message, context)
    assert reply.error.reason == "ProtocolError"
    assert "John" not in text_of(reply)


@pytest.mark.parametrize("run", ["../x", "", None])
def test_optimiser_states_stay_in_their_folder(
    make_site: MakeSite, make_protocol: MakeProtocol, run: str | None
) -> None:
    config, content = make_site(labelled=1), instruction(make_protocol())
    if run is None:
        del content["study"]["run"]
    else:
        content["study"]["run"] = run
    assert ask(config, MessageType.TRAIN, content).error.reason == "MessageError"
    assert not config.state.exists()


def test_bad_data_are_declared_by_rule_and_count_alone(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(labelled=2), make_protocol()
    (config.data / "labelsTr" / "patient-labelled-0.nii.gz").unlink()
    reply = ask(config, MessageType.QUERY, pack_instruction(protocol, run=RUN))
    facts = read_facts(reply.content, protocol)
    assert (facts.labelled, facts.refused) == (1, {"pair": 1})
    assert_private(reply, config)
    # Trained on is what is left where the requirements allow it, and nothing where it does not.
    assert ask(config, MessageType.TRAIN, instruction(protocol)).error.reason == "LayoutError"
    lenient = make_protocol(contract={"max_refused_share": 0.5})
    assert not ask(config, MessageType.TRAIN, instruction(lenient)).has_error()


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        (MessageType.TRAIN, lambda c: c.pop(SEGMENTER)),
        (MessageType.TRAIN, lambda c: c["study"].pop("plan")),
        (MessageType.EVALUATE, lambda c: c.pop(SEGMENTER)),
        (MessageType.QUERY, lambda c: c.pop("study")),
        (MessageType.TRAIN, lambda c: c.__setitem__(SEGMENTER, ConfigRecord({"x": 1}))),
        (MessageType.TRAIN, lambda c: c[SEGMENTER].clear()),
        (MessageType.TRAIN, lambda c: c[SEGMENTER].__setitem__("x", array_of(b"x"))),
        (MessageType.TRAIN, lambda c: c[SEGMENTER].__setitem__("safetensors", array_of(b"x"))),
        (MessageType.TRAIN, lambda c: c.__setitem__(SEGMENTER, pack_weights({}))),
        (MessageType.TRAIN, lambda c: c.__setitem__(CONFIDENCE, c[SEGMENTER])),
        (MessageType.EVALUATE, lambda c: c.__setitem__(SEGMENTER, c[CONFIDENCE])),
    ],
)
def test_an_odd_instruction_is_refused(
    make_site: MakeSite,
    make_protocol: MakeProtocol,
    kind: str,
    spoil: Callable[[RecordDict], Any],
) -> None:
    content = instruction(make_protocol())
    spoil(content)
    assert ask(make_site(labelled=1), kind, content).error.reason == "MessageError"


def test_the_site_file_is_named_by_the_node(make_site: MakeSite, tmp_path: Any) -> None:
    path = tmp_path / "North.yaml"
    path.write_text("site: North\ndata: d\ncache: c\nstate: s\n")
    context = Context(2, 17, {"site-config": str(path)}, RecordDict(), {})
    found = site_from_node_config(context)
    assert (found.site, found.data) == ("North", (tmp_path / "d").resolve())


@pytest.mark.parametrize("kept", [True, False])
def test_what_goes_wrong_is_in_a_file_where_no_supernode_keeps_a_log(
    make_site: MakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    message = Message(RecordDict(), 17, MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = "instruction-1"
    context = Context(run_id=2, node_id=17, node_config={}, state=RecordDict(), run_config={})
    config = make_site()
    reply = build_client_app(lambda _: config, keep_log=kept)(message, context)
    assert reply.has_error()
    assert (tmp_path / "xdg" / "asdnet" / "unexpected.log").exists() == kept
