"""Packs and unpacks the messages between centre and sites.

Weights are packed by protocol/wire/weights.py; protocol and plan as JSON in a ConfigRecord;
what a site measured as the numbers of one MetricRecord.  The allow-list of those numbers is in
protocol/wire/metrics.py: packing and unpacking both hold to it exactly.  Scores travel as sums and
counts.
"""

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from asdnet_models.sums import FAILURE_KINDS, FailureCount, OrganSums
from protocol.agreement.manifest import Asks, SignedManifest
from protocol.config.rules import RULES
from protocol.config.schedule import RoundPlan
from protocol.config.site import SITE_NAME
from protocol.config.study import RUN_NAME, StudyProtocol
from protocol.wire.compression import Shapes, pack_global, read_shapes, shapes_text
from protocol.wire.consistency import consistent_evaluation, consistent_facts, consistent_training
from protocol.wire.metrics import (
    BOX,
    COUNTS,
    HIGHEST,
    METRICS,
    annotated_name,
    metric_record,
    pair,
    read_metrics,
    read_pair,
    read_score_sum,
    refused_name,
)
from protocol.wire.reports import (
    EVALUATED_PARTS,
    LOSSES,
    EvaluationReport,
    SiteFacts,
    TrainReport,
)
from protocol.wire.trust import (
    expected_values,
    read_expected,
    read_reliability,
    reliability_values,
)
from protocol.wire.weights import MessageError, Weights, pack_weights

SEGMENTER, CONFIDENCE = "segmenter", "confidence"
STUDY, SITE = "study", "site"
ASK = "ask"  # of the study's record, where it is not what sites declare


# ---- server to site ---------------------------------------------------------------------------


def pack_instruction(
    protocol: StudyProtocol,
    plan: RoundPlan | None = None,
    segmenter: Weights | None = None,
    confidence: Weights | None = None,
    *,
    run: str,
    agreement: SignedManifest | None = None,
    scored_round: int | None = None,
    ask: Asks = "training",
) -> RecordDict:
    """What the server sends: the protocol whole, the plan of the round, the weights.

    Args:
        protocol: The study's agreement.
        plan: The round's schedule, for training.
        segmenter: Global weights of S.
        confidence: Global weights of D.
        run: The run's unique name: a site keeps its optimiser states and its log by it.
        agreement: What the centre has signed; None in a simulation.
        scored_round: For an evaluation: the round after which it is.
        ask: "fingerprint": what a study could be planned from, instead of what sites declare.
    """
    study = ConfigRecord({"protocol": protocol.canonical_json(), "run": run})
    if agreement is not None:
        study["manifest"], study["manifest_signature"] = agreement.text, agreement.signature
    if ask != "training":
        study[ASK] = ask
    if plan is not None:
        study["plan"] = plan.model_dump_json()
    if scored_round is not None:
        study["round"] = scored_round
    content = RecordDict({STUDY: study})
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
    record = content.get(STUDY)
    text = record.get(key) if isinstance(record, ConfigRecord) else None
    if not isinstance(text, str):
        raise MessageError(f"instruction: record {STUDY!r} has no {key!r}")
    return text


# ---- site to server ---------------------------------------------------------------------------


def _reply(site: str, metrics: MetricRecord) -> RecordDict:
    return RecordDict({SITE: ConfigRecord({"name": site}), METRICS: metrics})


def read_site_name(content: RecordDict) -> str:
    """The name of the site that answers.

    Raises:
        MessageError: If it has no name, or anything else with it.
    """
    record = content.get(SITE)
    name = record.get("name") if isinstance(record, ConfigRecord) else None
    if not isinstance(name, str) or not SITE_NAME.fullmatch(name):
        raise MessageError(f"reply: record {SITE!r} has no name that a site can have")
    if isinstance(record, ConfigRecord) and len(record) > 1:
        raise MessageError(f"reply: record {SITE!r} holds more than the name")
    return name


def refuse_surplus(content: RecordDict, *names: str) -> None:
    """Raises MessageError for a record beside the site's name, its numbers and these."""
    surplus = set(content) - {SITE, METRICS, *names}
    if surplus:
        raise MessageError(f"reply: {len(surplus)} records are not on the allow-list")


def pack_facts(site: str, facts: SiteFacts, protocol: StudyProtocol) -> RecordDict:
    """A site's declaration."""
    return _reply(site, metric_record(_facts_values(facts, protocol), "facts", protocol))


def facts_metrics(facts: SiteFacts, protocol: StudyProtocol) -> dict[str, float]:
    """The numbers of a declaration, exactly as they would travel."""
    record = metric_record(_facts_values(facts, protocol), "facts", protocol)
    return {name: float(value) for name, value in record.items() if isinstance(value, float)}


def _facts_values(facts: SiteFacts, protocol: StudyProtocol) -> dict[str, float]:
    values: dict[str, float] = {name: getattr(facts, name) for name in COUNTS}
    values |= {refused_name(rule): count for rule, count in facts.refused.items()}
    for edge, total in zip(BOX, facts.box, strict=True):
        values |= pair(f"box/{edge}", total)
    annotated = dict.fromkeys(protocol.organ_names, facts.labelled) | dict(facts.annotated)
    return values | {annotated_name(organ): count for organ, count in annotated.items()}


def read_facts(content: RecordDict, protocol: StudyProtocol) -> SiteFacts:
    """The declaration back.

    Raises:
        MessageError: If a number is not as agreed, or does not fit the others.
    """
    refuse_surplus(content)
    values = read_metrics(content, "facts", protocol)
    counts = {name: int(values[name]) for name in COUNTS}
    annotated = {organ: int(values[annotated_name(organ)]) for organ in protocol.organ_names}
    refused = {
        rule: int(values[refused_name(rule)]) for rule in RULES if values[refused_name(rule)]
    }
    box = tuple(read_pair(values, f"box/{edge}") for edge in BOX)
    return consistent_facts(SiteFacts(**counts, refused=refused, box=box, annotated=annotated))


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
        values |= pair(f"loss/{name}", total)
    for name, total in report.trusted.items():
        values |= pair(f"trusted/{name}", total)
    values |= pair("attention", report.attention) | pair("twin", report.twin)
    content = _reply(site, metric_record(values, "train", protocol))
    for name, update in ((SEGMENTER, segmenter), (CONFIDENCE, confidence)):
        if update is not None:
            content[name] = update if isinstance(update, ArrayRecord) else pack_weights(update)
    return content


def read_training(content: RecordDict, protocol: StudyProtocol) -> TrainReport:
    """The numbers of a round back; the weights are read by `read_weights`.

    Raises:
        MessageError: If a number is not as agreed, or does not fit the others.
    """
    refuse_surplus(content, SEGMENTER, CONFIDENCE)
    values = read_metrics(content, "train", protocol)
    names = ("background", *protocol.organ_names)
    report = TrainReport(
        labelled=int(values["labelled"]),
        unlabelled=int(values["unlabelled"]),
        steps=int(values["steps"]),
        seconds=values["seconds"],
        losses={name: read_pair(values, f"loss/{name}") for name in LOSSES},
        attention=read_pair(values, "attention"),
        twin=read_pair(values, "twin"),
        trusted={name: read_pair(values, f"trusted/{name}") for name in names},
    )
    return consistent_training(report, protocol)


def pack_evaluation(site: str, report: EvaluationReport, protocol: StudyProtocol) -> RecordDict:
    """A site's scores as sums."""
    values: dict[str, float] = {"seconds": report.seconds}
    for part in report.cases:
        values[f"cases/{part}"] = report.cases[part]
        for organ, sums in report.scores[part].items():
            for score, total in vars(sums).items():
                prefix = f"{part}/{score}/{organ}"
                values |= {f"{prefix}/{key}": value for key, value in vars(total).items()}
    values |= reliability_values(report.reliability) | expected_values(report.expected)
    return _reply(site, metric_record(values, "evaluate", protocol))


def read_evaluation(content: RecordDict, protocol: StudyProtocol) -> EvaluationReport:
    """The scores back.

    Raises:
        MessageError: If a number is not as agreed, or does not fit the others.
    """
    refuse_surplus(content)
    values = read_metrics(content, "evaluate", protocol)

    def sums(part: str, organ: str) -> OrganSums:
        kinds = ("cases", *FAILURE_KINDS)
        failures = {kind: int(values[f"{part}/failures/{organ}/{kind}"]) for kind in kinds}
        return OrganSums(
            **{score: read_score_sum(values, f"{part}/{score}/{organ}") for score in HIGHEST},
            failures=FailureCount(**failures),
        )

    report = EvaluationReport(
        seconds=values["seconds"],
        cases={part: int(values[f"cases/{part}"]) for part in EVALUATED_PARTS},
        scores={
            part: {organ: sums(part, organ) for organ in protocol.organ_names}
            for part in EVALUATED_PARTS
        },
        reliability=read_reliability(values),
        expected=read_expected(values, protocol.organ_names),
    )
    return consistent_evaluation(report)
