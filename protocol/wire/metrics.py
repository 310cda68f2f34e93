"""The allow-list: every number that may leave a site, by its name on the wire."""

import math
from collections.abc import Mapping

from flwr.app import MetricRecord, RecordDict

from asdnet_models.reliability import BINS, SCORES
from asdnet_models.sums import SumCount
from protocol.config.rules import RULES, Rule
from protocol.config.study import StudyProtocol
from protocol.wire.reports import EVALUATED_PARTS, LOSSES
from protocol.wire.weights import MessageError, names_differ

BOX = ("x0", "y0", "z0", "x1", "y1", "z1")
COUNTS = ("labelled", "unlabelled", "validation", "test", "excluded")
# Endings of the names that count something.
_NEVER_NEGATIVE = ("count", "failures", "steps", *COUNTS)

METRICS = "metrics"  # the record


def allowed_metrics(kind: str, protocol: StudyProtocol) -> frozenset[str]:
    """The complete list of the numbers that may leave a site, by kind of message."""
    if kind == "facts":
        box = [f"box/{edge}/{part}" for edge in BOX for part in ("sum", "count")]
        refused = [refused_name(rule) for rule in RULES]
        drawn = [annotated_name(organ) for organ in protocol.organ_names]
        return frozenset([*COUNTS, *refused, *box, *drawn])
    if kind == "train":
        pairs = [f"loss/{name}" for name in LOSSES] + ["attention"]
        pairs += [f"trusted/{name}" for name in ("background", *protocol.organ_names)]
        sums = [f"{name}/{part}" for name in pairs for part in ("sum", "count")]
        return frozenset(["labelled", "unlabelled", "steps", "seconds", *sums])
    if kind == "evaluate":
        names = ["seconds", *(f"cases/{part}" for part in EVALUATED_PARTS)]
        names += [
            bin_name(score, kind, number)
            for score in SCORES
            for kind in ("right", "wrong")
            for number in range(BINS)
        ]
        for part in EVALUATED_PARTS:
            for organ in protocol.organ_names:
                for score in ("dsc", "asd_mm"):
                    prefix = f"{part}/{score}/{organ}"
                    names += [
                        f"{prefix}/{item}"
                        for item in ("sum", "sum_of_squares", "count", "failures")
                    ]
        return frozenset(names)
    raise ValueError(f"no message of kind {kind!r}")


def refused_name(rule: Rule) -> str:
    """Count of the cases that break this rule."""
    return f"refused/{rule}/count"


def annotated_name(organ: str) -> str:
    """Count of the labelled cases in which this organ is drawn."""
    return f"annotated/{organ}/count"


def bin_name(score: str, kind: str, number: int) -> str:
    """Count of right or wrong voxels in one bin of a score."""
    return f"reliability/{score}/{kind}/{number:02d}/count"


def metric_record(
    values: Mapping[str, float | int], kind: str, protocol: StudyProtocol
) -> MetricRecord:
    """One record of exactly the numbers on the allow-list.

    Raises:
        MessageError: A number is not on the list, or not finite.
    """
    allowed = allowed_metrics(kind, protocol)
    # Absent terms go as zero of zero: every site sends the same names.
    complete = {name: values.get(name, 0.0) for name in sorted(allowed)}
    surplus = sorted(set(values) - allowed)
    if surplus:
        raise MessageError(f"{kind} reply: {surplus[0]!r} is not on the allow-list; do not send it")
    bad = [name for name, value in complete.items() if not math.isfinite(value)]
    if bad:
        raise MessageError(f"{kind} reply: {bad[0]} is {complete[bad[0]]}, must be finite")
    return MetricRecord({name: float(value) for name, value in complete.items()})


def read_metrics(content: RecordDict, kind: str, protocol: StudyProtocol) -> dict[str, float]:
    """The numbers of a reply.

    Raises:
        MessageError: They are not exactly those on the allow-list, or one is not as it must be.
    """
    record = content.get(METRICS)
    if not isinstance(record, MetricRecord):
        raise MessageError(f"{kind} reply: has no record {METRICS!r}")
    allowed = allowed_metrics(kind, protocol)
    if set(record) != allowed:
        difference = names_differ(set(record), allowed)
        raise MessageError(f"{kind} reply: metrics differ from the allow-list: {difference}")
    values: dict[str, float] = {}
    for name, value in record.items():
        if not isinstance(value, float | int) or not math.isfinite(value):
            raise MessageError(f"{kind} reply: {name} must be one finite number")
        if name.endswith(_NEVER_NEGATIVE) and (value < 0 or value != int(value)):
            raise MessageError(f"{kind} reply: {name} is {value}, must be a whole number from 0")
        values[name] = float(value)
    return values


def pair(name: str, total: SumCount) -> dict[str, float]:
    """A sum and its count, as two numbers."""
    return {f"{name}/sum": total.sum, f"{name}/count": total.count}


def read_pair(values: Mapping[str, float], name: str) -> SumCount:
    """The sum and its count back."""
    return SumCount(sum=values[f"{name}/sum"], count=values[f"{name}/count"])
