"""What crosses the wire, and nothing else does.

Weights travel as protocol/wire/weights.py says; protocol and plan as JSON in a ConfigRecord;
what a site measured as the numbers of one MetricRecord.  `allowed_metrics` is the allow-list of
those numbers: packing and unpacking both hold to it exactly.  Scores travel as sums and counts.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypedDict

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)

from asdnet_models.reliability import BINS, SCORES, Reliability, TrustScore
from asdnet_models.sums import ScoreSum, SumCount
from protocol.config.rules import RULES, Rule
from protocol.config.schedule import RoundPlan
from protocol.config.site import SITE_NAME
from protocol.config.study import StudyProtocol
from protocol.wire.compression import Shapes, pack_global, read_shapes, shapes_text, short_names
from protocol.wire.weights import MessageError, Weights, count_tensors, names_differ, pack_weights

SEGMENTER, CONFIDENCE = "segmenter", "confidence"
_METRICS, _STUDY, _SITE = "metrics", "study", "site"
_SHORT = short_names()
_RECORDS = (SEGMENTER, CONFIDENCE, _METRICS, _STUDY, _SITE)

LOSSES = (
    "total",
    "dice",
    "adversarial",
    "region",
    "pseudo",
    "embedding",
    "confidence",
    "confidence_on_real",
    "confidence_on_fake",
    "confidence_on_right",
    "confidence_on_wrong",
)
EVALUATED_PARTS = ("validation", "test")
_BOX = ("x0", "y0", "z0", "x1", "y1", "z1")
_COUNTS = ("labelled", "unlabelled", "validation", "test", "excluded")
# Endings of the names that count something.
_NEVER_NEGATIVE = ("count", "failures", "steps", *_COUNTS)

_ROUND = re.compile(r"[0-9]{1,9}")
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """What a site declares before round 1: counts of cases, and the sum of its organ boxes.

    Attributes:
        labelled, unlabelled, validation, test: Cases that are used, by part.
        excluded: Cases that the site's file leaves out.
        refused: Cases that are not used, by the rule that they break.
        box: Sum and count of each edge, fractions of the scan.
        annotated: Labelled training cases in which each organ is drawn; {}: all organs in all.
    """

    labelled: int
    unlabelled: int
    validation: int
    test: int
    excluded: int = 0
    refused: Mapping[Rule, int] = field(default_factory=dict)
    box: tuple[SumCount, ...] = (SumCount(),) * 6
    annotated: Mapping[str, int] = field(default_factory=dict)

    @property
    def drawn(self) -> float:
        """What the labelled cases weigh: the mean over the organs of the cases that have each."""
        return fmean(self.annotated.values()) if self.annotated else float(self.labelled)


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
        """Trusted share of `trusted_organs`; None where Eq. 6 did not run, or S saw no organ."""
        return self.trusted_organs.mean

    @property
    def trusted_organs(self) -> SumCount:
        """Trusted among the unlabelled voxels that S took for an organ.

        Background, nearly all of a patch and nearly all right, would hide what happens.
        """
        organs = (total for name, total in self.trusted.items() if name != "background")
        return sum(organs, SumCount())


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Scores of one site by part ("validation", "test") and organ.

    `reliability` is of the validation cases, by score ("confidence", "softmax").
    """

    seconds: float
    cases: Mapping[str, int]
    dsc: Mapping[str, Mapping[str, ScoreSum]]
    asd_mm: Mapping[str, Mapping[str, ScoreSum]]
    reliability: Mapping[TrustScore, Reliability] = field(default_factory=dict)


def allowed_metrics(kind: str, protocol: StudyProtocol) -> frozenset[str]:
    """The complete list of the numbers that may leave a site, by kind of message."""
    if kind == "facts":
        box = [f"box/{edge}/{part}" for edge in _BOX for part in ("sum", "count")]
        refused = [_refused(rule) for rule in RULES]
        drawn = [_drawn(organ) for organ in protocol.organ_names]
        return frozenset([*_COUNTS, *refused, *box, *drawn])
    if kind == "train":
        pairs = [f"loss/{name}" for name in LOSSES] + ["attention"]
        pairs += [f"trusted/{name}" for name in ("background", *protocol.organ_names)]
        sums = [f"{name}/{part}" for name in pairs for part in ("sum", "count")]
        return frozenset(["labelled", "unlabelled", "steps", "seconds", *sums])
    if kind == "evaluate":
        names = ["seconds", *(f"cases/{part}" for part in EVALUATED_PARTS)]
        names += [
            _bin(score, kind, number)
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


def _refused(rule: Rule) -> str:
    return f"refused/{rule}/count"


def _drawn(organ: str) -> str:
    return f"annotated/{organ}/count"


def _bin(score: str, kind: str, number: int) -> str:
    return f"reliability/{score}/{kind}/{number:02d}/count"


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


class Description(TypedDict):
    """A message as the audit log names it."""

    what: str
    round: int
    sha256: str
    bytes: int
    items: dict[str, int]


def describe(message: Message) -> Description:
    """Kind, round, size, parts and SHA-256 of a message's content: equal at both ends.

    The digest is taken over records, names and values in sorted order.
    """
    kind = message.metadata.message_type
    kind = "facts" if kind == MessageType.QUERY else kind
    is_reply = bool(message.metadata.reply_to_message_id)
    group = message.metadata.group_id
    whole = hashlib.sha256()
    size = 0
    items: dict[str, int] = {}
    content = message.content if message.has_content() else RecordDict()
    for key in sorted(content):
        record = content[key]
        # What is not ours to name could be any text.
        name = key if key in _RECORDS else "unknown"
        if isinstance(record, ArrayRecord):
            lines = [
                f"{item} {array.dtype} {array.shape} {hashlib.sha256(array.data).hexdigest()}"
                for item, array in sorted(record.items())
            ]
            weight = sum(len(array.data) for array in record.values())
            # Only a file of the plain kind says how many there are.
            if not _SHORT & record.keys():
                items[f"{name} tensors"] = count_tensors(record)
            items[f"{name} bytes"] = weight
        else:
            lines = [json.dumps(dict(record), sort_keys=True, default=repr)]
            weight = len(lines[0])
            items[f"{name} values"] = len(record)
        whole.update("\n".join([key, *lines, ""]).encode())
        size += weight
    return Description(
        what=f"{kind} {'reply' if is_reply else 'instruction'}"
        if message.has_content()
        else f"{kind} error reply",
        round=int(group) if _ROUND.fullmatch(group) else 0,
        sha256=whole.hexdigest() if message.has_content() else "",
        bytes=size,
        items=items,
    )


# ---- server to site ---------------------------------------------------------------------------


def pack_instruction(
    protocol: StudyProtocol,
    plan: RoundPlan | None = None,
    segmenter: Weights | None = None,
    confidence: Weights | None = None,
    *,
    run: str,
) -> RecordDict:
    """What the server sends: the protocol whole, the plan of the round, the weights.

    Args:
        protocol: The study's agreement.
        plan: The round's schedule, for training.
        segmenter: Global weights of S.
        confidence: Global weights of D.
        run: The run's unique name: a site keeps its optimiser states and its log by it.
    """
    study = ConfigRecord({"protocol": protocol.canonical_json(), "run": run})
    if plan is not None:
        study["plan"] = plan.model_dump_json()
    content = RecordDict({_STUDY: study})
    networks = {SEGMENTER: segmenter, CONFIDENCE: confidence}
    sent = {name: weights for name, weights in networks.items() if weights is not None}
    for name, weights in sent.items():
        content[name] = pack_global(weights, protocol.wire)
    if sent and not protocol.wire.plain:
        study["weights"] = shapes_text(sent)
    return content


def read_protocol(content: RecordDict) -> StudyProtocol:
    """The protocol of an instruction."""
    return StudyProtocol.model_validate_json(_study_text(content, "protocol"))


def read_plan(content: RecordDict) -> RoundPlan:
    """The plan of an instruction."""
    return RoundPlan.model_validate_json(_study_text(content, "plan"))


def sent_shapes(content: RecordDict) -> dict[str, Shapes]:
    """Names and shapes of what an instruction carries, by network; where `wire` is not plain.

    Raises:
        MessageError: If it does not say them.
    """
    return read_shapes(_study_text(content, "weights"))


def read_run(content: RecordDict) -> str:
    """The name of the run that an instruction belongs to.

    Raises:
        MessageError: If it has none, or one that could not name a folder.
    """
    run = _study_text(content, "run")
    if not RUN_NAME.fullmatch(run):
        raise MessageError(f"instruction: run name {run[:80]!r} must match {RUN_NAME.pattern}")
    return run


def _study_text(content: RecordDict, key: str) -> str:
    record = content.get(_STUDY)
    text = record.get(key) if isinstance(record, ConfigRecord) else None
    if not isinstance(text, str):
        raise MessageError(f"instruction: record {_STUDY!r} has no {key!r}")
    return text


# ---- site to server ---------------------------------------------------------------------------


def _reply(site: str, metrics: MetricRecord) -> RecordDict:
    return RecordDict({_SITE: ConfigRecord({"name": site}), _METRICS: metrics})


def read_site_name(content: RecordDict) -> str:
    """Which site says that it answers.

    Raises:
        MessageError: If it does not say so, or says anything else beside it.
    """
    record = content.get(_SITE)
    name = record.get("name") if isinstance(record, ConfigRecord) else None
    if not isinstance(name, str) or not SITE_NAME.fullmatch(name):
        raise MessageError(f"reply: record {_SITE!r} has no name that a site can have")
    if isinstance(record, ConfigRecord) and len(record) > 1:
        raise MessageError(f"reply: record {_SITE!r} holds more than the name")
    return name


def _refuse_surplus(content: RecordDict, *names: str) -> None:
    surplus = set(content) - {_SITE, _METRICS, *names}
    if surplus:
        raise MessageError(f"reply: {len(surplus)} records are not on the allow-list")


def pack_facts(site: str, facts: SiteFacts, protocol: StudyProtocol) -> RecordDict:
    """A site's declaration."""
    return _reply(site, _metric_record(_facts_values(facts, protocol), "facts", protocol))


def facts_metrics(facts: SiteFacts, protocol: StudyProtocol) -> dict[str, float]:
    """The numbers of a declaration, exactly as they would travel."""
    record = _metric_record(_facts_values(facts, protocol), "facts", protocol)
    return {name: float(value) for name, value in record.items() if isinstance(value, float)}


def _facts_values(facts: SiteFacts, protocol: StudyProtocol) -> dict[str, float]:
    values: dict[str, float] = {name: getattr(facts, name) for name in _COUNTS}
    values |= {_refused(rule): count for rule, count in facts.refused.items()}
    for edge, total in zip(_BOX, facts.box, strict=True):
        values |= _pair(f"box/{edge}", total)
    annotated = dict.fromkeys(protocol.organ_names, facts.labelled) | dict(facts.annotated)
    return values | {_drawn(organ): count for organ, count in annotated.items()}


def read_facts(content: RecordDict, protocol: StudyProtocol) -> SiteFacts:
    """The declaration back.

    Raises:
        MessageError: If a number is not as agreed, or an organ is drawn in more cases than there
            are.
    """
    _refuse_surplus(content)
    values = _read_metrics(content, "facts", protocol)
    counts = {name: int(values[name]) for name in _COUNTS}
    annotated = {organ: int(values[_drawn(organ)]) for organ in protocol.organ_names}
    for organ, count in annotated.items():
        if count > counts["labelled"]:
            raise MessageError(
                f"facts reply: {_drawn(organ)} is {count}, of {counts['labelled']} labelled cases"
            )
    refused = {rule: int(values[_refused(rule)]) for rule in RULES if values[_refused(rule)]}
    box = tuple(_read_pair(values, f"box/{edge}") for edge in _BOX)
    return SiteFacts(**counts, refused=refused, box=box, annotated=annotated)


def pack_training(
    site: str,
    report: TrainReport,
    protocol: StudyProtocol,
    segmenter: Weights | ArrayRecord,
    confidence: Weights | ArrayRecord | None,
) -> RecordDict:
    """A site's update and the numbers of its round.

    The networks are whole weights, or records as `protocol.wire.compression` makes them.
    """
    values: dict[str, float] = {
        name: getattr(report, name) for name in ("labelled", "unlabelled", "steps", "seconds")
    }
    for name, total in report.losses.items():
        values |= _pair(f"loss/{name}", total)
    for name, total in report.trusted.items():
        values |= _pair(f"trusted/{name}", total)
    values |= _pair("attention", report.attention)
    content = _reply(site, _metric_record(values, "train", protocol))
    for name, update in ((SEGMENTER, segmenter), (CONFIDENCE, confidence)):
        if update is not None:
            content[name] = update if isinstance(update, ArrayRecord) else pack_weights(update)
    return content


def read_training(content: RecordDict, protocol: StudyProtocol) -> TrainReport:
    """The numbers of a round back; the weights are read by `read_weights`."""
    _refuse_surplus(content, SEGMENTER, CONFIDENCE)
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
    for score, counts in report.reliability.items():
        for kind, numbers in (("right", counts.right), ("wrong", counts.wrong)):
            values |= {_bin(score, kind, i): number for i, number in enumerate(numbers)}
    return _reply(site, _metric_record(values, "evaluate", protocol))


def read_evaluation(content: RecordDict, protocol: StudyProtocol) -> EvaluationReport:
    """The scores back."""
    _refuse_surplus(content)
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
        reliability={
            score: Reliability(
                right=tuple(int(values[_bin(score, "right", i)]) for i in range(BINS)),
                wrong=tuple(int(values[_bin(score, "wrong", i)]) for i in range(BINS)),
            )
            for score in SCORES
        },
    )


def _pair(name: str, total: SumCount) -> dict[str, float]:
    return {f"{name}/sum": total.sum, f"{name}/count": total.count}


def _read_pair(values: Mapping[str, float], name: str) -> SumCount:
    return SumCount(sum=values[f"{name}/sum"], count=values[f"{name}/count"])
