"""The Flower ClientApp of one hospital: thin handlers, and a guard over what leaves.

Flower is given the path of the site's file as the node's configuration (`site-config`).
"""

import protocol.telemetry  # isort: skip

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from client.node.egress import error_reply, only_agreed
from protocol.config.site import SiteConfig, read_site
from protocol.config.study import StudyProtocol
from protocol.wire.compression import read_global
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    pack_evaluation,
    pack_facts,
    pack_training,
    read_plan,
    read_protocol,
    read_run,
)
from protocol.wire.weights import MessageError, Weights

log = logging.getLogger(__name__)

SiteOf = Callable[[Context], SiteConfig]


def site_from_node_config(context: Context) -> SiteConfig:
    """The site's file, named by the node's `site-config`."""
    return read_site(Path(str(context.node_config["site-config"])))


def answer_only_as_agreed(site_of: SiteOf) -> Mod:
    """A mod: what is not on the allow-list, and an exception's text, stay at the site.

    Behind a SuperNode the executor, which is never part of a bundle, does the same once more.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        try:
            reply = call_next(message, context)
            return only_agreed(reply, message, site_of(context).site)
        except Exception as error:
            kind = message.metadata.message_type
            log.exception("this site could not answer a %r message", kind)
            return error_reply(message, type(error).__name__)

    return mod


def _networks(message: Message, protocol: StudyProtocol) -> dict[str, Weights]:
    """The global weights of an instruction, by network.

    Raises:
        MessageError: If they are not of the study's networks, or there is no segmenter.
    """
    from asdnet_models.networks import build_confidence, build_segmenter

    found: dict[str, Weights] = {}
    for name, build in ((SEGMENTER, build_segmenter), (CONFIDENCE, build_confidence)):
        weights = read_global(message.content, name, build(protocol).state_dict(), protocol.wire)
        if weights is not None:
            found[name] = weights
    if SEGMENTER not in found:
        kind = message.metadata.message_type
        raise MessageError(f"{kind}: the instruction carries no {SEGMENTER}")
    return found


def build_client_app(site_of: SiteOf) -> ClientApp:
    """The ClientApp, told by `site_of` which hospital it serves.

    The handlers import PyTorch late, so that a refused message costs nothing.
    """
    app = ClientApp(mods=[answer_only_as_agreed(site_of)])

    @app.query()
    def facts(message: Message, context: Context) -> Message:
        """Check and cache the data; declare the counts."""
        from client.data.dataset import prepare_site
        from client.data.declaration import declare

        config = site_of(context)
        protocol = read_protocol(message.content)
        # Whatever is refused here: the centre is told by which rules, and decides by the contract.
        data = prepare_site(config, protocol, strict=False)
        declared = declare(
            config,
            protocol.organ_names,
            labelled=data.labelled,
            unlabelled=len(data.unlabelled),
            validation=len(data.validation),
            test=len(data.test),
            refused=[refusal.problem for refusal in data.refused],
            excluded=data.excluded,
        )
        return Message(pack_facts(config.site, declared, protocol), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """One round of local training."""
        from client.data.dataset import prepare_site
        from client.training.error_feedback import pack_with_feedback
        from client.training.round import train_round

        config = site_of(context)
        protocol, plan = read_protocol(message.content), read_plan(message.content)
        run, sent = read_run(message.content), _networks(message, protocol)
        data = prepare_site(config, protocol)
        result = train_round(
            config, protocol, plan, data, sent[SEGMENTER], sent.get(CONFIDENCE), run=run
        )
        trained = {SEGMENTER: result.segmenter}
        if result.confidence is not None:
            trained[CONFIDENCE] = result.confidence
        updates = pack_with_feedback(config.state, run, plan.round, protocol.wire, trained, sent)
        content = pack_training(
            config.site, result.report, protocol, updates[SEGMENTER], updates.get(CONFIDENCE)
        )
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        """Scores of the site's validation and test cases, as sums."""
        from client.data.dataset import prepare_site
        from client.training.evaluation import evaluate_site

        config = site_of(context)
        protocol = read_protocol(message.content)
        sent = _networks(message, protocol)
        data = prepare_site(config, protocol)
        report = evaluate_site(config, protocol, data, sent[SEGMENTER], sent.get(CONFIDENCE))
        return Message(pack_evaluation(config.site, report, protocol), reply_to=message)

    return app


app = build_client_app(site_from_node_config)
