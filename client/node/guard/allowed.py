"""Refuses what a site does not allow: an instruction, or an answer that rests on too few cases."""

from datetime import datetime
from pathlib import Path

from flwr.app import Message, MessageType

from client.node.guard.data_limits import broken_by_data
from client.node.guard.limits import (
    broken_by_cases,
    broken_by_fingerprint,
    broken_limits,
    closed,
)
from client.node.guard.refusal import Refusal
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.error_words import BEYOND_LIMITS, OUTSIDE_HOURS
from protocol.wire.fingerprint import asks_fingerprint
from protocol.wire.messages import read_plan, read_training

# By the site's state folder, the protocol that its scans were last found to fit.
_fitting: dict[Path, str] = {}


def require_allowed(
    config: SiteConfig, protocol: StudyProtocol, message: Message, now: datetime
) -> None:
    """The study is within this site's limits, and this is a time at which the site works.

    Args:
        config: The site.
        protocol: Of the study.
        message: The instruction.
        now: Local time.

    Raises:
        Refusal: BEYOND_LIMITS with everything that is; or OUTSIDE_HOURS.
    """
    broken = broken_limits(config, protocol)
    if asks_fingerprint(message.content):
        broken += broken_by_fingerprint(config)
    # What is absurd already is not compared with every scan.
    broken += _broken_by_data(config, protocol, message, headers=not broken)
    if broken:
        raise _beyond(broken)
    if why := closed(config, now):
        raise Refusal(OUTSIDE_HOURS, why)


def require_enough_cases(
    config: SiteConfig, protocol: StudyProtocol, message: Message, reply: Message
) -> None:
    """An update rests on enough cases that were really used: requirements may leave most out.

    Args:
        config: The site.
        protocol: Of the study.
        message: The instruction.
        reply: As it would leave.

    Raises:
        Refusal: BEYOND_LIMITS.
    """
    if message.metadata.message_type != MessageType.TRAIN:
        return
    report = read_training(reply.content, protocol)
    plan = read_plan(message.content)
    broken = broken_by_cases(config, report.labelled, report.unlabelled, plan)
    if broken:
        raise _beyond(broken)


def _broken_by_data(
    config: SiteConfig, protocol: StudyProtocol, message: Message, *, headers: bool
) -> list[str]:
    """By names at each training, by headers when a protocol is new or asks what there is."""
    kind = message.metadata.message_type
    new = kind == MessageType.QUERY or _fitting.get(config.state) != protocol.digest
    if kind == MessageType.EVALUATE and not new:
        return []
    plan = read_plan(message.content) if kind == MessageType.TRAIN else None
    broken = broken_by_data(config, protocol, plan, headers=headers and new)
    if headers and not broken:
        _fitting[config.state] = protocol.digest
    return broken


def _beyond(broken: list[str]) -> Refusal:
    return Refusal(BEYOND_LIMITS, "\n  ".join(["the study is beyond this site's limits:", *broken]))
