"""Terminal output of all commands: consoles and errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console


def make_console(*, stderr: bool = False, soft_wrap: bool = True) -> "Console":
    """A console that prints text as it is: in a fingerprint, :AB: is no emoji, nor [b] a style.

    Args:
        stderr: Print there.
        soft_wrap: Do not break long lines, so that paths and commands can be copied; False wraps
            at the width of the terminal, as tables need it.
    """
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False)


def print_errors(message: str) -> None:
    """A line on stderr for each line of the message."""
    for line in message.splitlines():
        click.echo(f"{click.style('error:', fg='red')} {line}", err=True)


def fail(message: str) -> NoReturn:
    """End the command with status 2."""
    print_errors(message)
    raise click.exceptions.Exit(2)


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """End the command with status 2, without a traceback, on one of these or an OSError.

    These are what a user can correct; anything else is a bug and keeps its traceback.
    """
    expected: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except BrokenPipeError:  # the reader of our output has closed it
        raise
    except expected as error:
        fail(_text(error))


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error) or type(error).__name__
