"""The log of what runs for ever: on the screen, and in a file that is rotated.

One process writes a file: a launcher, which has the lines of its children too.  The file is a
convenience: where it cannot be written, as on a full disk, the program goes on and says so once.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from logging.handlers import RotatingFileHandler
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from protocol.escaping import printable_lines
from protocol.files import LockedError, locked

log = logging.getLogger(__name__)

_TEXT = "%(asctime)s %(name)s: %(message)s"
_MEBIBYTE = 2**20
_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_PRIVATE, _PRIVATE_FOLDER = 0o600, 0o700
# What a line is about, beside its own words; of this process, which does one thing at a time.
_about: dict[str, str | int] = {}
_KNOWN = {"time", "level", "logger", "message"}
_VARIABLES = ("ASDNET_LOG_FORMAT", "ASDNET_LOG_MIB", "ASDNET_LOG_FILES")


class LogFormat(StrEnum):
    """How a line of the log looks."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What a launcher's user decides about its log; the options of the launchers' commands.

    Attributes:
        format: Of the screen and of the file.
        mib: Size at which a file is put aside, MiB.
        files: So many are kept, the one that is written included; the oldest goes.
    """

    format: Annotated[
        LogFormat,
        typer.Option(
            "--log-format", help="Of the log: lines to read, or a JSON object on each line."
        ),
    ] = LogFormat.TEXT
    mib: Annotated[
        int,
        typer.Option(
            "--log-mib", min=1, max=1024, help="Size of a log file, MiB; then the next one."
        ),
    ] = 10
    files: Annotated[
        int,
        typer.Option("--log-files", min=2, max=100, help="Log files that are kept, the oldest go."),
    ] = 5

    def to_environment(self) -> dict[str, str]:
        """For processes that somebody else starts."""
        values = (self.format.value, str(self.mib), str(self.files))
        return dict(zip(_VARIABLES, values, strict=True))

    @classmethod
    def from_environment(cls) -> "LogSettings":
        """As `to_environment` of a parent has them; else the defaults."""
        found = [os.environ.get(name, "") for name in _VARIABLES]
        try:
            return cls(format=LogFormat(found[0]), mib=int(found[1]), files=int(found[2]))
        except ValueError:
            return cls()


class PlainFormatter(logging.Formatter):
    """A line of the log for a record; those of a traceback or a longer text are indented."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class JsonFormatter(logging.Formatter):
    """A JSON object for a record: time (UTC), level, logger, message; run and round where known."""

    def format(self, record: logging.LogRecord) -> str:
        made = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, Any] = {
            "time": made.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": super().format(record),
        }
        # ASCII alone: nothing that a terminal obeys, whoever wrote the message.
        return json.dumps(fields | getattr(record, "about", _about))


def say_about(**facts: str | int) -> None:
    """What lines from now on are about, such as run and round; none given: nothing known."""
    _about.clear()
    _about.update(facts)


def record_of(line: str) -> logging.LogRecord | None:
    """The record that `JsonFormatter` made a line of; None: it is another line."""
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
        if not (isinstance(fields, dict) and fields.keys() >= _KNOWN):
            return None
        level = logging.getLevelNamesMapping()[fields["level"]]
        created = datetime.fromisoformat(fields["time"]).timestamp()
        datetime.fromtimestamp(created, UTC)  # as it will be written
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return None
    return logging.makeLogRecord(
        {
            "name": str(fields["logger"]),
            "levelno": level,
            "levelname": fields["level"],
            "msg": str(fields["message"]),
            "created": created,
            "about": {name: fields[name] for name in fields.keys() - _KNOWN},
        }
    )


def printed_line(raw: bytes) -> str:
    """A line that a program has printed, as text; Flower colours its lines, in a file too."""
    return _COLOUR.sub(b"", raw.rstrip(b"\r\n")).decode("utf-8", "replace")


def formatter(form: LogFormat) -> logging.Formatter:
    """What makes lines of records."""
    return JsonFormatter() if form is LogFormat.JSON else PlainFormatter(_TEXT)


@contextmanager
def logging_to(file: Path, settings: LogSettings) -> Iterator[None]:
    """Show the log on stderr from level INFO on, and write it to a file as well.

    Whatever is wrong with the file is a line on the screen.
    """
    screen = logging.StreamHandler()
    screen.setFormatter(formatter(settings.format))
    logging.basicConfig(level=logging.INFO, handlers=[screen])
    root = logging.getLogger()
    with ExitStack() as stack:
        try:
            handler = stack.enter_context(closing(LogFile(file, settings)))
        except OSError as error:
            log.warning("%s: %s; the log is on the screen alone", file, why(error))
        else:
            root.addHandler(handler)
            stack.callback(root.removeHandler, handler)
        yield


def log_to_parent(pipe: Connection) -> None:
    """In a child: all that it prints goes to its parent, and its log as records."""
    for number in (1, 2):
        os.dup2(pipe.fileno(), number)
    pipe.close()
    handler = logging.StreamHandler(os.fdopen(2, "w", encoding="utf-8", closefd=False))
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class LogFile(RotatingFileHandler):
    """A file of the log, for its user alone, put aside as NAME.log.1, NAME.log.2, ...

    Raises:
        OSError: It cannot be written, or another process writes it.
    """

    def __init__(self, path: Path, settings: LogSettings) -> None:
        path.parent.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        # Two that put one file aside would lose lines.  The kernel gives the lock back.
        self._held = ExitStack()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        try:
            lock = locked(path.with_suffix(".lock"), flags, _PRIVATE, timeout_s=0)
            _make_private(self._held.enter_context(lock))
        except LockedError:
            raise OSError(None, "another process writes it", str(path)) from None
        self._failing = False
        super().__init__(path, maxBytes=settings.mib * _MEBIBYTE, backupCount=settings.files - 1)
        self.setFormatter(formatter(settings.format))

    def _open(self) -> TextIO:  # type: ignore[override]
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        file = os.open(self.baseFilename, flags, _PRIVATE)
        _make_private(file)
        return os.fdopen(file, "a", encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self.stream is not None:
            self._failing = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Said once; what could not be written is given up, and the next line is tried again."""
        stream, self.stream = self.stream, None
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.close()
        if not self._failing:
            self._failing = True
            with suppress(OSError, ValueError):
                text = f"{self.baseFilename}: {why(sys.exception())}; the log goes on without it"
                print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        with suppress(OSError):  # a full disk
            super().close()
        with suppress(OSError):
            self._held.close()


def why(error: BaseException | None) -> str:
    """The system's reason, without a path."""
    reason = getattr(error, "strerror", None) or type(error).__name__
    return str(reason).lower()


def _make_private(file: int) -> None:
    """One that was there already, too."""
    with suppress(OSError):  # somebody else's, whom its mode is up to
        os.fchmod(file, _PRIVATE)
