"""What crosses the wire, and nothing else does.

Weights travel as ArrayRecords of floating tensors; protocol and plan as JSON in a ConfigRecord;
what a site measured as the numbers of one MetricRecord.  `allowed_metrics` is the allow-list of
those numbers: packing and unpacking both hold to it exactly.  Scores travel as sums and counts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from protocol.schedule import RoundPlan
from protocol.study import StudyProtocol
from protocol.sums import ScoreSum, SumCount

SEGMENTER, CONFIDENCE = "segmenter", "confidence"
_METRICS, _STUDY, _SITE = "metrics", "study", "site"

LOSSES = (
    "total",
    "dice",
    "adversarial",
    "region",
    "confidence",
    "confidence_on_real",
    "confidence_on_fake",
)
EVALUATED_PARTS = ("validation", "test")
_BOX = ("x0", "y0", "z0", "x1", "y1", "z1")
# Endings of the names that count something.
_NEVER_NEGATIVE = ("count", "failures", "labelled", "unlabelled", "validation", "test", "steps")
_COUNTS = ("labelled", "unlabelled", "validation", "test")

Weights = dict[str, Tensor]


class MessageError(ValueError):
    """A message that is not of the agreed form."""


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """What a site declares before round 1: counts of cases, and the sum of its organ boxes."""

    labelled: int
    unlabelled: int
    validation: int
    test: int
    box: tuple[SumCount, ...] = (SumCount(),) * 6


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What one site measured in one round of training."""

    labelled: int
    unlabelled: int
    steps: int
    seconds: float
    losses: Mapping[str, SumCount] = field(default_factory=dict)
    attention: SumCount = field(default_factory=SumCount)
    trusted: Mapping[str, SumCount] = field(default_factory=dict)

    @property
    def trusted_fraction(self) -> float | None:
        """Trusted voxels of all unlabelled voxels seen; None where Eq. 6 did not run."""
        return sum(self.trusted.values(), SumCount()).mean


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Scores of one site by part ("validation", "test") and organ."""

    seconds: float
    cases: Mapping[str, int]
    dsc: Mapping[str, Mapping[str, ScoreSum]]
    asd_mm: Mapping[str, Mapping[str, ScoreSum]]


def allowed_metrics(kind: str, protocol: StudyProtocol) -> frozenset[str]:
    """The complete list of the numbers that may leave a site, by kind of message."""
    if kind == "facts":
        box = [f"box/{edge}/{part}" for edge in _BOX for part in ("sum", "count")]
        return frozenset([*_COUNTS, *box])
    if kind == "train":
        pairs = [f"loss/{name}" for name in LOSSES] + ["attention"]
        pairs += [f"trusted/{name}" for name in ("background", *protocol.organ_names)]
        sums = [f"{name}/{part}" for name in pairs for part in ("sum", "count")]
        return frozenset(["labelled", "unlabelled", "steps", "seconds", *sums])
    if kind == "evaluate":
        names = ["seconds", *(f"cases/{part}" for part in EVALUATED_PARTS)]
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


def _metric_record(
    values: Mapping[str, float | int], kind: str, protocol: StudyProtocol
) -> MetricRecord:
    allowed = allowed_metrics(kind, protocol)
    # Absent terms go as nought of nothing: every site sends the same names.
    complete = {name: values.get(name, 0.0) for name in sorted(allowed)}
    surplus = sorted(set(values) - allowed)
    if surplus:
        raise MessageError(f"{kind} reply: {surplus[0]!r} is not on the allow-list; do not send it")
    bad = [name for name, value in complete.items() if not math.isfinite(value)]
    if bad:
        raise MessageError(f"{kind} reply: {bad[0]} is {complete[bad[0]]}, must be finite")
    return MetricRecord({name: float(value) for name, value in complete.items()})


def _read_metrics(content: RecordDict, kind: str, protocol: StudyProtocol) -> dict[str, float]:
    record = content.get(_METRICS)
    if not isinstance(record, MetricRecord):
        raise MessageError(f"{kind} reply: has no record {_METRICS!r}")
    allowed = allowed_metrics(kind, protocol)
    if set(record) != allowed:
        odd = sorted(set(record) ^ allowed)
        raise MessageError(f"{kind} reply: metrics differ from the allow-list, first at {odd[0]!r}")
    values: dict[str, float] = {}
    for name, value in record.items():
        if not isinstance(value, float | int) or not math.isfinite(value):
            raise MessageError(f"{kind} reply: {name} must be one finite number")
        if name.endswith(_NEVER_NEGATIVE) and (value < 0 or value != int(value)):
            raise MessageError(f"{kind} reply: {name} is {value}, must be a whole number from 0")
        values[name] = float(value)
    return values


# ---- weights ----------------------------------------------------------------------------------


def wire_weights(state: Mapping[str, Tensor]) -> Weights:
    """The floating tensors of a state dict; counters such as num_batches_tracked stay home."""
    return {
        name: tensor.detach().cpu().float().contiguous()
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }


def _pack_weights(weights: Weights) -> ArrayRecord:
    return ArrayRecord(array_dict={name: Array(w.numpy()) for name, w in weights.items()})


def _unpack_weights(record: ArrayRecord, like: Weights, what: str) -> Weights:
    """Weights with exactly the names, shapes and dtype of `like`, all finite.

    Raises:
        MessageError: On the first difference.
    """
    if set(record) != set(like):
        odd = sorted(set(record) ^ set(like))
        raise MessageError(f"{what}: tensor names differ, first at {odd[0]!r}")
    weights: Weights = {}
    for name, expected in like.items():
        try:
            values = record[name].numpy()
        except Exception as error:
            # What a site sends is bytes; NumPy may refuse them in any way.
            raise MessageError(f"{what}: {name} cannot be decoded") from error
        # Of the decoded array: what the record declares of itself proves nothing.
        if values.shape != tuple(expected.shape) or values.dtype != np.float32:
            raise MessageError(
                f"{what}: {name} is {values.dtype} {values.shape}, "
                f"must be float32 {tuple(expected.shape)}"
            )
        if not np.isfinite(values).all():
            raise MessageError(f"{what}: {name} holds NaN or infinity")
        weights[name] = torch.from_numpy(values.copy())
    return weights


def bytes_of(weights: Mapping[str, Tensor] | None) -> int:
    """Payload of these weights, bytes."""
    return sum(w.numel() * w.element_size() for w in weights.values()) if weights else 0


# ---- server to site ---------------------------------------------------------------------------


def pack_instruction(
    protocol: StudyProtocol,
    plan: RoundPlan | None = None,
    segmenter: Weights | None = None,
    confidence: Weights | None = None,
) -> RecordDict:
    """What the server sends: the protocol whole, the plan of the round, the weights."""
    study = ConfigRecord({"protocol": protocol.canonical_json()})
    if plan is not None:
        study["plan"] = plan.model_dump_json()
    content = RecordDict({_STUDY: study})
    if segmenter is not None:
        content[SEGMENTER] = _pack_weights(segmenter)
    if confidence is not None:
        content[CONFIDENCE] = _pack_weights(confidence)
    return content


def read_protocol(content: RecordDict) -> StudyProtocol:
    """The protocol of an instruction."""
    return StudyProtocol.model_validate_json(_study_text(content, "protocol"))


def read_plan(content: RecordDict) -> RoundPlan:
    """The plan of an instruction."""
    return RoundPlan.model_validate_json(_study_text(content, "plan"))


def _study_text(content: RecordDict, key: str) -> str:
    record = content.get(_STUDY)
    text = record.get(key) if isinstance(record, ConfigRecord) else None
    if not isinstance(text, str):
        raise MessageError(f"instruction: record {_STUDY!r} has no {key!r}")
    return text


def read_weights(content: RecordDict, name: str, like: Mapping[str, Tensor]) -> Weights | None:
    """The weights of that name, checked against `like`; None where they were not sent."""
    record = content.get(name)
    if record is None:
        return None
    if not isinstance(record, ArrayRecord):
        raise MessageError(f"{name}: must be an ArrayRecord, not {type(record).__name__}")
    return _unpack_weights(record, wire_weights(like), name)


# ---- site to server ---------------------------------------------------------------------------


def _reply(site: str, metrics: MetricRecord) -> RecordDict:
    return RecordDict({_SITE: ConfigRecord({"name": site}), _METRICS: metrics})


def read_site_name(content: RecordDict) -> str:
    """Which site says that it answers."""
    record = content.get(_SITE)
    name = record.get("name") if isinstance(record, ConfigRecord) else None
    if not isinstance(name, str) or not name:
        raise MessageError(f"reply: record {_SITE!r} has no name")
    return name


def pack_facts(site: str, facts: SiteFacts, protocol: StudyProtocol) -> RecordDict:
    """A site's declaration."""
    values: dict[str, float] = {name: getattr(facts, name) for name in _COUNTS}
    for edge, total in zip(_BOX, facts.box, strict=True):
        values |= _pair(f"box/{edge}", total)
    return _reply(site, _metric_record(values, "facts", protocol))


def read_facts(content: RecordDict, protocol: StudyProtocol) -> SiteFacts:
    """The declaration back."""
    values = _read_metrics(content, "facts", protocol)
    counts = {name: int(values[name]) for name in _COUNTS}
    return SiteFacts(**counts, box=tuple(_read_pair(values, f"box/{edge}") for edge in _BOX))


def pack_training(
    site: str,
    report: TrainReport,
    protocol: StudyProtocol,
    segmenter: Weights,
    confidence: Weights | None,
) -> RecordDict:
    """A site's update and the numbers of its round."""
    values: dict[str, float] = {
        name: getattr(report, name) for name in ("labelled", "unlabelled", "steps", "seconds")
    }
    for name, total in report.losses.items():
        values |= _pair(f"loss/{name}", total)
    for name, total in report.trusted.items():
        values |= _pair(f"trusted/{name}", total)
    values |= _pair("attention", report.attention)
    content = _reply(site, _metric_record(values, "train", protocol))
    content[SEGMENTER] = _pack_weights(segmenter)
    if confidence is not None:
        content[CONFIDENCE] = _pack_weights(confidence)
    return content


def read_training(content: RecordDict, protocol: StudyProtocol) -> TrainReport:
    """The numbers of a round back; the weights are read by `read_weights`."""
    values = _read_metrics(content, "train", protocol)
    names = ("background", *protocol.organ_names)
    return TrainReport(
        labelled=int(values["labelled"]),
        unlabelled=int(values["unlabelled"]),
        steps=int(values["steps"]),
        seconds=values["seconds"],
        losses={name: _read_pair(values, f"loss/{name}") for name in LOSSES},
        attention=_read_pair(values, "attention"),
        trusted={name: _read_pair(values, f"trusted/{name}") for name in names},
    )


def pack_evaluation(site: str, report: EvaluationReport, protocol: StudyProtocol) -> RecordDict:
    """A site's scores as sums."""
    values: dict[str, float] = {"seconds": report.seconds}
    for part in report.cases:
        values[f"cases/{part}"] = report.cases[part]
        for score, table in (("dsc", report.dsc[part]), ("asd_mm", report.asd_mm[part])):
            for organ, total in table.items():
                prefix = f"{part}/{score}/{organ}"
                values |= {f"{prefix}/{key}": value for key, value in vars(total).items()}
    return _reply(site, _metric_record(values, "evaluate", protocol))


def read_evaluation(content: RecordDict, protocol: StudyProtocol) -> EvaluationReport:
    """The scores back."""
    values = _read_metrics(content, "evaluate", protocol)

    def table(part: str, score: str) -> dict[str, ScoreSum]:
        return {
            organ: ScoreSum(
                sum=values[f"{part}/{score}/{organ}/sum"],
                sum_of_squares=values[f"{part}/{score}/{organ}/sum_of_squares"],
                count=int(values[f"{part}/{score}/{organ}/count"]),
                failures=int(values[f"{part}/{score}/{organ}/failures"]),
            )
            for organ in protocol.organ_names
        }

    return EvaluationReport(
        seconds=values["seconds"],
        cases={part: int(values[f"cases/{part}"]) for part in EVALUATED_PARTS},
        dsc={part: table(part, "dsc") for part in EVALUATED_PARTS},
        asd_mm={part: table(part, "asd_mm") for part in EVALUATED_PARTS},
    )


def _pair(name: str, total: SumCount) -> dict[str, float]:
    return {f"{name}/sum": total.sum, f"{name}/count": total.count}


def _read_pair(values: Mapping[str, float], name: str) -> SumCount:
    return SumCount(sum=values[f"{name}/sum"], count=values[f"{name}/count"])
