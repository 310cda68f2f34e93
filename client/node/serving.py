"""A site's part in a federation: the SuperNode and the executor, until the site is stopped."""

import logging
import threading
import time
from contextlib import closing
from pathlib import Path

from client.node.executor import Executor
from client.node.supernode import SuperNode
from flower_compat.polling import pull_objects_soon
from protocol.config.site import SiteConfig

log = logging.getLogger(__name__)

_POLL_S = 0.1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0
# A SuperNode that is refused ends at once; one that ran so long was connected.
_STEADY_S = 30.0


def serve(config: SiteConfig, site_file: Path, stop: threading.Event) -> None:
    """The SuperNode and the executor, started anew whenever they end, until `stop` is set."""
    pull_objects_soon()
    pause = _FIRST_PAUSE_S
    while not stop.is_set():
        log.info("site %s: connecting to %s", config.site, config.centre)
        started = time.monotonic()
        node = SuperNode(config, site_file)

        def ended(node: SuperNode = node) -> bool:
            return stop.is_set() or node.exit_code is not None

        try:
            with closing(Executor(config, node.address, node.secret)) as executor:
                while not ended() and not stop.wait(_POLL_S):
                    executor.poll(ended)
        finally:
            node.stop()
        if stop.is_set():
            break
        if time.monotonic() - started > _STEADY_S:
            pause = _FIRST_PAUSE_S
        log.warning(
            "the SuperNode ended (status %s); its own lines above say why. If the centre does not "
            "know this site's key, ask it to run: asdnet-centre add-site %s. "
            "Trying again in %.0f s",
            node.exit_code,
            config.site,
            pause,
        )
        stop.wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
    log.info("site %s: signed off", config.site)
