"""The allow-list of metrics."""

from collections.abc import Callable, Iterator

import pytest
from flwr.app import MetricRecord, RecordDict
from wire_samples import EVALUATED, FACTS, PROTOCOL, trained

from asdnet_models.reliability import BINS
from protocol.config.rules import RULES
from protocol.wire.messages import (
    pack_evaluation,
    pack_facts,
    read_evaluation,
    read_facts,
    read_training,
)
from protocol.wire.metrics import METRICS, allowed_metrics, metric_ranges
from protocol.wire.reports import LOSSES
from protocol.wire.weights import MessageError

SAMPLES: dict[str, tuple[Callable[[], RecordDict], Callable[..., object]]] = {
    "facts": (lambda: pack_facts("A", FACTS, PROTOCOL), read_facts),
    "train": (trained, read_training),
    "evaluate": (lambda: pack_evaluation("A", EVALUATED, PROTOCOL), read_evaluation),
}
ABSURD = (-1.0, -1, -1e308, 1e308, 2.0**60, 2**62, -(2**62), float("nan"), float("inf"))


def test_the_allow_list_is_counts_sums_and_organs_of_the_study() -> None:
    assert len(allowed_metrics("facts", PROTOCOL)) == 5 + len(RULES) + 6 * 2 + 2
    drawn = {"annotated/bladder/count", "annotated/prostate/count"}
    assert drawn <= allowed_metrics("facts", PROTOCOL)
    assert len(allowed_metrics("train", PROTOCOL)) == 4 + 2 * (len(LOSSES) + 2 + 3)
    expected = 2 * 2 * (2 * 3 + 1)  # maps and organs: sums of two parts, and of products
    scores = 2 * 2 * (4 * 3 + 4)
    assert len(allowed_metrics("evaluate", PROTOCOL)) == 1 + 2 + scores + expected + 2 * 2 * BINS
    scored = {
        f"test/{score}/bladder/{part}"
        for score in ("dsc", "asd_mm", "hd95_mm", "nsd")
        for part in ("sum", "sum_of_squares", "count")
    }
    failed = {f"test/failures/bladder/{n}" for n in ("cases", "missed", "made_up", "far_off")}
    assert scored | failed <= allowed_metrics("evaluate", PROTOCOL)
    assert not any("rectum" in name for name in allowed_metrics("evaluate", PROTOCOL))
    with pytest.raises(ValueError, match="no message of kind 'gossip'"):
        allowed_metrics("gossip", PROTOCOL)


def absurd(kind: str) -> Iterator[tuple[str, float]]:
    for name, allowed in metric_ranges(kind, PROTOCOL).items():
        yield from ((name, value) for value in ABSURD)
        if allowed.whole:
            yield from ((name, value) for value in (0.5, 5e-324, 1 - 2**-53))


@pytest.mark.parametrize("kind", SAMPLES)
def test_no_number_may_be_absurd(kind: str) -> None:
    pack, read = SAMPLES[kind]
    content = pack()
    honest = content[METRICS]
    assert isinstance(honest, MetricRecord)
    read(content, PROTOCOL)
    for name, value in absurd(kind):
        content[METRICS] = MetricRecord({**honest, name: value})
        if name in ("loss/total/sum", "twin/sum") and value == -1:
            read(content, PROTOCOL)  # the one loss that a method may make negative; worse by half
            continue
        with pytest.raises(MessageError, match=rf"^{kind} reply: {name} (is|must be one finite)"):
            read(content, PROTOCOL)


def test_an_integer_that_no_float_can_hold_is_refused() -> None:
    content = pack_facts("A", FACTS, PROTOCOL)
    vars(content[METRICS])["_data"]["labelled"] = 10**400  # past Flower's own check
    with pytest.raises(MessageError, match="labelled must be one finite number"):
        read_facts(content, PROTOCOL)


def test_every_count_is_of_whole_things() -> None:
    for kind in SAMPLES:
        ranges = metric_ranges(kind, PROTOCOL)
        parts = {n: r for n, r in ranges.items() if n.endswith("count") or "/failures/" in n}
        assert all(r.whole and r.low == 0 and r.high < 2**53 for r in parts.values())
        # Sums over a thousand sites, and their squares, are far from an overflow.
        assert all(abs(limit) < 1e18 for r in ranges.values() for limit in (r.low, r.high))
