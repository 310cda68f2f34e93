"""`asdnet-site run --site A`: a hospital joins the federation, and stays.

Preflight first; then Flower's SuperNode holds the connection and the executor answers what comes.
Either is started anew when it ends, for ever, until SIGTERM or Ctrl-C.
"""

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from client.commands.site_file import open_site
from protocol.config.site import SITE_CONFIGS
from protocol.config.study import ProtocolError
from reporting.terminal import MISCONFIGURED, log_to_stderr, make_console, user_errors

# The network may be down when a hospital's machine starts; everything else must be right.
# Nor does the disk that one study would need keep the site from answering another.
_MAY_COME_LATER = {"DNS", "TCP"}


def run(
    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")],
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS,
    check: Annotated[bool, typer.Option("--check", help="Stop after the preflight.")] = False,
) -> None:
    """Check this site, then train for the coordinating centre until told to stop.

    Exit status 1: a check has failed.
    Exit status 78: the site's file is wrong; starting again mends nothing.
    """
    from client.node.checks import print_preflight
    from client.node.last_study import last_study
    from client.node.preflight import preflight
    from client.node.private_folders import close_folders

    console = make_console(stderr=True)
    path = configs / f"{site}.yaml"
    with user_errors(ProtocolError, status=MISCONFIGURED):
        config = open_site(path)
    for folder in [] if check else close_folders(config):
        console.print(f"{folder} was open to other users, and is closed now")
    with console.status("checking this site"):
        study, note = last_study(config)
        checks = preflight(config, study)
    if note:
        console.print(note, style="yellow", soft_wrap=True)
    print_preflight(checks, make_console(soft_wrap=False))
    failed = [item for item in checks if item.status == "failed"]
    later = _MAY_COME_LATER | ({"cache disk"} if study else set())
    if check or any(item.name not in later for item in failed):
        if failed:
            console.print(f"{len(failed)} of {len(checks)} checks failed", style="red")
        raise typer.Exit(1 if failed else 0)
    log_to_stderr()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from client.node.serving import serve  # late: a check alone needs no Flower

    serve(config, path, stop)
