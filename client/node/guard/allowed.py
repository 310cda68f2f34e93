"""Refuses what a site does not allow: an instruction, or an answer that rests on too few cases."""

from datetime import datetime

from flwr.app import Message, MessageType

from client.data.layout import survey_folder
from client.node.guard.limits import broken_by_cases, broken_limits, closed
from client.node.guard.refusal import Refusal
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.error_words import BEYOND_LIMITS, OUTSIDE_HOURS
from protocol.wire.messages import read_plan, read_protocol, read_training


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
    broken = broken_limits(config, protocol) + _broken_by_names(config, message)
    if broken:
        raise _beyond(broken)
    if why := closed(config, now):
        raise Refusal(OUTSIDE_HOURS, why)


def require_enough_cases(config: SiteConfig, message: Message, reply: Message) -> None:
    """An update rests on enough cases that were really used: requirements may leave most out.

    Args:
        config: The site.
        message: The instruction.
        reply: As it would leave.

    Raises:
        Refusal: BEYOND_LIMITS.
    """
    if message.metadata.message_type != MessageType.TRAIN:
        return
    report = read_training(reply.content, read_protocol(message.content))
    plan = read_plan(message.content)
    broken = broken_by_cases(config, report.labelled, report.unlabelled, plan)
    if broken:
        raise _beyond(broken)


def _broken_by_names(config: SiteConfig, message: Message) -> list[str]:
    """By the files' names, before any is read; a folder with mistakes is reported as such later."""
    kind = message.metadata.message_type
    survey = survey_folder(config.data, config)
    if survey.refused or kind == MessageType.EVALUATE:
        return []
    plan = read_plan(message.content) if kind == MessageType.TRAIN else None
    parts = [case.part for case in survey.cases]
    return broken_by_cases(config, parts.count("labelled"), parts.count("unlabelled"), plan)


def _beyond(broken: list[str]) -> Refusal:
    return Refusal(BEYOND_LIMITS, "\n  ".join(["the study is beyond this site's limits:", *broken]))
