"""`asdnet-site run --site A`: a hospital joins the federation, and stays.

Preflight first; then Flower's SuperNode holds the connection and the executor answers what comes.
Either is started anew when it ends, for ever, until SIGTERM or Ctrl-C.
"""

import logging
import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from protocol.config.site import SITE_CONFIGS, SiteConfig, read_site
from protocol.config.study import ProtocolError, StudyProtocol
from reporting.terminal import make_console, user_errors

log = logging.getLogger(__name__)

# The network may be down when a hospital's machine starts; everything else must be right.
_MAY_COME_LATER = {"DNS", "TCP"}
_POLL_S = 0.1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0
# A SuperNode that is refused ends at once; one that ran so long was connected.
_STEADY_S = 30.0


def run(
    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")],
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS,
    check: Annotated[bool, typer.Option("--check", help="Stop after the preflight.")] = False,
) -> None:
    """Check this site, then train for the coordinating centre until told to stop."""
    from client.node.checks import print_preflight
    from client.node.preflight import preflight

    console = make_console(stderr=True)
    path = configs / f"{site}.yaml"
    with user_errors(ProtocolError):
        config = read_site(path)
    with console.status("checking this site"):
        checks = preflight(config, _last_protocol(config))
    print_preflight(checks, make_console(soft_wrap=False))
    failed = [item for item in checks if item.status == "failed"]
    if check or any(item.name not in _MAY_COME_LATER for item in failed):
        if failed:
            console.print(f"{len(failed)} of {len(checks)} checks failed", style="red")
        raise typer.Exit(1 if failed else 0)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve(config, path, stop)


def _last_protocol(config: SiteConfig) -> StudyProtocol | None:
    try:
        return StudyProtocol.model_validate_json(config.protocol_file.read_bytes())
    except (OSError, ValidationError):
        return None


def serve(config: SiteConfig, site_file: Path, stop: threading.Event) -> None:
    """The SuperNode and the executor, started anew whenever they end, until `stop` is set."""
    from client.node.executor import Executor
    from client.node.supernode import SuperNode
    from flower_compat.polling import pull_objects_soon

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
