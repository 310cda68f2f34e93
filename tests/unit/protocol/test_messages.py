"""What crosses the wire: what goes in comes out, and nothing else gets through."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor, nn

from protocol.messages import (
    CONFIDENCE,
    LOSSES,
    SEGMENTER,
    EvaluationReport,
    MessageError,
    SiteFacts,
    TrainReport,
    allowed_metrics,
    bytes_of,
    pack_evaluation,
    pack_facts,
    pack_instruction,
    pack_training,
    read_evaluation,
    read_facts,
    read_plan,
    read_protocol,
    read_site_name,
    read_training,
    read_weights,
    wire_weights,
)
from protocol.schedule import plan_round
from protocol.study import StudyProtocol
from protocol.sums import ScoreSum, SumCount

PROTOCOL = StudyProtocol(organs={"prostate": 2, "bladder": 1}, seed=5)
ORGANS = ("bladder", "prostate")
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, -0.5])}
FACTS = SiteFacts(
    labelled=8,
    unlabelled=5,
    validation=2,
    test=1,
    box=tuple(SumCount(sum=edge / 2, count=8) for edge in range(6)),
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
    assert found == facts
    assert [edge.mean for edge in found.box] == [None] * 6


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


def test_trusted_fraction_is_over_all_classes() -> None:
    assert TRAINED.trusted_fraction == pytest.approx(360 / 500)
    assert replace(TRAINED, trusted={}).trusted_fraction is None


def test_terms_that_did_not_run_go_as_nought_of_nothing() -> None:
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
    content = pack_instruction(PROTOCOL, plan, WEIGHTS, None)
    assert read_protocol(content) == PROTOCOL
    assert read_protocol(content).digest == PROTOCOL.digest
    assert read_plan(content) == plan
    assert set(content) == {"study", SEGMENTER}


def test_an_instruction_without_a_plan_is_told() -> None:
    with pytest.raises(MessageError, match="has no 'plan'"):
        read_plan(pack_instruction(PROTOCOL))
    with pytest.raises(MessageError, match="has no 'protocol'"):
        read_protocol(RecordDict())


@pytest.mark.parametrize("record", [None, ConfigRecord({"name": ""}), ConfigRecord({"name": 3})])
def test_a_reply_without_a_name_is_refused(record: ConfigRecord | None) -> None:
    content = RecordDict() if record is None else RecordDict({"site": record})
    with pytest.raises(MessageError, match="has no name"):
        read_site_name(content)


# ---- the allow-list -----------------------------------------------------------------------------


def test_the_allow_list_is_counts_sums_and_organs_of_the_study() -> None:
    assert len(allowed_metrics("facts", PROTOCOL)) == 4 + 6 * 2
    assert len(allowed_metrics("train", PROTOCOL)) == 4 + 2 * (len(LOSSES) + 1 + 3)
    assert len(allowed_metrics("evaluate", PROTOCOL)) == 1 + 2 + 2 * 2 * 2 * 4
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
    with pytest.raises(MessageError, match="differ from the allow-list, first at 'DOE\\^JANE'"):
        read_training(content, PROTOCOL)


def test_a_missing_metric_is_refused_on_arrival() -> None:
    content = trained()
    del metrics_of(content)["loss/dice/sum"]
    with pytest.raises(MessageError, match="first at 'loss/dice/sum'"):
        read_training(content, PROTOCOL)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), [1.0, 2.0], []])
def test_a_metric_that_is_not_one_finite_number_is_refused(value: float | list[float]) -> None:
    content = trained()
    metrics_of(content)["loss/dice/sum"] = value
    with pytest.raises(MessageError, match="loss/dice/sum must be one finite number"):
        read_training(content, PROTOCOL)


def test_a_reply_of_another_kind_is_refused() -> None:
    with pytest.raises(MessageError, match="evaluate reply: metrics differ"):
        read_evaluation(trained(), PROTOCOL)
    with pytest.raises(MessageError, match="facts reply: has no record 'metrics'"):
        read_facts(RecordDict(), PROTOCOL)
    with pytest.raises(MessageError, match="facts reply: has no record 'metrics'"):
        read_facts(RecordDict({"metrics": ConfigRecord({"labelled": 3})}), PROTOCOL)


def test_a_study_of_other_organs_reads_none_of_it() -> None:
    other = StudyProtocol(organs={"bladder": 1})
    with pytest.raises(MessageError, match="differ from the allow-list"):
        read_evaluation(pack_evaluation("A", EVALUATED, PROTOCOL), other)


# ---- weights ------------------------------------------------------------------------------------


def test_counters_stay_home_and_statistics_travel() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2)).double()
    network[1].num_batches_tracked += 7
    weights = wire_weights(network.state_dict())
    assert set(weights) == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
    }
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert not any(w.requires_grad for w in weights.values())
    content = pack_training("A", TRAINED, PROTOCOL, weights, None)
    assert set(content.array_records[SEGMENTER]) == set(weights)
    assert read_weights(content, SEGMENTER, network.state_dict()) is not None


def test_received_weights_are_ones_own() -> None:
    found = read_weights(trained(), SEGMENTER, WEIGHTS)
    assert found is not None
    found["a.bias"] += 1  # an array from the wire would be read-only
    assert WEIGHTS["a.bias"].tolist() == [0.5, -0.5]


def test_weights_laid_out_otherwise_arrive_in_order() -> None:
    transposed = torch.arange(6.0).reshape(2, 3).t()
    content = pack_training("A", TRAINED, PROTOCOL, wire_weights({"w": transposed}), None)
    found = read_weights(content, SEGMENTER, {"w": torch.zeros(3, 2)})
    assert found is not None
    assert found["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a.weight": torch.zeros(2, 3)}, "tensor names differ, first at 'a.bias'"),
        (WEIGHTS | {"b": torch.zeros(1)}, "tensor names differ, first at 'b'"),
        (
            WEIGHTS | {"a.weight": torch.zeros(3, 2)},
            r"a.weight is float32 \(2, 3\), must be float32 \(3, 2\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused(like: dict[str, Tensor], message: str) -> None:
    with pytest.raises(MessageError, match=f"segmenter: {message}"):
        read_weights(trained(), SEGMENTER, like)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32"])
def test_weights_of_another_dtype_are_refused(dtype: str) -> None:
    record = ArrayRecord(array_dict={"w": Array(np.zeros(2, dtype))})
    with pytest.raises(MessageError, match=rf"w is {dtype} \(2,\), must be float32 \(2,\)"):
        read_weights(RecordDict({SEGMENTER: record}), SEGMENTER, {"w": torch.zeros(2)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    record = ArrayRecord(array_dict={"w": Array(np.array([0, value], np.float32))})
    with pytest.raises(MessageError, match="segmenter: w holds NaN or infinity"):
        read_weights(RecordDict({SEGMENTER: record}), SEGMENTER, {"w": torch.zeros(2)})


def test_weights_in_a_record_of_another_kind_are_refused() -> None:
    content = RecordDict({SEGMENTER: ConfigRecord({"w": 1.0})})
    with pytest.raises(MessageError, match="must be an ArrayRecord, not ConfigRecord"):
        read_weights(content, SEGMENTER, {"w": torch.zeros(2)})


def test_bytes_by_hand() -> None:
    assert bytes_of(WEIGHTS) == (6 + 2) * 4
    assert bytes_of(None) == 0


@pytest.mark.parametrize("real", [np.zeros(3, np.float32), np.zeros(2, np.float64)])
def test_weights_whose_bytes_are_not_as_declared_are_refused(real: np.ndarray) -> None:
    array = Array(real)
    lying = Array(dtype="float32", shape=(2,), stype=array.stype, data=array.data)
    content = RecordDict({SEGMENTER: ArrayRecord(array_dict={"w": lying})})
    with pytest.raises(MessageError, match="w"):
        read_weights(content, SEGMENTER, {"w": torch.zeros(2)})


def test_weights_that_are_rubbish_are_refused() -> None:
    rubbish = Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=b"rubbish")
    content = RecordDict({SEGMENTER: ArrayRecord(array_dict={"w": rubbish})})
    with pytest.raises(MessageError, match="w"):
        read_weights(content, SEGMENTER, {"w": torch.zeros(2)})
