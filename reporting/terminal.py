"""Terminal output of all commands: consoles and errors."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

from protocol.escaping import printable, printable_text
from reporting.unexpected import is_of_a_library

if TYPE_CHECKING:
    from rich.console import Console


# Columns where nobody's window has any: wider than every table.
_UNBOUNDED = 10_000
# EX_CONFIG of sysexits.h, of a command that runs for ever: starting it again mends nothing.
MISCONFIGURED = 78


def make_console(
    *, stderr: bool = False, soft_wrap: bool = True, whole_tables: bool = False
) -> "Console":
    """A console that prints text as it is: in a fingerprint, :AB: is no emoji, nor [b] a style.

    What cannot be printed (escape sequences, bidirectional marks, ...) is shown as an escape,
    whoever's text it is in: no caller has to think of it.

    Args:
        stderr: Print there.
        soft_wrap: Do not break long lines, so that paths and commands can be copied; False wraps
            at the width of the terminal, as tables need it.
        whole_tables: In a file or a pipe a table is as wide as it is, and not 80 columns, unless
            COLUMNS says how wide.  In a terminal its names are folded, never cut.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.table import Table
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            # Here too, so that a table is as wide as what it shows.
            return super().render_str(printable_text(text), **options)

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            if isinstance(renderable, Table):
                for column in renderable.columns:
                    column.overflow = "fold"
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable_text(text), style, control)

    console = PlainConsole(
        stderr=stderr, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False
    )
    if whole_tables and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBOUNDED
    return console


def print_notes(console: "Console", lines: Iterable[str]) -> None:
    """Each on a line of its own, however wide the terminal."""
    for line in lines:
        console.print(f"note: {line}", soft_wrap=True)


def print_errors(message: str) -> None:
    """A line on stderr for each line of the message."""
    for line in message.splitlines():
        click.echo(f"{click.style('error:', fg='red')} {printable(line)}", err=True)


def host_and_port(option: str, text: str) -> tuple[str, int]:
    """The two parts of an option's HOST:PORT, or the end of the command."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16):
        fail(f"{option}: must be HOST:PORT or none, not {text!r:.80}")
    return host.strip("[]"), int(port)


def fail(message: str, status: int = 2) -> NoReturn:
    """End the command."""
    print_errors(message)
    raise click.exceptions.Exit(status)


@contextmanager
def user_errors(*kinds: type[Exception], status: int = 2) -> Iterator[None]:
    """End the command with this status, without a traceback, on one of these; with 2 on an OSError.

    These are what a user can correct; anything else is a bug, told by `unexpected`.  So is a plain
    ValueError that a library raised: nobody wrote its words for a user.
    """
    expected: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except BrokenPipeError:  # the reader of our output has closed it
        raise
    except expected as error:
        if not isinstance(error, OSError) and is_of_a_library(error):
            raise
        fail(error_text(error), 2 if isinstance(error, OSError) else status)


def error_text(error: Exception) -> str:
    """What a user can correct, in the words of its error; of the system's, file and reason."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None
        return f"{error.filename}: {error.strerror.lower()}" if named else error.strerror
    return str(error) or type(error).__name__
