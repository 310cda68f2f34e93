"""The allow-list: every number that may leave a site, by its name on the wire."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from flwr.app import MetricRecord, RecordDict

from asdnet_models.reliability import BINS, SCORES
from asdnet_models.sums import FAILURE_KINDS, ScoreSum, SumCount
from protocol.config.rules import RULES, Rule
from protocol.config.study import StudyProtocol
from protocol.planning.fingerprint import (
    MAX_CASES,
    MAX_GIB,
    MAX_GIGAMACS,
    MAX_STEP_S,
    PARTS,
    no_fingerprint,
    share_names,
    spread_names,
)
from protocol.wire.reports import CASE_PARTS, EVALUATED_PARTS, EXPECTED_PARTS, LOSSES
from protocol.wire.weights import MessageError, names_differ

BOX = ("x0", "y0", "z0", "x1", "y1", "z1")
COUNTS = (*CASE_PARTS, "excluded")

METRICS = "metrics"  # the record

# What no site of a study has: voxels of one case on the study's grid.
MAX_VOXELS = 2**32
# A distance between two surfaces of one scan, mm: no patient is longer.
MAX_DISTANCE_MM = 3000.0
# What one case's score can be at most, by its name.
HIGHEST: Mapping[str, float] = {
    "dsc": 1.0,
    "asd_mm": MAX_DISTANCE_MM,
    "hd95_mm": MAX_DISTANCE_MM,
    "nsd": 1.0,
}
# A loss of one step; means of Dice losses, of an agreement or of a confidence are in [0, 1], and
# only the sum of a method's terms may be negative.
MAX_LOSS = 1e6
_IN_UNIT = (
    "dice",
    "region",
    "agreement",
    *(name for name in LOSSES if name.startswith("confidence_on_")),
)
# Sums of float32 round.
_ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class Range:
    """The values that one number may have."""

    high: float
    low: float = 0.0
    whole: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and (not self.whole or value == int(value))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"


def metric_ranges(kind: str, protocol: StudyProtocol) -> dict[str, Range]:
    """The allow-list of one kind of message: every number that may leave, and its range.

    What the numbers of one reply must be to each other is in `protocol/wire/consistency.py`.
    """
    tables = {"facts": _facts, "fingerprint": _fingerprint, "train": _training}
    table = {**tables, "evaluate": _evaluation}.get(kind)
    if table is None:
        raise ValueError(f"no message of kind {kind!r}")
    return table(protocol)


def allowed_metrics(kind: str, protocol: StudyProtocol) -> frozenset[str]:
    """The complete list of the numbers that may leave a site, by kind of message."""
    return frozenset(metric_ranges(kind, protocol))


def _facts(protocol: StudyProtocol) -> dict[str, Range]:
    cases = Range(high=MAX_CASES, whole=True)
    names = [*COUNTS, *map(refused_name, RULES), *map(annotated_name, protocol.organ_names)]
    ranges = dict.fromkeys(names, cases)
    for edge in BOX:
        ranges |= {f"box/{edge}/sum": Range(high=MAX_CASES), f"box/{edge}/count": cases}
    return ranges


def _fingerprint(protocol: StudyProtocol) -> dict[str, Range]:
    cases = Range(high=MAX_CASES, whole=True)
    ranges = {
        "labelled": cases,
        "unlabelled": cases,
        "step_seconds": Range(high=MAX_STEP_S),
        "step_gigamacs": Range(high=MAX_GIGAMACS),
        "memory_gib": Range(high=MAX_GIB),
    }
    named = no_fingerprint(protocol.organ_names)
    for name, _, most in named.spreads():
        of_cases, parts, *means = spread_names(name)
        ranges |= {of_cases: cases, parts: Range(high=PARTS[0], whole=True)}
        low = -most if name.startswith("intensity/") else 0.0
        ranges |= dict.fromkeys(means, Range(low=low, high=most))
    for name, _ in named.shares():
        ranges |= dict.fromkeys(share_names(name), cases)
    return ranges


def _training(protocol: StudyProtocol) -> dict[str, Range]:
    training = protocol.training
    steps, samples = training.local_steps, training.local_steps * training.batch_size
    cases = Range(high=MAX_CASES, whole=True)
    ranges = {
        "labelled": cases,
        "unlabelled": cases,
        "steps": Range(low=steps, high=steps, whole=True),
        "seconds": _seconds(protocol),
        "attention/sum": Range(high=samples),
        "attention/count": Range(high=samples, whole=True),
        "twin/sum": Range(low=-MAX_CASES, high=MAX_CASES),
        "twin/count": cases,
    }
    for name in LOSSES:
        low, high = loss_range(name)
        ranges[f"loss/{name}/sum"] = Range(low=steps * low, high=steps * high)
        ranges[f"loss/{name}/count"] = Range(high=steps, whole=True)
    voxels = Range(high=samples * math.prod(protocol.patch_voxels), whole=True)
    for name in ("background", *protocol.organ_names):
        ranges |= {f"trusted/{name}/{part}": voxels for part in ("sum", "count")}
    return ranges


def loss_range(name: str) -> tuple[float, float]:
    """What a loss of one step can be."""
    low = -MAX_LOSS if name == "total" else -_ROUNDING
    return low, 1 + _ROUNDING if name in _IN_UNIT else MAX_LOSS


def _evaluation(protocol: StudyProtocol) -> dict[str, Range]:
    cases = Range(high=MAX_CASES, whole=True)
    ranges = {"seconds": _seconds(protocol)}
    for part in EVALUATED_PARTS:
        ranges[f"cases/{part}"] = cases
        for organ in protocol.organ_names:
            ranges |= {
                f"{part}/failures/{organ}/{kind}": cases for kind in ("cases", *FAILURE_KINDS)
            }
            for score, highest in HIGHEST.items():
                prefix = f"{part}/{score}/{organ}"
                ranges |= {
                    f"{prefix}/sum": Range(high=MAX_CASES * highest),
                    f"{prefix}/sum_of_squares": Range(high=MAX_CASES * highest**2),
                    f"{prefix}/count": cases,
                }
    for score, part, organ in product(SCORES, EXPECTED_PARTS, protocol.organ_names):
        ranges[expected_name(score, part, organ, "count")] = cases
        sums = ("sum", "sum_of_squares", *(("products",) if part == "validation" else ()))
        for name in sums:
            ranges[expected_name(score, part, organ, name)] = Range(high=MAX_CASES)
    voxels = Range(high=MAX_CASES * MAX_VOXELS, whole=True)
    names = [bin_name(s, k, i) for s in SCORES for k in ("right", "wrong") for i in range(BINS)]
    return ranges | dict.fromkeys(names, voxels)


def _seconds(protocol: StudyProtocol) -> Range:
    """After the deadline no answer is taken; what came again after a crash took less than two."""
    return Range(high=max(2 * protocol.aggregation.round_timeout_s, 3600.0))


def refused_name(rule: Rule) -> str:
    """Count of the cases that break this rule."""
    return f"refused/{rule}/count"


def annotated_name(organ: str) -> str:
    """Count of the labelled cases in which this organ is drawn."""
    return f"annotated/{organ}/count"


def bin_name(score: str, kind: str, number: int) -> str:
    """Count of right or wrong voxels in one bin of a score."""
    return f"reliability/{score}/{kind}/{number:02d}/count"


def expected_name(score: str, part: str, organ: str, key: str) -> str:
    """Sum, sum of squares or count of expected DSC, or the sum of products with the true ones."""
    return f"expected/{score}/{part}/{organ}/{key}"


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
        MessageError: They are not exactly those on the allow-list, or one is not in its range.
    """
    record = content.get(METRICS)
    if not isinstance(record, MetricRecord):
        raise MessageError(f"{kind} reply: has no record {METRICS!r}")
    ranges = metric_ranges(kind, protocol)
    if set(record) != set(ranges):
        difference = names_differ(set(record), set(ranges))
        raise MessageError(f"{kind} reply: metrics differ from the allow-list: {difference}")
    values: dict[str, float] = {}
    for name, allowed in ranges.items():
        value = record[name]
        # A comparison, for `math.isfinite` dies of an integer that no float can hold.
        if not isinstance(value, float | int) or not abs(value) <= sys.float_info.max:
            raise MessageError(f"{kind} reply: {name} must be one finite number")
        if value not in allowed:
            raise MessageError(f"{kind} reply: {name} is {float(value):g}, must be {allowed}")
        values[name] = float(value)
    return values


def pair(name: str, total: SumCount) -> dict[str, float]:
    """A sum and its count, as two numbers."""
    return {f"{name}/sum": total.sum, f"{name}/count": total.count}


def read_pair(values: Mapping[str, float], name: str) -> SumCount:
    """The sum and its count back."""
    return SumCount(sum=values[f"{name}/sum"], count=values[f"{name}/count"])


def read_score_sum(values: Mapping[str, float], name: str) -> ScoreSum:
    """Sum, sum of squares and count back."""
    return ScoreSum(
        sum=values[f"{name}/sum"],
        sum_of_squares=values[f"{name}/sum_of_squares"],
        count=int(values[f"{name}/count"]),
    )
