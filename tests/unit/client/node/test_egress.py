"""What leaves a site is made anew of what is agreed, whatever the app behind it answers."""

import importlib
import inspect
import io
import json
import math
import pickle
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.common.serde import message_to_proto
from made_scores import MISSED, seen, sums_of
from safetensors.torch import save

import asdnet_models
import client
import protocol
from asdnet_models.sums import SumCount
from client.node.egress import error_reply, filter_reply
from protocol.agreement.bounds import update_bound
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol, merged
from protocol.wire.compression import as_sent, pack_update
from protocol.wire.description import describe
from protocol.wire.error_words import CRASHED, ERROR_WORDS, NOT_APPROVED, REFUSED, STOPPED
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    pack_evaluation,
    pack_facts,
    pack_instruction,
    pack_training,
)
from protocol.wire.reports import EvaluationReport, SiteFacts, TrainReport

pytestmark = pytest.mark.usefixtures("flower_task")

PROTOCOL = StudyProtocol(organs={"prostate": 2, "bladder": 1}, seed=5)
SENT = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, -0.5])}
SENT_D = {"d": torch.tensor([1.0, 2.0, 3.0])}
# Within the bounds of a round: 1e-3 (D: 1e-4) a step, 50 steps.
TRAINED = {name: tensor + 2.0**-6 for name, tensor in SENT.items()}
TRAINED_D = {name: tensor - 2.0**-9 for name, tensor in SENT_D.items()}
FACTS = SiteFacts(
    labelled=8,
    unlabelled=5,
    validation=2,
    test=1,
    box=(SumCount(sum=2.5, count=8),) * 3 + (SumCount(sum=5.5, count=8),) * 3,
)
REPORT = TrainReport(
    labelled=8,
    unlabelled=5,
    steps=50,
    seconds=1.5,
    losses={"total": SumCount(sum=3.5, count=50)},
    attention=SumCount(sum=12.5, count=100),
    trusted={"bladder": SumCount(sum=50, count=60)},
)
SCORES = {o: sums_of(seen(0.5, 0.5), seen(0.75, 0.75), MISSED) for o in PROTOCOL.organ_names}
SCORED = EvaluationReport(
    seconds=2.5,
    cases={"validation": 3, "test": 3},
    scores={"validation": SCORES, "test": SCORES},
)
QUERY, TRAIN, EVALUATE = MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE
KINDS = (QUERY, TRAIN, EVALUATE)
PATIENT = "Doe^John"


def instruction(kind: str, **weights: Any) -> Message:
    parts = {"segmenter": SENT, "confidence": SENT_D} | weights
    content = pack_instruction(PROTOCOL, plan_round(PROTOCOL, 3), run="tiny-1", **parts)
    message = Message(content, 17, kind, group_id="3")
    message.metadata.__dict__["_message_id"] = "instruction-1"
    return message


def packed(kind: str, site: str = "A") -> RecordDict:
    if kind == QUERY:
        return pack_facts(site, FACTS, PROTOCOL)
    if kind == TRAIN:
        return pack_training(site, REPORT, PROTOCOL, TRAINED, TRAINED_D)
    return pack_evaluation(site, SCORED, PROTOCOL)


def leave(content: RecordDict, asked: Message) -> Message:
    return filter_reply(Message(content, reply_to=asked), asked, "A", 1)


def wire_bytes(message: Message) -> bytes:
    return bytes(message_to_proto(message).SerializeToString())


def refused(reply: Message) -> bool:
    """One word, and not a byte of content."""
    return (
        reply.has_error()
        and not reply.has_content()
        and reply.error.reason == REFUSED
        and PATIENT.encode() not in wire_bytes(reply)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_reply_comes_out_equal(kind: str) -> None:
    asked = instruction(kind)
    reply = Message(packed(kind), reply_to=asked)
    out = filter_reply(reply, asked, "A", 1)
    assert not out.has_error()
    assert out is not reply
    assert out.content == packed(kind)
    assert describe(out) == describe(reply)
    assert out.metadata.reply_to_message_id == "instruction-1"
    assert out.metadata.message_type == kind
    assert out.metadata.dst_node_id == asked.metadata.src_node_id


@pytest.mark.parametrize(
    ("kind", "name", "value", "told"),
    [
        (QUERY, "labelled", 1e6, "labelled is 1e+06, must be a whole number from 0 to 100000"),
        (QUERY, "box/x0/sum", 9.0, "box/x0: 9 is no sum of 8 values from 0 to 1"),
        (TRAIN, "loss/total/sum", 1e308, "loss/total/sum is 1e+308, must be a number from"),
        (TRAIN, "steps", 1.0, "steps is 1, must be 50"),
        (TRAIN, "attention/sum", 100.5, "attention/sum is 100.5, must be a number from 0 to 100"),
        (EVALUATE, "test/asd_mm/bladder/sum", -1.0, "asd_mm/bladder/sum is -1, must be a number"),
        (EVALUATE, "test/dsc/bladder/sum_of_squares", 2.0, "are no sum and sum of squares of 3"),
    ],
)
def test_an_absurd_number_does_not_leave(
    kind: str, name: str, value: float, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The site's own log says which, where the centre gets a word."""
    content = packed(kind)
    content["metrics"].update({name: value})  # type: ignore[arg-type]
    assert refused(leave(content, instruction(kind)))
    assert told in caplog.text


def test_a_label_free_site_sends_no_confidence_network() -> None:
    asked = instruction(TRAIN)
    content = pack_training("A", REPORT, PROTOCOL, TRAINED, None)
    out = leave(content, asked)
    assert out.content == content
    assert set(out.content) == {"site", "metrics", SEGMENTER}


def unchecked(record: Any, key: str, value: Any) -> None:
    """What Flower would not take, but an app in Python could smuggle in."""
    record.__dict__["_data"][key] = value


def metric(name: str, value: Any) -> Callable[[RecordDict], None]:
    return lambda content: unchecked(content["metrics"], name, value)


def record(name: str, value: Any) -> Callable[[RecordDict], None]:
    return lambda content: content.__setitem__(name, value)


def a_million_metrics(content: RecordDict) -> None:
    content["metrics"].__dict__["_data"].update({f"m{n}": 1.0 for n in range(10**6)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "spoil",
    [
        record("extra", ConfigRecord({"patient": PATIENT})),
        record("extra", MetricRecord({})),
        record(PATIENT, ArrayRecord(array_dict={})),
        record("metrics", ConfigRecord({"patient": PATIENT})),
        record("site", ConfigRecord({"name": "B"})),
        record("site", ConfigRecord({"name": PATIENT})),
        record("site", ConfigRecord({"name": ""})),
        record("site", ConfigRecord({"name": [PATIENT]})),
        record("site", MetricRecord({"name": 1})),
        lambda content: content.pop("site"),
        lambda content: content.pop("metrics"),
        lambda content: content["metrics"].popitem(),
        metric("age", 71.0),
        metric(PATIENT, 1.0),
        metric("labelled", PATIENT),
        metric("cases/test", PATIENT),
        metric("seconds", [1.0, 2.0]),
        metric("labelled", [1950, 12, 31]),
        metric("seconds", b"pixels"),
    ],
)
def test_what_is_not_agreed_does_not_leave(kind: str, spoil: Callable[[RecordDict], None]) -> None:
    content = packed(kind)
    spoil(content)
    assert refused(leave(content, instruction(kind)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "text", [1.0], None, 1j])
@pytest.mark.parametrize("kind", KINDS)
def test_a_metric_is_one_finite_number(kind: str, value: Any) -> None:
    for name in packed(kind)["metrics"]:
        content = packed(kind)
        unchecked(content["metrics"], name, value)
        assert refused(leave(content, instruction(kind))), name


def test_a_number_beyond_all_floats_is_refused() -> None:
    content = packed(QUERY)
    content["metrics"]["labelled"] = 10**400
    assert refused(leave(content, instruction(QUERY)))


@pytest.mark.parametrize("answer", [None, PATIENT, {"patient": PATIENT}, RecordDict(), object()])
def test_what_is_no_message_is_refused(answer: Any) -> None:
    assert refused(filter_reply(answer, instruction(QUERY), "A", 1))


def test_a_million_metrics_do_not_leave() -> None:
    content = packed(TRAIN)
    a_million_metrics(content)
    assert refused(leave(content, instruction(TRAIN)))


def array_of(file: bytes) -> Array:
    return Array(np.frombuffer(file, np.uint8))


def with_file(file: bytes, name: str = SEGMENTER) -> RecordDict:
    """A good update but for the file of one network."""
    content = packed(TRAIN)
    content[name] = ArrayRecord(array_dict={"safetensors": array_of(file)})
    return content


def file_of(header: bytes, data: bytes) -> bytes:
    """A safetensors file by hand."""
    return len(header).to_bytes(8, "little") + header + data


def header_and_data(file: bytes) -> tuple[bytes, bytes]:
    end = 8 + int.from_bytes(file[:8], "little")
    return file[8:end].rstrip(), file[end:]


HONEST = save(TRAINED)
HEADER, DATA = header_and_data(HONEST)


def test_a_file_by_hand_is_taken() -> None:
    """Else the attacks below would be refused for their form alone."""
    out = leave(with_file(file_of(HEADER, DATA)), instruction(TRAIN))
    assert out.content == packed(TRAIN)


@pytest.mark.parametrize("name", [SEGMENTER, CONFIDENCE])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda weights: weights.popitem(),
        lambda weights: weights.__setitem__(PATIENT, torch.zeros(1)),
        lambda weights: weights.__setitem__(PATIENT, torch.zeros(0)),
        lambda weights: weights.__setitem__(PATIENT, weights.popitem()[1]),
        lambda weights: weights.clear(),
    ],
)
def test_weights_of_other_names_are_refused(name: str, spoil: Callable[[Any], None]) -> None:
    weights = dict(TRAINED if name == SEGMENTER else TRAINED_D)
    assert leave(with_file(save(weights), name), instruction(TRAIN)).has_content()
    spoil(weights)
    assert refused(leave(with_file(save(weights), name), instruction(TRAIN)))


@pytest.mark.parametrize("name", [SEGMENTER, CONFIDENCE])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays.popitem(),
        lambda arrays: arrays.clear(),
        lambda arrays: arrays.__setitem__(PATIENT, array_of(b"pixels")),
        lambda arrays: arrays.__setitem__("extra", array_of(b"")),
        lambda arrays: arrays.__setitem__(PATIENT, arrays.popitem()[1]),
        lambda arrays: arrays.__setitem__("a.weight", Array(TRAINED["a.weight"].numpy())),
    ],
)
def test_another_array_than_the_file_is_refused(name: str, spoil: Callable[[Any], None]) -> None:
    content = packed(TRAIN)
    spoil(content[name])
    assert refused(leave(content, instruction(TRAIN)))


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3, 2),
        torch.zeros(2, 3, 1),
        torch.zeros(2, 4),
        torch.zeros(2, 0),
        torch.zeros(2, 600),  # larger than it could be: not even decoded
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(2, 3, dtype=torch.float16),
        torch.zeros(2, 3, dtype=torch.int32),
        torch.zeros(2, 3, dtype=torch.uint8),
        torch.full((2, 3), torch.nan),
        torch.full((2, 3), torch.inf),
    ],
)
def test_weights_of_another_form_are_refused(value: torch.Tensor) -> None:
    assert refused(leave(with_file(save(TRAINED | {"a.weight": value})), instruction(TRAIN)))


@pytest.mark.parametrize(
    "value",
    [
        np.array([["Doe", "J", "x"]] * 2),
        np.array([PATIENT.encode()]),
        np.zeros((2, 3), np.float32),
        np.zeros(0, np.uint8),
        np.frombuffer(PATIENT.encode(), np.uint8),
        np.frombuffer(HONEST, np.int8),
        np.frombuffer(HONEST, np.uint16),
        np.frombuffer(pickle.dumps(TRAINED), np.uint8),
    ],
)
def test_an_array_that_is_no_file_of_bytes_is_refused(value: Any) -> None:
    content = packed(TRAIN)
    content[SEGMENTER]["safetensors"] = Array(value)
    assert refused(leave(content, instruction(TRAIN)))


def test_what_is_larger_than_it_could_be_is_not_even_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = instruction(TRAIN)
    content = packed(TRAIN)
    honest = content[SEGMENTER]["safetensors"]
    large = replace(honest, data=honest.data + bytes(10**6))
    content[SEGMENTER]["safetensors"] = large
    decoded: list[int] = []
    numpy = Array.numpy

    def watched(array: Array) -> Any:
        decoded.append(len(array.data))
        return numpy(array)

    monkeypatch.setattr(Array, "numpy", watched)
    assert refused(leave(content, asked))
    assert len(large.data) not in decoded
    assert len(honest.data) in decoded  # what the centre sent


def test_weights_of_what_was_not_sent_are_refused() -> None:
    assert refused(leave(packed(TRAIN), instruction(TRAIN, confidence=None)))
    assert refused(leave(packed(TRAIN), instruction(TRAIN, segmenter=None)))


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("times", "leaves"), [(0.99, True), (1.1, False), (1e6, False)])
def test_an_update_beyond_the_bound_of_the_study_does_not_leave(
    form: str, times: float, leaves: bool, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = merged(PROTOCOL, {"wire": {"format": form}})
    plan = plan_round(protocol, 1)
    sent = as_sent({"a.weight": torch.arange(600.0).reshape(20, 30) / 100}, protocol.wire)
    step = times * update_bound(protocol, plan, SEGMENTER, sent) / math.sqrt(600)
    record, _ = pack_update({n: t + step for n, t in sent.items()}, sent, protocol.wire)
    asked = Message(pack_instruction(protocol, plan, sent, run="tiny-1"), 17, TRAIN)
    asked.metadata.__dict__["_message_id"] = "instruction-1"
    answer = Message(pack_training("A", REPORT, protocol, record, None), reply_to=asked)
    reply = filter_reply(answer, asked, "A", 1)
    assert reply.has_content() == leaves
    if not leaves:
        assert reply.error.reason == REFUSED
        assert "the segmenter is moved by" in caplog.text


def test_no_segmenter_is_no_update() -> None:
    content = packed(TRAIN)
    del content[SEGMENTER]
    assert refused(leave(content, instruction(TRAIN)))


@pytest.mark.parametrize(("asked", "answered"), [(QUERY, TRAIN), (EVALUATE, QUERY)])
def test_an_answer_to_another_question_is_refused(asked: str, answered: str) -> None:
    assert refused(leave(packed(answered), instruction(asked)))


@pytest.mark.parametrize("kind", ["train.secret", "query.train", "system"])
def test_a_reply_to_an_unknown_kind_of_message_is_refused(kind: str) -> None:
    asked = instruction(QUERY)
    asked.metadata.__dict__["_message_type"] = kind
    for content in (packed(QUERY), packed(TRAIN), RecordDict()):
        assert refused(leave(content, asked))


def test_an_instruction_without_a_protocol_gets_no_content() -> None:
    asked = instruction(QUERY)
    asked.content["study"]["protocol"] = "{}x"
    assert refused(leave(packed(QUERY), asked))
    del asked.content["study"]
    assert refused(leave(packed(QUERY), asked))


def test_nothing_rides_behind_an_arrays_data() -> None:
    content = packed(TRAIN)
    honest = content[SEGMENTER]["safetensors"]
    content[SEGMENTER]["safetensors"] = replace(honest, data=honest.data + PATIENT.encode())
    assert PATIENT.encode() in wire_bytes(Message(content, reply_to=instruction(TRAIN)))
    out = leave(content, instruction(TRAIN))
    assert out.content[SEGMENTER]["safetensors"].data == honest.data
    assert out.content == packed(TRAIN)
    assert PATIENT.encode() not in wire_bytes(out)


def test_nothing_rides_in_an_arrays_header() -> None:
    content = packed(TRAIN)
    honest = content[SEGMENTER]["safetensors"]
    stored = io.BytesIO()
    np.lib.format.write_array(stored, honest.numpy(), version=(3, 0))
    assert stored.getvalue() != honest.data
    spaces = honest.data.index(b" " * len(PATIENT))
    padded = honest.data[:spaces] + b"\t" * len(PATIENT) + honest.data[spaces + len(PATIENT) :]
    square = Array(honest.numpy().reshape(2, -1)).data
    for data in (stored.getvalue(), padded, square):
        content[SEGMENTER]["safetensors"] = Array(
            dtype=PATIENT, shape=(71, 1950), stype=honest.stype, data=data
        )
        out = leave(content, instruction(TRAIN))
        assert out.content == packed(TRAIN)
        assert PATIENT.encode() not in wire_bytes(out)


@pytest.mark.parametrize("file", [HONEST + PATIENT.encode(), HONEST + b"\0", HONEST + HONEST])
def test_nothing_rides_behind_a_file(file: bytes) -> None:
    assert refused(leave(with_file(file), instruction(TRAIN)))


def test_nothing_rides_between_the_tensors_of_a_file() -> None:
    header = HEADER.replace(b"[8,32]", b"[16,40]")
    assert header != HEADER
    for header_of in (HEADER, header):
        file = file_of(header_of, DATA[:8] + PATIENT.encode() + DATA[8:])
        assert len(PATIENT) == 8
        assert refused(leave(with_file(file), instruction(TRAIN)))


NAMED = PATIENT.encode()
TWICE = b'{"a.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"note":"' + NAMED + b'"},'


@pytest.mark.parametrize(
    "file",
    [
        save(TRAINED, {"patient": PATIENT}),
        save(TRAINED, {PATIENT: "x" * 500}),
        file_of(HEADER.replace(b'"dtype"', b'"note":"' + NAMED + b'","dtype"', 1), DATA),
        # A key twice: one of the two is overlooked, whatever it says.
        file_of(HEADER.replace(b"{", TWICE, 1), DATA),
    ],
)
def test_nothing_rides_in_a_files_header(file: bytes) -> None:
    asked = instruction(TRAIN)
    content = with_file(file)
    assert NAMED in wire_bytes(Message(content, reply_to=asked))
    out = leave(content, asked)
    assert out.content == packed(TRAIN)
    assert out.content[SEGMENTER]["safetensors"].numpy().tobytes() == HONEST
    assert NAMED not in wire_bytes(out)


@pytest.mark.parametrize(
    "header",
    [
        HEADER + b"\t \n" * 9,
        HEADER.replace(b",", b", \t\n"),
        HEADER.replace(b"a.bias", b"\\u0061.bias"),
        HEADER.replace(b'"F32"', b'"\\u004632"'),
    ],
)
def test_nothing_rides_in_how_a_header_is_written(header: bytes) -> None:
    assert header != HEADER
    out = leave(with_file(file_of(header, DATA)), instruction(TRAIN))
    assert out.content == packed(TRAIN)


def test_nothing_rides_in_the_order_of_a_file() -> None:
    parts = [w.numpy().tobytes() for w in (TRAINED["a.bias"], TRAINED["a.weight"])]
    lines = {
        "a.bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]},
    }
    for order in (list(lines), list(reversed(lines))):
        header = json.dumps({name: lines[name] for name in order}).encode()
        out = leave(with_file(file_of(header, b"".join(parts))), instruction(TRAIN))
        assert out.content == packed(TRAIN)
    parts.reverse()
    lines["a.weight"]["data_offsets"], lines["a.bias"]["data_offsets"] = [0, 24], [24, 32]
    for order in (list(lines), list(reversed(lines))):
        header = json.dumps({name: lines[name] for name in order}).encode()
        out = leave(with_file(file_of(header, b"".join(parts))), instruction(TRAIN))
        assert out.content == packed(TRAIN)


@pytest.mark.parametrize(
    "more", [{"patient": PATIENT}, {"scan": b"pixels"}, {"a": 1}, {PATIENT: 0}]
)
def test_nothing_rides_beside_the_sites_name(more: dict[str, Any]) -> None:
    for kind in KINDS:
        content = packed(kind)
        content["site"] = ConfigRecord({"name": "A", **more})
        assert refused(leave(content, instruction(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_rides_in_the_metadata(kind: str) -> None:
    asked = instruction(kind)
    reply = Message(packed(kind), reply_to=asked)
    fields = ("group_id", "message_type", "message_id", "reply_to_message_id")
    reply.metadata.__dict__.update({f"_{field}": PATIENT for field in fields})
    reply.metadata.__dict__.update({"_ttl": 1950.1231, "_created_at": 1950.5, "_dst_node_id": 99})
    reply.__dict__["patient"] = PATIENT
    out = filter_reply(reply, asked, "A", 1)
    honest = filter_reply(Message(packed(kind), reply_to=asked), asked, "A", 1)
    assert out.content == packed(kind)
    assert PATIENT.encode() not in wire_bytes(out)
    for field in ("group_id", "message_type", "reply_to_message_id", "dst_node_id", "run_id"):
        assert getattr(out.metadata, field) == getattr(honest.metadata, field), field
    assert out.metadata.group_id == "3"
    assert out.metadata.ttl != 1950.1231
    assert out.metadata.created_at > 1e9
    assert vars(out).keys() == vars(honest).keys()


def test_the_order_of_the_insertions_tells_nothing() -> None:
    content = packed(TRAIN)
    turned = RecordDict({key: content[key] for key in reversed(list(content))})
    turned["metrics"] = MetricRecord(dict(reversed(list(content["metrics"].items()))))
    out = leave(turned, instruction(TRAIN)).content
    assert list(out) == list(content)
    assert list(out["metrics"]) == list(content["metrics"])
    assert out == content


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        PATIENT,
        "/data/hospital/Doe^John.nii.gz",
        "FileNotFoundError: /data/Doe^John.nii.gz",
        "ValueError ",
        "valueerror",
        "print",  # a builtin, but no class
        "",
        "x" * 10**6,
    ],
)
def test_an_errors_text_becomes_one_word(text: str) -> None:
    asked = instruction(TRAIN)
    for out in (
        error_reply(asked, text),
        filter_reply(Message(Error(code=0, reason=text), reply_to=asked), asked, "A", 1),
    ):
        assert out.has_error()
        assert out.error.reason == "OtherError"
        assert out.error.code == 2
        assert len(wire_bytes(out)) < 300


def test_an_error_reveals_nothing_by_its_number() -> None:
    asked = instruction(TRAIN)
    reply = Message(Error(code=19501231, reason="ValueError"), reply_to=asked)
    out = filter_reply(reply, asked, "A", 1)
    assert (out.error.code, out.error.reason) == (2, "ValueError")
    nameless = Message(Error(code=19501231), reply_to=asked)
    assert filter_reply(nameless, asked, "A", 1).error.reason == "OtherError"


@pytest.mark.parametrize(
    "word", ["ValueError", "MemoryError", NOT_APPROVED, REFUSED, CRASHED, STOPPED, "AuditError"]
)
def test_a_word_of_the_list_is_kept(word: str) -> None:
    assert error_reply(instruction(QUERY), word).error.reason == word


# Of commands, of the preflight, and of the executor with its guard, which answers with words of its
# own: none of them is raised by what answers a message.
NEVER_IN_AN_ANSWER = {
    "asdnet_models.geometry.GeometryError",  # reading a scan makes a ScanError of it
    # A ScanError and a ProtocolError where they arise.
    "client.data.folder.dataset_json._TwiceError",
    "protocol.config.yaml_text.EncodingError",
    "protocol.files.LockedError",
    "client.commands.predict.UsageError",
    "client.commands.next_to_label.NothingToLabelError",
    "client.data.pseudonyms.PseudonymKeyError",
    "client.segmenting.sources.SourceError",
    "asdnet_models.model_files.ModelFileError",
    "client.node.decisions.ApprovalError",
    "client.node.approval.NotApprovedError",
    "protocol.agreement.bundle.BundleError",
    "client.node.checks.Skip",
    "client.node.answers.AnswerError",
    "client.node.answers.AppError",
    "client.node.frames.FrameError",
    "client.node.records.RecordsError",
    "client.node.worker.WorkerDied",
    "client.node.answering.AnsweringDied",
    "client.node.line.ProxyRefusedError",  # a row of the preflight
    "protocol.running.AlreadyRunningError",
    "client.node.guard.refusal.Refusal",
    "client.node.guard.resumption.ResumptionError",
    "client.node.guard.studies.StudyNotApprovedError",
    "protocol.agreement.manifest.AbsurdStudyError",
    "protocol.agreement.manifest.ManifestError",
    "protocol.agreement.statements.StatementError",
    "protocol.planning.budget.PlanError",  # the centre plans
}


def own_exceptions() -> set[str]:
    found = set()
    for room in (client, protocol, asdnet_models):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            for name, kind in inspect.getmembers(importlib.import_module(module.name)):
                is_exception = isinstance(kind, type) and issubclass(kind, Exception)
                if is_exception and kind.__module__ == module.name:
                    found.add(f"{module.name}.{name}")
    return found


def test_every_exception_of_ours_can_be_reported() -> None:
    found = own_exceptions()
    assert {"client.data.folder.layout.LayoutError", "protocol.wire.weights.MessageError"} <= found
    assert found >= NEVER_IN_AN_ANSWER  # else the exemption is out of date
    unknown = {name for name in found if name.rpartition(".")[2] not in ERROR_WORDS}
    assert unknown == NEVER_IN_AN_ANSWER


def test_the_list_is_of_class_names_alone() -> None:
    assert all(word.isidentifier() for word in ERROR_WORDS)
    assert len(ERROR_WORDS) < 200


# ---- numbers of too few cases -------------------------------------------------------------------


def leave_of_three(content: RecordDict, asked: Message) -> Message:
    return filter_reply(Message(content, reply_to=asked), asked, "A", 3)


def test_an_app_that_tells_of_two_cases_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """The approved code withholds them; code that does not is found by the executor."""
    asked = instruction(EVALUATE)
    # Of three cases one failed: its sums are two patients'.
    assert refused(leave_of_three(pack_evaluation("A", SCORED, PROTOCOL), asked))
    assert "scores of a small group" in caplog.text
    assert "at least 3 cases must stand behind a number that leaves" in caplog.text
    few = replace(FACTS, labelled=2, box=(SumCount(sum=1.0, count=2),) * 6)
    assert refused(leave_of_three(pack_facts("A", few, PROTOCOL), instruction(QUERY)))
    report = replace(REPORT, labelled=2)
    content = pack_training("A", report, PROTOCOL, TRAINED, TRAINED_D)
    assert refused(leave_of_three(content, instruction(TRAIN)))


def test_what_enough_cases_stand_behind_leaves_as_it_is() -> None:
    for kind in (QUERY, TRAIN):
        out = leave_of_three(packed(kind), instruction(kind))
        assert out.content == leave(packed(kind), instruction(kind)).content
