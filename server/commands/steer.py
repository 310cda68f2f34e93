"""`asdnet-centre pause`, `resume`, `stop` and `priority`: what a person wants of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reporting.terminal import make_console, user_errors
from server.admin.centre import CENTRE, Centre, CentreError, read_centre

if TYPE_CHECKING:
    from server.monitoring.run_folder import RunFolder

_Run = Annotated[str, typer.Argument(help="The run's name.")]
_Folder = Annotated[Path, typer.Option(help="The centre's folder.")]


@contextmanager
def _run_of(centre: Path, run: str) -> Iterator[tuple[Centre, "RunFolder"]]:
    """A centre and one of its runs; every mistake is a sentence."""
    from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
    from server.monitoring.run_folder import RunError, RunFolder

    with user_errors(CentreError, RunError, SuperLinkRefused, SuperLinkUnreachable):
        home = read_centre(centre)
        folder = RunFolder(home.runs / run)
        folder.read()
        yield home, folder


def pause(
    run: _Run,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for its round, which is lost.")
    ] = False,
    centre: _Folder = CENTRE,
) -> None:
    """Let a study rest, once its round is complete, until it is resumed."""
    from server.service.steering import pause as pause_run

    with _run_of(centre, run) as (home, folder):
        make_console().print(pause_run(home, folder, now=now))


def resume(run: _Run, centre: _Folder = CENTRE) -> None:
    """Let asdnet-centre serve go on with a study that was paused or stopped."""
    from server.service.steering import resume as resume_run

    with _run_of(centre, run) as (home, folder):
        make_console().print(resume_run(home, folder))


def stop(run: _Run, centre: _Folder = CENTRE) -> None:
    """End a study now; its complete rounds stay, and it can be resumed later."""
    from server.service.steering import stop as stop_run

    with _run_of(centre, run) as (home, folder):
        make_console().print(stop_run(home, folder))


def priority(
    run: _Run,
    number: Annotated[int, typer.Argument(min=-100, max=100, help="The highest works first.")],
    centre: _Folder = CENTRE,
) -> None:
    """Have a study come before others, or after them, at asdnet-centre serve."""
    from server.service.steering import prioritise

    with _run_of(centre, run) as (_, folder):
        make_console().print(prioritise(folder, number))
