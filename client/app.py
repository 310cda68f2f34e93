"""The Flower ClientApp of one hospital: its handlers, and a filter of what leaves.

The node's configuration (`site-config`) is the path of the site's file.
"""

import protocol.telemetry  # isort: skip

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from client.node.egress import error_reply, filter_reply
from protocol.agreement.bounds import update_bound
from protocol.config.site import SiteConfig, read_site
from protocol.config.study import StudyProtocol
from protocol.wire.compression import read_global
from protocol.wire.fingerprint import asks_fingerprint, pack_fingerprint
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    STUDY,
    pack_evaluation,
    pack_facts,
    pack_training,
    read_plan,
    read_protocol,
    read_run,
)
from protocol.wire.weights import MessageError, Weights
from reporting.unexpected import log_unexpected

log = logging.getLogger(__name__)

SiteOf = Callable[[Context], SiteConfig]


def site_from_node_config(context: Context) -> SiteConfig:
    """The site's file, named by the node's `site-config`."""
    return read_site(Path(str(context.node_config["site-config"])))


def filter_replies(site_of: SiteOf, *, keep_log: bool = False) -> Mod:
    """A mod: what is not on the allow-list, and an exception's text, stay at the site.

    With `keep_log`, the exception goes into `unexpected.log` as well.

    Behind a SuperNode the executor, which is never part of a bundle, does the same once more.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        try:
            reply = call_next(message, context)
            config = site_of(context)
            return filter_reply(reply, message, config.site, config.min_cases_reported)
        except Exception as error:
            kind = message.metadata.message_type
            log.exception("this site could not answer a %r message", kind)
            if keep_log:
                log_unexpected(error)
            return error_reply(message, type(error).__name__)

    return mod


def build_client_app(site_of: SiteOf, *, keep_log: bool = False) -> ClientApp:
    """The ClientApp of the hospital that `site_of` returns.

    Args:
        site_of: The site's file, by the context of a call.
        keep_log: Write what goes wrong into `unexpected.log`; a SuperNode has a log of its own.
    """
    app = ClientApp(mods=[filter_replies(site_of, keep_log=keep_log)])

    @app.query()
    def query(message: Message, context: Context) -> Message:
        answer = _fingerprint if asks_fingerprint(message.content) else _declare
        return Message(answer(site_of(context), message.content), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(_train(site_of(context), message.content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(_evaluate(site_of(context), message.content), reply_to=message)

    return app


# The handlers import PyTorch late, so that a refused message costs nothing.


def _declare(config: SiteConfig, instruction: RecordDict) -> RecordDict:
    """Check and cache the data; declare the counts."""
    from client.data.cohort import site_of_run
    from client.data.dataset import BOX
    from client.data.declaration import declare

    protocol, run = read_protocol(instruction), read_run(instruction)
    # Refused cases travel as counts by rule: the centre decides by the study's requirements.
    data, cohort = site_of_run(config, protocol, run, strict=False)
    facts = declare(
        config,
        protocol.organ_names,
        labelled=data.labelled,
        unlabelled=len(data.unlabelled),
        validation=len(data.validation),
        test=len(data.test),
        refused=cohort.refused,
        excluded=cohort.excluded,
        boxed=data.blocks(BOX, data.labelled),
    )
    return pack_facts(config.site, facts, protocol)


def _fingerprint(config: SiteConfig, instruction: RecordDict) -> RecordDict:
    """What a study can be planned from."""
    from client.data.blocks import write_released
    from client.datacheck.fingerprint import site_fingerprint, with_machine

    protocol = read_protocol(instruction)
    found, release = site_fingerprint(config, protocol)
    write_released(config, release)
    return pack_fingerprint(config.site, with_machine(found, config), protocol)


def _train(config: SiteConfig, instruction: RecordDict) -> RecordDict:
    """One round of local training."""
    from client.data.cohort import site_of_run
    from client.training.average import AverageStore
    from client.training.error_feedback import pack_with_feedback
    from client.training.round import train_round
    from client.training.twin import with_twin

    protocol, plan = read_protocol(instruction), read_plan(instruction)
    run, sent = read_run(instruction), _networks(instruction, protocol)
    data, _ = site_of_run(config, protocol, run)
    decay = protocol.training.average_decay
    if decay and plan.round > 1:
        AverageStore(config.state, run, decay).add(sent[SEGMENTER], plan.round - 1)
    result = train_round(
        config, protocol, plan, data, sent[SEGMENTER], sent.get(CONFIDENCE), run=run
    )
    result = with_twin(config, protocol, plan, data, sent, result, run=run)
    bounds = {name: update_bound(protocol, plan, name, weights) for name, weights in sent.items()}
    updates = pack_with_feedback(
        config.state, run, plan.round, protocol.wire, result.networks, sent, bounds
    )
    return pack_training(
        config.site, result.report, protocol, updates[SEGMENTER], updates.get(CONFIDENCE)
    )


def _evaluate(config: SiteConfig, instruction: RecordDict) -> RecordDict:
    """Scores of the site's validation and test cases, as sums, of S or its average."""
    from client.data.cohort import site_of_run
    from client.training.average import AverageStore
    from client.training.evaluation import evaluate_site

    protocol, run = read_protocol(instruction), read_run(instruction)
    sent = _networks(instruction, protocol)
    data, _ = site_of_run(config, protocol, run)
    segmenter, decay = sent[SEGMENTER], protocol.training.average_decay
    if decay:
        store = AverageStore(config.state, run, decay)
        segmenter = store.of(segmenter, read_scored_round(instruction)).weights
    report = evaluate_site(config, protocol, data, segmenter, sent.get(CONFIDENCE))
    return pack_evaluation(config.site, report, protocol)


def _networks(instruction: RecordDict, protocol: StudyProtocol) -> dict[str, Weights]:
    """The global weights of an instruction, by network.

    Raises:
        MessageError: If they are not of the study's networks, or there is no segmenter.
    """
    from asdnet_models.networks import build_confidence, build_segmenter

    networks: dict[str, Weights] = {}
    for name, build in ((SEGMENTER, build_segmenter), (CONFIDENCE, build_confidence)):
        weights = read_global(instruction, name, build(protocol).state_dict(), protocol.wire)
        if weights is not None:
            networks[name] = weights
    if SEGMENTER not in networks:
        raise MessageError(f"instruction: carries no {SEGMENTER}")
    return networks


def read_scored_round(content: RecordDict) -> int:
    """The round after which an instruction has sites evaluate.

    Raises:
        MessageError: If it does not say it.
    """
    record = content.get(STUDY)
    number = record.get("round") if isinstance(record, ConfigRecord) else None
    if type(number) is not int or number < 1:
        raise MessageError(f"instruction: record {STUDY!r} has no round that it scores")
    return number


app = build_client_app(site_from_node_config)
