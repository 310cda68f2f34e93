"""`asdnet-centre backup` and `restore`: a centre in one file, and back."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from protocol.wording import counted
from reporting.terminal import fail, make_console, user_errors
from server.admin.centre import CENTRE, CentreError, read_centre


def backup(
    out: Annotated[
        Path | None, typer.Option(help="The file that is written; else centre-DATE-TIME.tar.")
    ] = None,
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE,
) -> None:
    """Write the whole centre into one file: keys, sites, runs, databases, the audit log.

    Studies may be at work. Who has the file can pass for the centre: keep it as you keep ca.key.
    """
    from server.admin.backup import back_up

    with user_errors(CentreError):
        home = read_centre(centre)
        path = out or Path(f"centre-{datetime.now():%Y%m%d-%H%M%S}.tar")
        try:
            made = back_up(home, path)
        except FileExistsError:
            fail(f"{path}: is there already; choose another --out")
        except OSError as error:
            fail(f"{error.filename or path}: {error.strerror or type(error).__name__}")
    size = path.stat().st_size / 2**20
    make_console().print(
        f"{path}: {counted(len(made.digests), 'file')}, {size:.1f} MiB, with the centre's keys\n"
        f"Bring it back with: asdnet-centre restore {path.name} --centre FOLDER"
    )


def restore(
    file: Annotated[Path, typer.Argument(help="A file that asdnet-centre backup has written.")],
    centre: Annotated[Path, typer.Option(help="The new folder.")] = CENTRE,
) -> None:
    """Make the centre's folder anew from a backup; nothing is replaced."""
    from server.admin.backup import restore as bring_back
    from server.admin.backup import unfinished

    with user_errors(CentreError):
        try:
            home = bring_back(file, centre)
        except OSError as error:
            fail(f"{error.filename or file}: {error.strerror or type(error).__name__}")
        left = unfinished(home)
    console = make_console()
    console.print(f"{home.folder}: restored; start the SuperLink: asdnet-centre superlink")
    if left:
        console.print(
            f"not finished at the time of the backup: {', '.join(left)}\n"
            "A site goes on with a run from its own last round at the earliest. Where sites have"
            " done later rounds, they refuse; begin a new run then."
        )
