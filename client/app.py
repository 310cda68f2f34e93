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

from client.outgoing import error_reply, only_agreed
from protocol.messages import (
    CONFIDENCE,
    SEGMENTER,
    pack_evaluation,
    pack_facts,
    pack_training,
    read_plan,
    read_protocol,
    read_run,
)
from protocol.sites import SiteConfig, read_site
from protocol.weights import MessageError, read_weights

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


def build_client_app(site_of: SiteOf) -> ClientApp:
    """The ClientApp, told by `site_of` which hospital it serves.

    The handlers import PyTorch late, so that a refused message costs nothing.
    """
    app = ClientApp(mods=[answer_only_as_agreed(site_of)])

    @app.query()
    def facts(message: Message, context: Context) -> Message:
        """Check and cache the data; declare the counts."""
        from client.dataset import prepare_site
        from client.declaration import declare

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
        from asdnet_models.networks import build_confidence, build_segmenter
        from client.dataset import prepare_site
        from client.training import train_round

        config = site_of(context)
        protocol, plan = read_protocol(message.content), read_plan(message.content)
        segmenter = read_weights(message.content, SEGMENTER, build_segmenter(protocol).state_dict())
        confidence = read_weights(
            message.content, CONFIDENCE, build_confidence(protocol).state_dict()
        )
        if segmenter is None:
            raise MessageError("train: the instruction carries no segmenter")
        data = prepare_site(config, protocol)
        result = train_round(
            config, protocol, plan, data, segmenter, confidence, run=read_run(message.content)
        )
        content = pack_training(
            config.site, result.report, protocol, result.segmenter, result.confidence
        )
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        """Scores of the site's validation and test cases, as sums."""
        from asdnet_models.networks import build_confidence, build_segmenter
        from client.dataset import prepare_site
        from client.evaluation import evaluate_site

        config = site_of(context)
        protocol = read_protocol(message.content)
        weights = read_weights(message.content, SEGMENTER, build_segmenter(protocol).state_dict())
        if weights is None:
            raise MessageError("evaluate: the instruction carries no segmenter")
        confidence = read_weights(
            message.content, CONFIDENCE, build_confidence(protocol).state_dict()
        )
        data = prepare_site(config, protocol)
        report = evaluate_site(config, protocol, data, weights, confidence)
        return Message(pack_evaluation(config.site, report, protocol), reply_to=message)

    return app


app = build_client_app(site_from_node_config)
