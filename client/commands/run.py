"""`asdnet-site run --site A`: a hospital joins the federation, and stays.

Preflight first; then Flower's SuperNode holds the connection, and what comes is answered.
Either is started anew when it ends, for ever, until SIGTERM or Ctrl-C.
"""

import logging
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from client.commands.site_file import open_site
from protocol.config.site import SITE_CONFIGS, SiteConfig
from protocol.config.study import ProtocolError, StudyProtocol
from protocol.config.study_file import read_study
from reporting.logs import LogSettings, logging_to
from reporting.terminal import MISCONFIGURED, fail, host_and_port, make_console, user_errors

# The network may be down when a hospital's machine starts; everything else must be right.
# Nor does the disk that one study would need keep the site from answering another.
_MAY_COME_LATER = {"DNS", "TCP"}


def run(
    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")],
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS,
    check: Annotated[bool, typer.Option("--check", help="Stop after the preflight.")] = False,
    study: Annotated[
        Path | None,
        typer.Option(help="With --check: the study (YAML); else the one last heard of, or paper."),
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Try the device again, also where that is remembered.")
    ] = False,
    metrics: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where Prometheus finds metrics; none: nowhere."),
    ] = "none",
    *,
    log_settings: LogSettings,
) -> None:
    """Check this site, then train for the coordinating centre until told to stop.

    The log is on the screen and in logs/site.log of the site's state folder.

    Exit status 1: a check has failed.
    Exit status 78: the site's file is wrong; starting again mends nothing.
    """
    from client.node.private_folders import close_folders
    from protocol.running import AlreadyRunningError, running_now, running_once

    where = None if metrics == "none" else host_and_port("--metrics", metrics)
    if study is not None and not check:
        fail("--study: goes with --check; a site that joins is told its study by the centre")
    console = make_console(stderr=True)
    path = configs / f"{site}.yaml"
    with user_errors(ProtocolError, status=MISCONFIGURED):
        config = open_site(path)
    with user_errors(ProtocolError):
        given = None if study is None else read_study(study)
        now = running_now(config.running_file) if check else ""
    if check:
        if now:
            console.print(f"site {site}: runs in {now}; this check shares the device with it")
        _preflight(config, given, anew=anew, strict=True)
        return
    with ExitStack() as stack:
        with user_errors(AlreadyRunningError):
            stack.enter_context(running_once(config.running_file, f"site {site}"))
        for folder in close_folders(config):
            console.print(f"{folder} was open to other users, and is closed now")
        _preflight(config, None, anew=anew, strict=False)
        _join(config, path, log_settings, where)


def _preflight(
    config: SiteConfig, study: StudyProtocol | None, *, anew: bool, strict: bool
) -> None:
    """One table; ends the command where a check failed, with `strict` also what may come later."""
    from client.node.checks import print_preflight
    from client.node.last_study import last_study
    from client.node.preflight_process import checked

    console, note = make_console(stderr=True), ""
    if study is None:
        study, note = last_study(config)
    with console.status("checking this site") as status:
        checks = checked(
            config,
            study,
            anew=anew,
            begin=lambda name: status.update(f"checking this site: {name}"),
        )
    if note:
        console.print(note, style="yellow", soft_wrap=True)
    print_preflight(checks, make_console(soft_wrap=False))
    failed = [item for item in checks if item.status == "failed"]
    later = _MAY_COME_LATER | ({"cache disk"} if study else set())
    if any(strict or item.name not in later for item in failed):
        console.print(f"{len(failed)} of {len(checks)} checks failed", style="red")
        raise typer.Exit(1)


def _join(
    config: SiteConfig, path: Path, log_settings: LogSettings, metrics: tuple[str, int] | None
) -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from client.node.serving import serve  # late: a check alone needs no Flower
    from client.node.standing import Standing

    standing = Standing()
    if metrics is not None:
        from client.node.site_metrics import serve_metrics

        try:
            serve_metrics(config, standing, *metrics)
        except OSError as error:
            fail(f"--metrics: {metrics[0]}:{metrics[1]} cannot be listened at ({error.strerror})")
    with logging_to(config.state / "logs" / "site.log", log_settings):
        serve(config, path, stop, standing)
