"""Filters what leaves a site: only what is agreed leaves, and everything that leaves is logged.

A reply is not inspected but made anew from what the centre would read of it, so that nothing can
travel where it is not checked: an extra record, a trailing byte, a header.
"""

import logging

import torch
from flwr.app import ArrayRecord, Error, Message, MessageType, RecordDict

from flower_compat.error_codes import CLIENT_APP_RAISED
from protocol.agreement.bounds import distance, rounding_norm, update_bound
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol, WireConfig
from protocol.wire.compression import read_global, read_update, reencode, shapes_of
from protocol.wire.error_words import REFUSED, error_word
from protocol.wire.fingerprint import asks_fingerprint, pack_fingerprint, read_fingerprint
from protocol.wire.group_checks import refuse_small_groups
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    pack_evaluation,
    pack_facts,
    pack_training,
    read_evaluation,
    read_facts,
    read_plan,
    read_protocol,
    read_site_name,
    read_training,
    sent_shapes,
)
from protocol.wire.weights import MessageError, Weights, raw_weights

log = logging.getLogger(__name__)


def error_reply(instruction: Message, reason: str | None) -> Message:
    """An answer of one word; one that is not on the list becomes "OtherError"."""
    error = Error(code=CLIENT_APP_RAISED, reason=error_word(reason))
    return Message(error, reply_to=instruction)


def filter_reply(reply: Message, instruction: Message, site: str, fewest: int) -> Message:
    """The reply, made anew of what is agreed; an error of one word where that cannot be.

    Args:
        reply: What the ClientApp answers.
        instruction: What it answers to; its protocol decides what may leave.
        site: This site's name: a reply in another one's name does not leave.
        fewest: Cases that must stand behind a number that leaves (`min_cases_reported`).
    """
    try:
        if reply.has_error():
            return error_reply(instruction, reply.error.reason)
        content = _reencode(reply.content, instruction, site, fewest)
    except Exception as error:
        # An app may return anything; whatever it breaks, it does not leave.
        log.error("a reply was refused on its way out: %s", error)
        return error_reply(instruction, REFUSED)
    return Message(content, reply_to=instruction)


def _reencode(content: RecordDict, instruction: Message, site: str, fewest: int) -> RecordDict:
    name = read_site_name(content)
    if name != site:
        raise MessageError(f"reply: is in the name of site {name!r}, this is {site!r}")
    protocol = read_protocol(instruction.content)
    kind = instruction.metadata.message_type
    if kind == MessageType.QUERY and asks_fingerprint(instruction.content):
        found = read_fingerprint(content, protocol)
        refuse_small_groups(found, protocol, fewest)
        return pack_fingerprint(site, found, protocol)
    if kind == MessageType.QUERY:
        facts = read_facts(content, protocol)
        refuse_small_groups(facts, protocol, fewest)
        return pack_facts(site, facts, protocol)
    if kind == MessageType.EVALUATE:
        scores = read_evaluation(content, protocol)
        refuse_small_groups(scores, protocol, fewest)
        return pack_evaluation(site, scores, protocol)
    if kind == MessageType.TRAIN:
        report = read_training(content, protocol)
        refuse_small_groups(report, protocol, fewest)
        segmenter, confidence = (
            _reencode_update(content, instruction.content, name, protocol)
            for name in (SEGMENTER, CONFIDENCE)
        )
        if segmenter is None:
            raise MessageError("reply: holds no segmenter")
        return pack_training(site, report, protocol, segmenter, confidence)
    raise MessageError(f"reply: nothing may leave in answer to a {kind!r} message")


def _reencode_update(
    content: RecordDict, asked: RecordDict, name: str, protocol: StudyProtocol
) -> Weights | ArrayRecord | None:
    """One network's update, of the names and shapes that the centre sent, and no others."""
    wire = protocol.wire
    if wire.plain:
        like = raw_weights(asked, name) or {}
    else:
        shapes = sent_shapes(asked).get(name, {})
        like = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    sent = read_global(asked, name, like, wire)
    update = None if sent is None else read_update(content, name, sent, wire)
    if sent is None or update is None:
        if name in content:
            raise MessageError(f"reply: holds a {name} that the centre did not send")
        return None
    _require_within_bound(name, update, sent, protocol, read_plan(asked))
    return update if wire.plain else reencode(content, name, shapes_of(like), wire)


def _require_within_bound(
    name: str, update: Weights, sent: Weights, protocol: StudyProtocol, plan: RoundPlan
) -> None:
    """An update moves the weights no further than the study declares; its rounding may add."""
    change = {key: update[key] - sent[key] for key in sent}
    slack = rounding_norm(change, protocol.wire) + rounding_norm(update, WireConfig())
    bound, norm = update_bound(protocol, plan, name, sent), distance(update, sent)
    if norm > bound + slack:
        raise MessageError(
            f"reply: the {name} is moved by {norm:.4g}, at most {bound:.4g} may it be in a round"
        )
