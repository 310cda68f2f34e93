"""`asdnet-centre serve`: the centre's service, which keeps studies going, alerts, and shows."""

import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reporting.logs import LogSettings, logging_to
from reporting.terminal import MISCONFIGURED, fail, host_and_port, user_errors
from server.admin.centre import CENTRE, Centre, CentreError, read_centre
from server.service.alert_settings import AlertsError, AlertSettings, read_alert_settings

if TYPE_CHECKING:
    from server.monitoring.run_folder import RunFolder
    from server.service.superlink import SuperLinkWatch

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_PAGE = "127.0.0.1:9095"


def serve(
    at_once: Annotated[
        int, typer.Option(min=1, max=16, help="Studies at work at a time; the others wait.")
    ] = 1,
    page: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where the page is served; none: nowhere."),
    ] = _PAGE,
    page_name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name that the page may be asked for by."),
    ] = None,
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE,
    *,
    log_settings: LogSettings,
) -> None:
    """Keep this centre's studies going, until Ctrl-C or SIGTERM; alert, and serve a page.

    A study that was started, or waits for its turn, is started again whenever its ServerApp or the
    SuperLink has died, after a reboot and after too few sites were there. Studies go on when this
    command ends. The page only shows, and has Prometheus metrics at /metrics. The log is on the
    screen and in logs/serve.log of the centre's folder.
    """
    with user_errors(CentreError, AlertsError, status=MISCONFIGURED):
        home = read_centre(centre)
        settings = read_alert_settings(home.folder)
    for chatty in ("httpx", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from protocol.running import AlreadyRunningError, running_once
    from server.service.page import PageError, serve_page
    from server.service.steering import service_lock
    from server.service.superlink import SuperLinkWatch, ask_nodes

    watch = SuperLinkWatch(lambda: ask_nodes(home))
    try:
        with (
            running_once(service_lock(home), "the service of this centre"),
            logging_to(home.logs / "serve.log", log_settings),
        ):
            watch.start()
            if page != "none":
                host, port = host_and_port("--page", page)
                shown = serve_page(home, watch, host, port, hosts=page_name or ())
                log.info("the page: %s", shown.url)
            _keep(home, settings, watch, at_once, stop)
    except (AlreadyRunningError, PageError) as error:
        fail(str(error))


@dataclass(frozen=True)
class _Starter:
    """Starts and ends the ServerApps of one centre."""

    centre: Centre

    def start(self, folder: "RunFolder") -> None:
        from server.service.starting import start_again

        start_again(self.centre, folder)

    def end(self, folder: "RunFolder", kind: str, reason: str) -> bool:
        from server.service.starting import end_run

        return end_run(self.centre, folder, kind, reason)


def _keep(
    home: Centre,
    settings: AlertSettings,
    watch: "SuperLinkWatch",
    at_once: int,
    stop: threading.Event,
) -> None:
    from server.monitoring.run_folder import RunFolder
    from server.service.absence import absent_sites
    from server.service.alerts import Alerts, Told
    from server.service.keeper import Keeper

    def runs() -> list[RunFolder]:
        return [RunFolder(file.parent) for file in sorted(home.runs.glob("*/wanted.json"))]

    keeper = Keeper(runs=runs, starter=_Starter(home), at_once=at_once)
    alerts = Alerts(home, settings)
    words = "keeps the studies of %s going, %d at a time (process %d)"
    log.info(words, home.folder, at_once, os.getpid())
    while not stop.wait(_LOOK_S):
        keeper.look(time.monotonic())
        absent = absent_sites(home, watch.nodes().nodes)
        alerts.look(Told(died=keeper.died, needs_you=keeper.needs_you, site_absent=absent))
    alerts.close()
    log.info("ended; studies at work go on")
