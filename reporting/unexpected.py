"""Errors that this program did not expect: one line for the user, the traceback in a file.

The text of such an error may quote a header, a path or a name, and the values of its variables
even more.  So the screen gets the error's class and its line in this program, and the traceback,
never with values of variables, goes into a file that only its user may read: in the site's folder
of state where a site is known, else below `$XDG_STATE_HOME/asdnet`.
"""

import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from protocol.escaping import printable, printable_lines

LOG = "unexpected.log"
DEBUG = "ASDNET_DEBUG"
# EX_SOFTWARE of sysexits.h: neither a mistake of the user's nor a finding of the command's.
STATUS = 70
_ROOT = Path(__file__).resolve().parents[1]
_LOG_BYTES, _ENTRY_CHARACTERS = 2**20, 2**15
_FRAME = re.compile(r'^ *File "(.+?)", line (\d+)', re.MULTILINE)
_AT = "while working on "
_OUT_OF_MEMORY = "OutOfMemoryError"  # torch's, by name: most commands do without torch
_NO_ROOM = ("failed to map segment", "cannot allocate memory")  # of glibc's loader

_folder: Path | None = None


def keep_log_in(folder: Path | None) -> None:
    """From now on, this process writes what it did not expect here; None: as each caller says."""
    global _folder
    _folder = folder


def log_folder() -> Path | None:
    """Where this process writes it, for the processes that it starts."""
    return _folder


def personal_folder() -> Path:
    """Where it is written if no site is known; `~` stands for the user's home."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "asdnet"


@contextmanager
def working_on(what: str) -> Iterator[None]:
    """What an unexpected error in here was about, for its line on the screen: a case's name."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{_AT}{what}")
        raise


def note_unexpected(error: BaseException, folder: Path | None = None) -> str:
    """Write an error's traceback into the log, and say so.

    Args:
        error: What nobody expected.
        folder: Of the log, unless `keep_log_in` has named one.

    Returns:
        One line for the screen of whoever runs this, without the error's text; it holds the path
        of the log, and what `working_on` was told.
    """
    place, where = unexpected_place(error), log_unexpected(error, folder)
    about = [note.removeprefix(_AT) for note in _notes(error) if note.startswith(_AT)]
    at = f" while it worked on {about[0]}" if about else ""
    if is_out_of_memory(error):
        return printable(
            f"memory ran out{at} ({place}): close other programs, work on fewer things at the same"
            f" time, or take a machine with more memory; {where}"
        )
    if isinstance(error, BrokenExecutor):
        return printable(
            f"a process that worked for this command has ended{at}, as happens where memory runs"
            f" out: close other programs, or work on fewer things at the same time; {where}"
        )
    return printable(
        f"something went wrong that this program did not expect{at} ({place}); {where}; please"
        " report it"
    )


def log_unexpected(error: BaseException, folder: Path | None = None) -> str:
    """Write an error's traceback into the log; the log's path in words, for the screen as well."""
    if os.environ.get(DEBUG):
        click.echo(_details(error), err=True)
    try:
        return f"the details are in {_write(error, _folder or folder or personal_folder())}"
    except (OSError, RuntimeError) as failure:
        reason = getattr(failure, "strerror", None) or "no folder for them"
        return f"its details could not be written ({reason.lower()}), {DEBUG}=1 shows them here"


def unexpected_place(error: BaseException) -> str:
    """`KeyError in client/data/cache.py:123`: class and innermost line of this program."""
    frames = [(f.filename, f.lineno or 0) for f in traceback.extract_tb(error.__traceback__)]
    # Of an error in another process of a pool, its traceback comes as text.
    if text := getattr(error.__cause__, "tb", None):
        frames += [(name, int(line)) for name, line in _FRAME.findall(str(text))]
    for name, line in reversed(frames):
        if (own := _own(name)) is not None:
            return f"{type(error).__name__} in {own}:{line}"
    return type(error).__name__


def is_of_a_library(error: BaseException) -> bool:
    """Whether neither the error's class nor the line that raised it is of this program."""
    frames = traceback.extract_tb(error.__traceback__)
    defined = sys.modules.get(type(error).__module__)
    return not (
        _own(frames[-1].filename if frames else "")
        or _own(getattr(defined, "__file__", None) or "")
    )


def is_for_users(error: BaseException) -> bool:
    """Whether its words were written for whoever runs this: the system's, or this program's own."""
    if isinstance(error, OSError):
        return True
    own_class = _own(getattr(sys.modules.get(type(error).__module__), "__file__", None) or "")
    return not is_of_a_library(error) and (isinstance(error, ValueError) or bool(own_class))


def _own(file: str) -> Path | None:
    """A file of this program, from its root; None for any other."""
    try:
        path = Path(file).relative_to(_ROOT)
    except ValueError:
        return None
    hidden = path.parts[0].startswith(".") or "site-packages" in path.parts
    return None if hidden else path


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, or too little of an accelerator's."""
    if isinstance(error, ImportError):  # of a library that the loader found no room for
        text = str(error).lower()
        # A static TLS block is full for another reason: the order in which libraries were loaded.
        return "static tls" not in text and any(words in text for words in _NO_ROOM)
    return isinstance(error, MemoryError) or type(error).__name__ == _OUT_OF_MEMORY


@contextmanager
def threads_told() -> Iterator[None]:
    """An unexpected error in a thread is a line too."""
    before = threading.excepthook

    def tell(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            click.echo(f"error: {note_unexpected(args.exc_value)}", err=True)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = before


def _notes(error: BaseException) -> list[str]:
    return [str(note) for note in getattr(error, "__notes__", ())]


def _details(error: BaseException) -> str:
    """The traceback, without variables; of a very long one, beginning and end."""
    text = "".join(traceback.format_exception(error))
    if len(text) > _ENTRY_CHARACTERS:
        half = _ENTRY_CHARACTERS // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    return printable_lines(text.rstrip())


def _write(error: BaseException, folder: Path) -> Path:
    """Append an entry; what is older than the last megabyte or two goes.

    Raises:
        OSError: It cannot be written.
        RuntimeError: The user has no home.
    """
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / LOG
    with suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".old.log"))
    head = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, process {os.getpid()}"
    command = " ".join(Path(word).name for word in sys.argv[:2])
    entry = f"{head}, {printable(command)}: {unexpected_place(error)}\n    {_details(error)}\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        with suppress(OSError):  # somebody else's, whom its mode is up to
            os.fchmod(file.fileno(), 0o600)  # one that was there already, too
        file.write(entry.encode("utf-8", "replace"))
    return path
