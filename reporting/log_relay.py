"""The log of a program that is not ours to configure: all that it and its children print.

`python -m reporting.log_relay FILE FORMAT MIB FILES` passes its standard input on to stderr, and
writes it to a file that is rotated.  It ends once nobody is left who could print: after the program
itself, whatever ends that.
"""

import atexit
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from protocol.escaping import printable
from reporting.logs import LogFile, LogFormat, LogSettings, formatter, printed_line, record_of, why

_ROOT = Path(__file__).resolve().parents[1]
_LINE_BYTES = 2**16
# As Flower's and uvicorn's lines begin.
_LEVEL = re.compile(
    r"(?:\d{4}-\d\d-\d\dT[\d:.]+Z )?(DEBUG|INFO|WARNING|ERROR|CRITICAL)(?: ?:| (?=\[))\s*"
)
_LAST_LINES_S = 2.0


def relay_output(file: Path, settings: LogSettings) -> None:
    """From now on, what this process and its children print goes through a relay.

    Raises:
        OSError: It cannot be started.
    """
    reader, writer = os.pipe()
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = (str(file), settings.format.value, str(settings.mib), str(settings.files))
    with os.fdopen(reader, "rb") as stream:
        relay = subprocess.Popen(
            [sys.executable, "-m", "reporting.log_relay", *arguments],
            stdin=stream,
            stdout=2,
            env=os.environ | {"PYTHONPATH": path},
        )
    kept = os.dup(1), os.dup(2)
    for number in (1, 2):
        os.dup2(writer, number)
    os.close(writer)

    def end() -> None:
        """Its last lines are there before this program has ended, unless its children go on."""
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
        deadline = time.monotonic() + _LAST_LINES_S
        while relay.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    atexit.register(end)


def relay(
    stream: BinaryIO, screen: BinaryIO, name: str, file: LogFile | None, form: LogFormat
) -> None:
    """Pass every line on, until the stream ends.

    Args:
        stream: What the program prints.
        screen: Gets its lines as they are, or as JSON.
        name: Of the program, for lines that are no records of ours.
        file: Gets the lines with their time; None: there is none.
        form: Of both.
    """
    lines = formatter(form)
    while raw := stream.readline(_LINE_BYTES):
        text = printable(printed_line(raw), most=_LINE_BYTES)
        record = record_of(text) or _record(name, text)
        if file is not None:
            file.handle(record)
        shown = raw if form is LogFormat.TEXT else lines.format(record).encode() + b"\n"
        try:
            screen.write(shown)
            screen.flush()
        except OSError:  # nobody looks; the file goes on
            continue


def _record(name: str, text: str) -> logging.LogRecord:
    found = _LEVEL.match(text)
    level = found[1] if found else "INFO"
    message = text[found.end() :] if found else text
    return logging.makeLogRecord(
        {
            "name": name,
            "levelname": level,
            "levelno": logging.getLevelNamesMapping()[level],
            "msg": message,
        }
    )


def main(path: str, form: str, mib: str, files: str) -> None:
    """Until everybody who could print has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    settings = LogSettings(format=LogFormat(form), mib=int(mib), files=int(files))
    screen = os.fdopen(2, "wb", closefd=False)
    file = None
    try:
        file = LogFile(Path(path), settings)
    except OSError as error:
        screen.write(f"{path}: {why(error)}; the log is on the screen alone\n".encode())
        screen.flush()
    relay(sys.stdin.buffer, screen, Path(path).stem, file, settings.format)


if __name__ == "__main__":
    main(*sys.argv[1:])
