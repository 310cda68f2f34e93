"""A site's part in a federation: the SuperNode and the answers, until the site is stopped."""

import logging
import threading
import time
from contextlib import closing
from pathlib import Path

from client.node.admission import Attempts
from client.node.answering import Answering, AnsweringDied
from client.node.standing import Standing
from client.node.supernode import SuperNode
from protocol.agreement.bundle import installed_bundle
from protocol.config.site import SiteConfig

log = logging.getLogger(__name__)

_POLL_S = 0.1


def serve(
    config: SiteConfig, site_file: Path, stop: threading.Event, standing: Standing | None = None
) -> None:
    """The SuperNode, started anew whenever it ends, and answers to what it brings, until `stop`.

    Args:
        config: This site.
        site_file: Its file.
        stop: Ends it.
        standing: Kept up to date.

    Raises:
        BundleError: The installed version is not one that a site could answer for.
    """
    installed_bundle()
    attempts = Attempts(config)
    standing = standing or Standing()
    while not stop.is_set():
        log.info("site %s: connecting to %s", config.site, config.centre)
        started = time.monotonic()
        node = SuperNode(config, site_file)
        standing.starts += 1
        try:
            _answer(config, node, attempts, stop, standing)
            status = node.exit_code
        finally:
            standing.connected = False
            node.stop()
        if stop.is_set():
            break
        why, pause = attempts.ended(status, time.monotonic() - started)
        log.warning("%s. Trying again in %s", why, _duration(pause))
        stop.wait(pause)
    log.info("site %s: signed off", config.site)


def _answer(
    config: SiteConfig,
    node: SuperNode,
    attempts: Attempts,
    stop: threading.Event,
    standing: Standing,
) -> None:
    """Until the SuperNode ends, or waits for an answer that will not come."""

    def ended() -> bool:
        return stop.is_set() or node.exit_code is not None

    told = False
    try:
        with closing(Answering(config, node.address, node.secret, standing)) as answering:
            while not ended() and not stop.wait(_POLL_S):
                answering.poll(ended)
                if node.was_connected and not told:
                    attempts.connected()
                    told = standing.connected = True
    except AnsweringDied as error:
        log.error("%s; the SuperNode starts anew", error)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
