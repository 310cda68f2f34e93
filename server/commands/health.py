"""`asdnet-centre health`: whether the centre's programs are at work, for a health check."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reporting.terminal import MISCONFIGURED, make_console, user_errors
from server.admin.centre import CENTRE, Centre, CentreError, read_centre


class Program(StrEnum):
    """What runs at a centre."""

    SUPERLINK = "superlink"
    SERVICE = "service"


def health(
    of: Annotated[
        list[Program] | None, typer.Option("--of", help="Only this one; repeat it. Else both.")
    ] = None,
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE,
) -> None:
    """Say whether the SuperLink answers and the service (`serve`) runs.

    Exit status 1: one does not.
    """
    with user_errors(CentreError, status=MISCONFIGURED):
        home = read_centre(centre)
    looks = {Program.SUPERLINK: _superlink, Program.SERVICE: _service}
    console, well = make_console(), True
    for program in of or list(Program):
        fine, words = looks[program](home)
        console.print(f"{program.value}: {words}")
        well = well and fine
    raise typer.Exit(0 if well else 1)


def _superlink(home: Centre) -> tuple[bool, str]:
    from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
    from server.service.superlink import ask_nodes

    try:
        nodes = ask_nodes(home)
    except (SuperLinkUnreachable, SuperLinkRefused, CentreError, OSError) as error:
        return False, str(error) or type(error).__name__
    online = sum(node.status == "online" for node in nodes)
    return True, f"answers; {online} of {len(nodes)} sites that it has known are online"


def _service(home: Centre) -> tuple[bool, str]:
    from protocol.running import running_now
    from server.service.steering import service_lock

    running = running_now(service_lock(home))
    return bool(running), f"runs in {running}" if running else "does not run"
