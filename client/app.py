"""The Flower ClientApp of one hospital: thin handlers, and a guard over what leaves.

Flower is given the path of the site's file as the node's configuration (`site-config`).
"""

import protocol.telemetry  # isort: skip

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from protocol.messages import (
    CONFIDENCE,
    SEGMENTER,
    MessageError,
    SiteFacts,
    pack_evaluation,
    pack_facts,
    pack_training,
    read_plan,
    read_protocol,
    read_weights,
)
from protocol.sites import SiteConfig, read_site
from protocol.sums import SumCount

log = logging.getLogger(__name__)

SiteOf = Callable[[Context], SiteConfig]
_CLIENT_APP_RAISED = 1


def site_from_node_config(context: Context) -> SiteConfig:
    """The site's file, named by the node's `site-config`."""
    return read_site(Path(str(context.node_config["site-config"])))


def say_only_the_class(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A mod: an exception's text, which may name a patient or a path, stays in the site's log."""
    try:
        return call_next(message, context)
    except Exception as error:
        log.exception("this site could not answer a %r message", message.metadata.message_type)
        reason = type(error).__name__
        return Message(Error(code=_CLIENT_APP_RAISED, reason=reason), reply_to=message)


def build_client_app(site_of: SiteOf) -> ClientApp:
    """The ClientApp, told by `site_of` which hospital it serves.

    The handlers import PyTorch late, so that a refused message costs nothing.
    """
    app = ClientApp(mods=[say_only_the_class])

    @app.query()
    def facts(message: Message, context: Context) -> Message:
        """Check and cache the data; declare the counts."""
        from client.dataset import prepare_site

        config = site_of(context)
        protocol = read_protocol(message.content)
        data = prepare_site(config, protocol)
        declared = SiteFacts(
            labelled=len(data.labelled),
            unlabelled=len(data.unlabelled),
            validation=len(data.validation),
            test=len(data.test),
        )
        boxes = [case.organ_box for case in data.labelled if case.organ_box]
        if len(boxes) >= config.min_cases_reported:
            edges = (SumCount(sum=sum(edge), count=len(boxes)) for edge in zip(*boxes, strict=True))
            declared = replace(declared, box=tuple(edges))
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
        result = train_round(config, protocol, plan, data, segmenter, confidence)
        content = pack_training(
            config.site, result.report, protocol, result.segmenter, result.confidence
        )
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        """Scores of the site's validation and test cases, as sums."""
        from asdnet_models.networks import build_segmenter
        from client.dataset import prepare_site
        from client.evaluation import evaluate_site

        config = site_of(context)
        protocol = read_protocol(message.content)
        weights = read_weights(message.content, SEGMENTER, build_segmenter(protocol).state_dict())
        if weights is None:
            raise MessageError("evaluate: the instruction carries no segmenter")
        report = evaluate_site(config, protocol, prepare_site(config, protocol), weights)
        return Message(pack_evaluation(config.site, report, protocol), reply_to=message)

    return app


app = build_client_app(site_from_node_config)
