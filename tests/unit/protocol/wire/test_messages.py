"""What crosses the wire: what goes in comes out, and nothing else gets through."""

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
from flwr.common.serde import message_from_proto, message_to_proto
from safetensors.torch import save
from torch import Tensor

from asdnet_models.reliability import BINS, Reliability
from asdnet_models.sums import ScoreSum, SumCount
from protocol.config.rules import RULES
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol
from protocol.wire.description import describe
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    pack_evaluation,
    pack_facts,
    pack_instruction,
    pack_training,
    read_evaluation,
    read_facts,
    read_plan,
    read_protocol,
    read_run,
    read_site_name,
    read_training,
)
from protocol.wire.metrics import allowed_metrics
from protocol.wire.reports import LOSSES, EvaluationReport, SiteFacts, TrainReport
from protocol.wire.weights import MessageError, pack_weights, raw_weights, read_weights

PROTOCOL = StudyProtocol(organs={"prostate": 2, "bladder": 1}, seed=5)
RUN = "tiny-1"
ORGANS = ("bladder", "prostate")
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, -0.5])}
FACTS = SiteFacts(
    labelled=8,
    unlabelled=5,
    validation=2,
    test=1,
    box=tuple(SumCount(sum=edge / 2, count=8) for edge in range(6)),
    annotated={"bladder": 3, "prostate": 8},
)
TRAINED = TrainReport(
    labelled=8,
    unlabelled=5,
    steps=50,
    seconds=1.5,
    losses={name: SumCount(sum=index + 0.25, count=50) for index, name in enumerate(LOSSES)},
    attention=SumCount(sum=12.5, count=100),
    trusted={
        "background": SumCount(sum=300, count=400),
        "bladder": SumCount(sum=50, count=60),
        "prostate": SumCount(sum=10, count=40),
    },
)
SCORES = {organ: ScoreSum.of([0.5, 0.75, None], failures=1) for organ in ORGANS}
EVALUATED = EvaluationReport(
    seconds=2.5,
    cases={"validation": 3, "test": 3},
    dsc={"validation": SCORES, "test": {organ: ScoreSum() for organ in ORGANS}},
    asd_mm={"validation": {organ: ScoreSum.of([1.5]) for organ in ORGANS}, "test": SCORES},
    reliability={
        "confidence": Reliability(right=tuple(range(BINS)), wrong=(7,) * BINS),
        "softmax": Reliability(right=(1,) * BINS),
    },
)


def trained(confidence: dict[str, Tensor] | None = None) -> RecordDict:
    return pack_training("A", TRAINED, PROTOCOL, WEIGHTS, confidence)


def metrics_of(content: RecordDict) -> MetricRecord:
    (record,) = content.metric_records.values()
    return record


# ---- round trips --------------------------------------------------------------------------------


def test_facts_come_back() -> None:
    content = pack_facts("A", FACTS, PROTOCOL)
    assert read_facts(content, PROTOCOL) == FACTS
    assert read_site_name(content) == "A"
    assert set(metrics_of(content)) == allowed_metrics("facts", PROTOCOL)


def test_facts_without_a_box_say_nothing_of_it() -> None:
    facts = SiteFacts(labelled=0, unlabelled=15, validation=0, test=0)
    found = read_facts(pack_facts("F", facts, PROTOCOL), PROTOCOL)
    assert found == replace(facts, annotated={"bladder": 0, "prostate": 0})
    assert [edge.mean for edge in found.box] == [None] * 6


def test_organs_that_are_not_named_are_drawn_in_every_labelled_case() -> None:
    facts = SiteFacts(labelled=4, unlabelled=0, validation=0, test=0, annotated={"bladder": 0})
    found = read_facts(pack_facts("A", facts, PROTOCOL), PROTOCOL)
    assert found.annotated == {"bladder": 0, "prostate": 4}
    assert found.drawn == 2.0


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (9.0, r"annotated/bladder/count is 9, of 8 labelled cases"),
        (-1.0, "annotated/bladder/count is -1.0, must be a whole number from 0"),
        (0.5, "annotated/bladder/count is 0.5, must be a whole number from 0"),
        (float("nan"), "annotated/bladder/count must be one finite number"),
    ],
)
def test_counts_of_drawn_cases_that_cannot_be_are_refused(value: float, rule: str) -> None:
    content = pack_facts("A", FACTS, PROTOCOL)
    metrics_of(content)["annotated/bladder/count"] = value
    with pytest.raises(MessageError, match=rule):
        read_facts(content, PROTOCOL)


def test_a_drawn_organ_outside_the_study_is_not_sent() -> None:
    facts = replace(FACTS, annotated={"DOE^JANE": 1})
    with pytest.raises(MessageError, match="not on the allow-list"):
        pack_facts("A", facts, PROTOCOL)


def test_training_comes_back() -> None:
    content = trained({"d": torch.ones(2)})
    assert read_training(content, PROTOCOL) == TRAINED
    for name, like in ((SEGMENTER, WEIGHTS), (CONFIDENCE, {"d": torch.zeros(2)})):
        assert read_weights(content, name, like) is not None
    found = read_weights(content, SEGMENTER, {name: w * 0 for name, w in WEIGHTS.items()})
    assert found is not None
    assert {name: w.tolist() for name, w in found.items()} == {
        name: w.tolist() for name, w in WEIGHTS.items()
    }


def test_trusted_fraction_is_over_organs() -> None:
    assert TRAINED.trusted_fraction == pytest.approx(60 / 100)
    assert replace(TRAINED, trusted={}).trusted_fraction is None


def test_terms_that_did_not_run_go_as_zero_of_zero() -> None:
    report = TrainReport(labelled=8, unlabelled=0, steps=3, seconds=1)
    content = pack_training("A", report, PROTOCOL, WEIGHTS, None)
    assert set(metrics_of(content)) == allowed_metrics("train", PROTOCOL)
    found = read_training(content, PROTOCOL)
    assert found.losses == dict.fromkeys(LOSSES, SumCount())
    assert found.trusted_fraction is None
    assert read_weights(content, CONFIDENCE, {"d": torch.ones(2)}) is None


def test_evaluation_comes_back() -> None:
    content = pack_evaluation("A", EVALUATED, PROTOCOL)
    assert read_evaluation(content, PROTOCOL) == EVALUATED
    assert set(metrics_of(content)) == allowed_metrics("evaluate", PROTOCOL)


def test_protocol_and_plan_come_back() -> None:
    plan = plan_round(PROTOCOL, 21, attention_scale=0.3, organ_box=(0.1, 0.1, 0.1, 0.9, 0.9, 0.9))
    content = pack_instruction(PROTOCOL, plan, WEIGHTS, None, run=RUN)
    assert read_protocol(content) == PROTOCOL
    assert read_protocol(content).digest == PROTOCOL.digest
    assert read_plan(content) == plan
    assert set(content) == {"study", SEGMENTER}
    raw = raw_weights(content, SEGMENTER)
    assert raw is not None
    assert {name: w.tolist() for name, w in raw.items()} == {
        name: w.tolist() for name, w in WEIGHTS.items()
    }
    assert raw_weights(content, CONFIDENCE) is None


def test_what_is_no_weights_is_told() -> None:
    with pytest.raises(MessageError, match="study: must be an ArrayRecord"):
        raw_weights(pack_instruction(PROTOCOL, run=RUN), "study")


def test_an_instruction_without_a_plan_is_told() -> None:
    with pytest.raises(MessageError, match="has no 'plan'"):
        read_plan(pack_instruction(PROTOCOL, run=RUN))
    with pytest.raises(MessageError, match="has no 'protocol'"):
        read_protocol(RecordDict())


@pytest.mark.parametrize("record", [None, ConfigRecord({"name": ""}), ConfigRecord({"name": 3})])
def test_a_reply_without_a_name_is_refused(record: ConfigRecord | None) -> None:
    content = RecordDict() if record is None else RecordDict({"site": record})
    with pytest.raises(MessageError, match="has no name"):
        read_site_name(content)


# ---- the allow-list -----------------------------------------------------------------------------


def test_the_allow_list_is_counts_sums_and_organs_of_the_study() -> None:
    assert len(allowed_metrics("facts", PROTOCOL)) == 5 + len(RULES) + 6 * 2 + 2
    drawn = {"annotated/bladder/count", "annotated/prostate/count"}
    assert drawn <= allowed_metrics("facts", PROTOCOL)
    assert len(allowed_metrics("train", PROTOCOL)) == 4 + 2 * (len(LOSSES) + 1 + 3)
    assert len(allowed_metrics("evaluate", PROTOCOL)) == 1 + 2 + 2 * 2 * 2 * 4 + 2 * 2 * BINS
    parts = {"sum", "sum_of_squares", "count", "failures"}
    dsc = {f"test/dsc/bladder/{part}" for part in parts}
    assert dsc <= allowed_metrics("evaluate", PROTOCOL)
    assert not any("rectum" in name for name in allowed_metrics("evaluate", PROTOCOL))
    with pytest.raises(ValueError, match="no message of kind 'gossip'"):
        allowed_metrics("gossip", PROTOCOL)


@pytest.mark.parametrize("field", ["losses", "trusted"])
def test_a_patients_name_as_a_key_is_not_sent(field: str) -> None:
    report = replace(TRAINED, **{field: {"DOE^JANE": SumCount(sum=1, count=1)}})
    with pytest.raises(MessageError, match="not on the allow-list"):
        pack_training("A", report, PROTOCOL, WEIGHTS, None)


def test_an_organ_outside_the_study_is_not_sent() -> None:
    report = replace(EVALUATED, dsc=EVALUATED.dsc | {"test": {"rectum": ScoreSum()}})
    with pytest.raises(MessageError, match=r"'test/dsc/rectum/.*' is not on the allow-list"):
        pack_evaluation("A", report, PROTOCOL)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_not_sent(value: float) -> None:
    report = replace(TRAINED, losses={"dice": SumCount(sum=value, count=1)})
    with pytest.raises(MessageError, match=r"loss/dice/sum is (nan|inf), must be finite"):
        pack_training("A", report, PROTOCOL, WEIGHTS, None)


def test_an_extra_metric_is_refused_on_arrival() -> None:
    content = trained()
    metrics_of(content)["DOE^JANE"] = 1.0
    with pytest.raises(MessageError, match="differ from the allow-list: 0 missing; 1 that"):
        read_training(content, PROTOCOL)


def test_a_missing_metric_is_refused_on_arrival() -> None:
    content = trained()
    del metrics_of(content)["loss/dice/sum"]
    with pytest.raises(MessageError, match="first 'loss/dice/sum'"):
        read_training(content, PROTOCOL)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), [1.0, 2.0], []])
def test_a_metric_that_is_not_one_finite_number_is_refused(value: float | list[float]) -> None:
    content = trained()
    metrics_of(content)["loss/dice/sum"] = value
    with pytest.raises(MessageError, match="loss/dice/sum must be one finite number"):
        read_training(content, PROTOCOL)


def test_a_reply_of_another_kind_is_refused() -> None:
    with pytest.raises(MessageError, match="1 records are not on the allow-list"):
        read_evaluation(trained(), PROTOCOL)
    content = trained()
    del content[SEGMENTER]
    with pytest.raises(MessageError, match="evaluate reply: metrics differ"):
        read_evaluation(content, PROTOCOL)
    with pytest.raises(MessageError, match="facts reply: has no record 'metrics'"):
        read_facts(RecordDict(), PROTOCOL)
    with pytest.raises(MessageError, match="facts reply: has no record 'metrics'"):
        read_facts(RecordDict({"metrics": ConfigRecord({"labelled": 3})}), PROTOCOL)


def test_a_study_of_other_organs_reads_none_of_it() -> None:
    other = StudyProtocol(organs={"bladder": 1})
    with pytest.raises(MessageError, match="differ from the allow-list"):
        read_evaluation(pack_evaluation("A", EVALUATED, PROTOCOL), other)


READERS: dict[str, tuple[RecordDict, Callable[[RecordDict, StudyProtocol], Any]]] = {
    "facts": (pack_facts("A", FACTS, PROTOCOL), read_facts),
    "training": (trained({"d": torch.ones(2)}), read_training),
    "evaluation": (pack_evaluation("A", EVALUATED, PROTOCOL), read_evaluation),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    "surplus",
    [
        ConfigRecord({"patient": "Doe^John"}),
        ConfigRecord(),
        MetricRecord({}),
        ArrayRecord(array_dict={}),
        pack_weights({"w": torch.ones(2)}),
    ],
)
@pytest.mark.parametrize("name", ["DOE^JANE", "", "study", "Metrics", "segmenter2"])
def test_a_record_that_nobody_asked_for_is_refused(kind: str, surplus: Any, name: str) -> None:
    honest, read = READERS[kind]
    assert read(honest, PROTOCOL)
    content = RecordDict({**honest, name: surplus})
    with pytest.raises(MessageError, match="1 records are not on the allow-list"):
        read(content, PROTOCOL)


@pytest.mark.parametrize("kind", ["facts", "evaluation"])
@pytest.mark.parametrize("name", [SEGMENTER, CONFIDENCE])
def test_only_training_answers_with_weights(kind: str, name: str) -> None:
    honest, read = READERS[kind]
    content = RecordDict({**honest, name: pack_weights(WEIGHTS)})
    with pytest.raises(MessageError, match="1 records are not on the allow-list"):
        read(content, PROTOCOL)


def test_a_surplus_record_is_quoted_in_part() -> None:
    content = pack_facts("A", FACTS, PROTOCOL)
    content["x" * 10**6] = ConfigRecord()
    with pytest.raises(MessageError, match=r"1 records are not on the allow-list$"):
        read_facts(content, PROTOCOL)


@pytest.mark.parametrize("more", [{"patient": "Doe^John"}, {"scan": b"pixels"}, {"": 0}])
def test_nothing_stands_beside_the_sites_name(more: dict[str, Any]) -> None:
    content = pack_facts("A", FACTS, PROTOCOL)
    assert read_site_name(content) == "A"
    content["site"] = ConfigRecord({"name": "A", **more})
    with pytest.raises(MessageError, match=r"record 'site' holds more than the name$"):
        read_site_name(content)


# ---- run names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["a", "tiny-1", "Study_2.b", "0", "a" * 96])
def test_the_run_comes_back(run: str) -> None:
    assert read_run(pack_instruction(PROTOCOL, run=run)) == run


@pytest.mark.parametrize(
    "run",
    [
        *("", ".", "..", "../x", "../../etc", "a/b", "/a", "a\\b", ".hidden", "-x", "_x"),
        *("a b", "a\n", "a\0", "ä", "a" * 97, "C:", "~"),
    ],
)
def test_a_run_that_could_name_no_folder_is_refused(run: str) -> None:
    content = pack_instruction(PROTOCOL, run=run)
    with pytest.raises(MessageError, match=r"instruction: run name .* must match") as caught:
        read_run(content)
    assert len(str(caught.value)) < 250


def test_an_instruction_without_a_run_is_told() -> None:
    content = pack_instruction(PROTOCOL, run=RUN)
    del content["study"]["run"]
    with pytest.raises(MessageError, match="has no 'run'"):
        read_run(content)
    content["study"]["run"] = 7
    with pytest.raises(MessageError, match="has no 'run'"):
        read_run(content)


# ---- describe -----------------------------------------------------------------------------------


def message(content: RecordDict, kind: str = MessageType.TRAIN, group: str = "3") -> Message:
    made = Message(content, 17, kind, group_id=group)
    made.metadata.__dict__["_message_id"] = "instruction-1"
    return made


TWO_ARRAYS = ArrayRecord(
    array_dict={"z": Array(np.zeros(2, np.float32)), "a": Array(np.ones(3, np.uint8))}
)


def digest(content: RecordDict) -> str:
    return describe(message(content))["sha256"]


def turned(content: RecordDict) -> RecordDict:
    """The same content, inserted the other way round."""
    made = RecordDict()
    for key in reversed(list(content)):
        items = dict(reversed(list(content[key].items())))
        kind = type(content[key])
        made[key] = ArrayRecord(array_dict=items) if kind is ArrayRecord else kind(items)
    return made


@pytest.mark.usefixtures("flower_task")
def test_a_description_by_hand() -> None:
    found = describe(message(trained()))
    # NumPy's 128 before the bytes; the file's own 8, its header, and its values.
    stored = 128 + len(save(WEIGHTS))
    assert (found["what"], found["round"]) == ("train instruction", 3)
    assert found["items"] == {
        "metrics values": len(allowed_metrics("train", PROTOCOL)),
        "segmenter bytes": stored,
        "segmenter tensors": 2,
        "site values": 1,
    }
    assert found["bytes"] > stored
    assert len(found["sha256"]) == 64


@pytest.mark.usefixtures("flower_task")
def test_kinds_of_messages_have_names() -> None:
    asked = message(trained(), MessageType.QUERY)
    assert describe(asked)["what"] == "facts instruction"
    assert describe(Message(RecordDict(), reply_to=asked))["what"] == "facts reply"
    assert describe(message(RecordDict(), MessageType.EVALUATE))["what"] == "evaluate instruction"
    failed = describe(Message(Error(2, "ValueError"), reply_to=asked))
    assert failed == {
        "what": "facts error reply", "round": 3, "sha256": "", "bytes": 0, "items": {}
    }  # fmt: skip


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize(
    ("group", "number"),
    [
        *(("", 0), ("12", 12), ("-1", 0), ("x", 0), ("²", 0), ("٣", 0), ("+1", 0)),
        *(("1 ", 0), (" 1", 0), ("1\n", 0), ("1_0", 0), ("1.0", 0), ("0012", 12)),
        *(("123456789", 123456789), ("1234567890", 0), ("0" * 10, 0), ("9" * 10**5, 0)),
    ],
)
def test_the_round_is_the_group(group: str, number: int) -> None:
    assert describe(message(RecordDict(), group=group))["round"] == number


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize(
    "content",
    [
        trained(),
        pack_facts("A", FACTS, PROTOCOL),
        pack_evaluation("A", EVALUATED, PROTOCOL),
        pack_instruction(PROTOCOL, plan_round(PROTOCOL, 1), WEIGHTS, {"d": torch.ones(1)}, run=RUN),
        # Not of the agreed form: what is refused is described too.
        RecordDict({"more": TWO_ARRAYS, SEGMENTER: TWO_ARRAYS}),
        RecordDict(),
    ],
)
def test_equal_content_is_described_equally(content: RecordDict) -> None:
    expected = describe(message(content))
    assert describe(message(turned(content))) == expected
    # As it arrives at the other end.
    arrived = message_from_proto(message_to_proto(message(content)))
    assert describe(arrived) == expected


def changed_metric(name: str, value: float) -> Callable[[RecordDict], None]:
    return lambda content: content["metrics"].__setitem__(name, value)


def changed_weights(**changes: Tensor | None) -> Callable[[RecordDict], None]:
    """Other tensors in the segmenter's file; those that are None are left out."""
    changed = {**WEIGHTS, **{name.replace("_", "."): w for name, w in changes.items()}}
    file = pack_weights({name: w for name, w in changed.items() if w is not None})
    return lambda content: content.__setitem__(SEGMENTER, file)


def changed_array(change: Callable[[Array], Array]) -> Callable[[RecordDict], None]:
    def spoil(content: RecordDict) -> None:
        content[SEGMENTER]["safetensors"] = change(content[SEGMENTER]["safetensors"])

    return spoil


def changed_bit(array: Array) -> Array:
    return replace(array, data=array.data[:-1] + bytes([array.data[-1] ^ 1]))


def renamed(content: RecordDict, record: str, old: str, new: str) -> None:
    content[record][new] = content[record].pop(old)


def other_name_of_a_record(content: RecordDict) -> None:
    content[CONFIDENCE] = content.pop(SEGMENTER)


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize(
    "change",
    [
        changed_metric("seconds", 1.5000000000000002),
        changed_metric("loss/dice/sum", -0.0),
        changed_weights(a_bias=torch.tensor([0.5, -0.50000006])),
        changed_weights(a_weight=WEIGHTS["a.weight"].reshape(3, 2)),
        changed_weights(a_weight=WEIGHTS["a.weight"].double()),
        changed_weights(a_bias=None),
        changed_weights(a_bias=None, b_bias=WEIGHTS["a.bias"]),
        changed_weights(a_bias=WEIGHTS["a.weight"], a_weight=WEIGHTS["a.bias"]),
        changed_array(changed_bit),
        changed_array(lambda array: replace(array, data=array.data + b"x")),
        changed_array(lambda array: replace(array, dtype="int8")),
        changed_array(lambda array: replace(array, shape=(2, 3))),
        lambda content: renamed(content, "metrics", "steps", "step"),
        lambda content: renamed(content, SEGMENTER, "safetensors", "file"),
        lambda content: content[SEGMENTER].update(TWO_ARRAYS),
        lambda content: renamed(content, "site", "name", "site"),
        lambda content: content["site"].__setitem__("name", "B"),
        lambda content: content["metrics"].pop("steps"),
        lambda content: content[SEGMENTER].pop("safetensors"),
        lambda content: content["metrics"].__setitem__("more", 0.0),
        lambda content: content.__setitem__("more", ConfigRecord()),
        lambda content: content.pop("site"),
        other_name_of_a_record,
    ],
)
def test_any_change_is_another_digest(change: Callable[[RecordDict], None]) -> None:
    content = trained()
    change(content)
    assert digest(content) != digest(trained())
    assert digest(turned(content)) == digest(content)


@pytest.mark.usefixtures("flower_task")
def test_every_number_of_a_reply_is_in_the_digest() -> None:
    expected = digest(trained())
    for name, value in trained()["metrics"].items():
        content = trained()
        content["metrics"][name] = value + 1
        assert digest(content) != expected, name


@pytest.mark.usefixtures("flower_task")
def test_bytes_are_in_the_digest() -> None:
    one, other = (RecordDict({"r": ConfigRecord({"b": value})}) for value in (b"\0", b"\1"))
    assert digest(one) != digest(other)


@pytest.mark.usefixtures("flower_task")
def test_every_byte_of_the_weights_is_in_the_digest() -> None:
    expected, size = digest(trained()), len(trained()[SEGMENTER]["safetensors"].data)
    for place in range(size):
        content = trained()
        array = content[SEGMENTER]["safetensors"]
        data = bytearray(array.data)
        data[place] ^= 1
        content[SEGMENTER]["safetensors"] = replace(array, data=bytes(data))
        assert digest(content) != expected, place


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize("file", [b"", b"rubbish", bytes(8), b"\x02" + bytes(7) + b"[]"])
def test_weights_that_are_rubbish_are_described(file: bytes) -> None:
    """What is refused stands in the log as well: nothing that came may end its writing."""
    array = Array(np.frombuffer(file, np.uint8))
    content = RecordDict({SEGMENTER: ArrayRecord(array_dict={"safetensors": array})})
    found = describe(message(content))
    assert found["items"] == {"segmenter tensors": 0, "segmenter bytes": len(array.data)}
    assert len(found["sha256"]) == 64
