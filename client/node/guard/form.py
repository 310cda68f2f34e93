"""The form of an instruction: its records and keys, and a plan that follows from the protocol."""

from dataclasses import dataclass

import torch
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from pydantic import ValidationError

from client.node.guard.refusal import Refusal
from protocol.agreement.manifest import Asks
from protocol.config.explanation import rule_of
from protocol.config.schedule import LEAST_ATTENTION, RoundPlan, plan_round
from protocol.config.study import StudyProtocol
from protocol.wire.compression import Shapes, read_global, read_shapes
from protocol.wire.error_words import WRONG_FORM, WRONG_PLAN
from protocol.wire.messages import ASK, STUDY
from protocol.wire.proofs import BEFORE, MANIFEST, SIGNATURE, STATEMENTS
from protocol.wire.weights import MessageError, Weights

_PLAN, _ROUND, _SHAPES = "plan", "round", "weights"
_ALWAYS = {"protocol", "run", MANIFEST, SIGNATURE}
_MOST_ATTENTION = 1.0


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What the centre asks, read.

    Attributes:
        kind: Flower's message type.
        number: Round of the weights that it carries: an evaluation after round 3 carries those
            that round 4 begins with.  0: it carries none.
        plan: Of a training.
        weights: By network.
        before: Weights of the round before, by network; {}: none came.
        statements: JSON; empty: none came.
        asks: What the run is for.
    """

    kind: str
    number: int = 0
    plan: RoundPlan | None = None
    weights: dict[str, Weights]
    before: dict[str, Weights]
    statements: str = ""
    asks: Asks = "training"


def read_instruction(
    message: Message, protocol: StudyProtocol, shapes: dict[str, Shapes]
) -> Instruction:
    """An instruction of exactly the agreed form.

    Args:
        message: As it came.
        protocol: Of the study that it belongs to.
        shapes: Of the study's networks.

    Raises:
        Refusal: If a record, a key or a value is not as agreed.
    """
    kind, content = message.metadata.message_type, message.content
    study = content.get(STUDY)
    if not isinstance(study, ConfigRecord):
        raise _malformed("has no study")
    own = {MessageType.QUERY: set(), MessageType.TRAIN: {_PLAN}, MessageType.EVALUATE: {_ROUND}}
    if kind not in own:
        raise _malformed(f"is of kind {kind[:40]!r}, which no study has")
    carries = kind != MessageType.QUERY
    needed = _ALWAYS | own[kind] | ({_SHAPES} if carries and not protocol.wire.plain else set())
    allowed = needed | ({STATEMENTS} if carries else {ASK})
    if not needed <= set(study) <= allowed:
        extra = len(set(study) - allowed)
        raise _malformed(f"lacks {len(needed - set(study))} agreed values and has {extra} others")
    records = set(shapes) if carries else set()
    optional = {BEFORE[network] for network in records}
    if not records <= set(content) - {STUDY} <= records | optional:
        raise _malformed(f"holds other records than the {len(records)} networks of the study")
    if not carries:
        if study.get(ASK, "fingerprint") != "fingerprint":
            raise _malformed("asks for what no run asks for")
        asks: Asks = "fingerprint" if ASK in study else "training"
        return Instruction(kind=kind, weights={}, before={}, asks=asks)
    try:
        return _with_weights(kind, content, study, protocol, shapes)
    except MessageError as error:
        raise _malformed(str(error)) from None


def _with_weights(
    kind: str,
    content: RecordDict,
    study: ConfigRecord,
    protocol: StudyProtocol,
    shapes: dict[str, Shapes],
) -> Instruction:
    if not protocol.wire.plain and read_shapes(str(study[_SHAPES])) != shapes:
        raise _malformed("gives other shapes than those of the study's networks")
    plan = _read_plan(study[_PLAN], protocol) if kind == MessageType.TRAIN else None
    statements = study.get(STATEMENTS, "")
    if not isinstance(statements, str):
        raise _malformed("has statements that are no text")
    before = {n: BEFORE[n] for n in shapes if BEFORE[n] in content}
    if before and set(before) != set(shapes):
        raise _malformed("holds one network of the round before, and not the other")
    return Instruction(
        kind=kind,
        number=_number(study[_ROUND], protocol) + 1 if plan is None else plan.round,
        plan=plan,
        weights={n: _read(content, n, shapes[n], protocol) for n in shapes},
        before={n: _read(content, record, shapes[n], protocol) for n, record in before.items()},
        statements=statements,
    )


def _read(content: RecordDict, name: str, shapes: Shapes, protocol: StudyProtocol) -> Weights:
    weights = read_global(content, name, _like(shapes), protocol.wire)
    if weights is None:
        raise _malformed(f"has no {name}")
    return weights


def _number(value: object, protocol: StudyProtocol) -> int:
    if type(value) is not int or not 1 <= value <= protocol.training.rounds:
        raise _malformed(f"is of no round from 1 to {protocol.training.rounds}")
    return value


def _read_plan(text: object, protocol: StudyProtocol) -> RoundPlan:
    """A plan as `plan_round` makes it of the protocol; what sites have measured has its range."""
    try:
        plan = RoundPlan.model_validate_json(text if isinstance(text, str) else "")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _off(f"{field or 'plan'}: {rule_of(first)}") from None
    if plan.model_dump_json() != text:
        raise _off("it is not written as this software writes plans")
    _number(plan.round, protocol)
    expected = plan_round(
        protocol,
        plan.round,
        attention_scale=plan.attention_scale,
        gamma=plan.gamma,
        organ_box=plan.organ_box,
    )
    for field, due in expected:
        if getattr(plan, field) != due:
            raise _off(f"{field} is {getattr(plan, field)!r}, of round {plan.round} it is {due!r}")
    if not LEAST_ATTENTION <= plan.attention_scale <= _MOST_ATTENTION:
        raise _off(
            f"attention_scale is {plan.attention_scale:g}, must be from {LEAST_ATTENTION:g} to"
            f" {_MOST_ATTENTION:g}"
        )
    if plan.gamma is not None and protocol.method.gamma_rule != "calibrated":
        raise _off("gamma is calibrated, which the protocol does not ask for")
    return plan


def _like(shapes: Shapes) -> Weights:
    """Tensors of these shapes that take no memory."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _malformed(what: str) -> Refusal:
    return Refusal(
        WRONG_FORM,
        f"instruction: {what}; this site follows none that holds more or less than is agreed; ask"
        " the centre which version it runs",
    )


def _off(what: str) -> Refusal:
    return Refusal(
        WRONG_PLAN,
        f"plan: {what}; this site trains by the plan that follows from the signed protocol alone;"
        " ask the centre what was changed",
    )
