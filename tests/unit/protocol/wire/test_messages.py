"""What crosses the wire: what goes in comes out, and nothing else gets through."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
    RecordDict,
)
from signed_studies import SigningCentre
from wire_samples import EVALUATED, FACTS, PROTOCOL, RUN, TRAINED, WEIGHTS, trained

from asdnet_models.sums import OrganSums, SumCount
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol
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
from protocol.wire.proofs import read_study_file
from protocol.wire.reports import LOSSES, SiteFacts, TrainReport
from protocol.wire.weights import MessageError, pack_weights, raw_weights, read_weights


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
        (-1.0, "annotated/bladder/count is -1, must be a whole number from 0"),
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
    report = TrainReport(labelled=8, unlabelled=0, steps=50, seconds=1)
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


def test_what_is_no_weights_is_reported() -> None:
    with pytest.raises(MessageError, match="study: must be an ArrayRecord"):
        raw_weights(pack_instruction(PROTOCOL, run=RUN), "study")


def test_an_instruction_without_a_plan_is_reported() -> None:
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


@pytest.mark.parametrize("field", ["losses", "trusted"])
def test_a_patients_name_as_a_key_is_not_sent(field: str) -> None:
    report = replace(TRAINED, **{field: {"DOE^JANE": SumCount(sum=1, count=1)}})
    with pytest.raises(MessageError, match="not on the allow-list"):
        pack_training("A", report, PROTOCOL, WEIGHTS, None)


def test_an_organ_outside_the_study_is_not_sent() -> None:
    scores = {**EVALUATED.scores, "test": {"rectum": OrganSums()}}
    report = replace(EVALUATED, scores=scores)
    with pytest.raises(MessageError, match=r"'test/.*/rectum/.*' is not on the allow-list"):
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


def test_an_instruction_without_a_run_is_reported() -> None:
    content = pack_instruction(PROTOCOL, run=RUN)
    del content["study"]["run"]
    with pytest.raises(MessageError, match="has no 'run'"):
        read_run(content)
    content["study"]["run"] = 7
    with pytest.raises(MessageError, match="has no 'run'"):
        read_run(content)


def test_a_signed_study_comes_as_it_was_signed() -> None:
    centre = SigningCentre()
    file = centre.study(PROTOCOL, run=RUN)
    content = pack_instruction(PROTOCOL, run=RUN, agreement=file.signed)
    assert read_study_file(content) == file
    assert read_study_file(content).verified(centre.key.public_key()).protocol == PROTOCOL


def test_an_instruction_without_a_manifest_says_so() -> None:
    with pytest.raises(MessageError, match="comes without a signed manifest"):
        read_study_file(pack_instruction(PROTOCOL, run=RUN))
    content = pack_instruction(PROTOCOL, run=RUN, agreement=SigningCentre().study(PROTOCOL).signed)
    content.config_records["study"]["manifest_signature"] = "A" * 129
    with pytest.raises(MessageError, match="comes without a signed manifest"):
        read_study_file(content)
