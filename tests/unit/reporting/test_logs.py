"""The log's lines and files: rotated, private, and never in the program's way."""

import io
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from rooms import ROOT

from reporting.log_relay import relay
from reporting.logs import (
    JsonFormatter,
    LogFile,
    LogFormat,
    LogSettings,
    logging_to,
    record_of,
    say_about,
)

SMALL = LogSettings(mib=1, files=3)


def record(text: str, name: str = "client.node") -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": name, "msg": text, "levelno": logging.INFO, "levelname": "INFO", "created": 0.25}
    )


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    say_about()
    yield
    say_about()


def test_a_json_line_has_what_is_known() -> None:
    say_about(run="tiny-1", round=3)
    line = JsonFormatter().format(record("a\nb\x1b[2J\u202e%s"))
    assert line.isprintable() and line.isascii()
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "INFO",
        "logger": "client.node",
        "message": "a\nb\x1b[2J\u202e%s",
        "run": "tiny-1",
        "round": 3,
    }


def test_a_record_survives_its_line() -> None:
    say_about(run="tiny-1")
    line = JsonFormatter().format(record("100 %"))
    say_about(run="another")
    again = record_of(line)
    assert again is not None
    assert (again.name, again.levelno, again.created) == ("client.node", logging.INFO, 0.25)
    assert JsonFormatter().format(again) == line


@pytest.mark.parametrize(
    "line", ["", "text", "{", "[]", "{}", '{"time": 1, "level": "X", "logger": "", "message": ""}']
)
def test_another_line_is_no_record(line: str) -> None:
    assert record_of(line) is None


def test_a_file_is_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    handler = LogFile(tmp_path / "logs" / "site.log", SMALL)
    for number in range(50):
        handler.handle(record(f"{number} " + "x" * 2**17))
    handler.close()
    files = sorted(path.name for path in (tmp_path / "logs").glob("site.log*"))
    assert files == ["site.log", "site.log.1", "site.log.2"]
    for path in (tmp_path / "logs").iterdir():
        assert path.stat().st_size <= 2**20
        assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "logs").stat().st_mode & 0o077 == 0
    text = (tmp_path / "logs" / "site.log").read_text()
    assert "client.node: 49 x" in text


def test_a_file_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "site.log").write_text("before\n")
    (tmp_path / "site.log").chmod(0o644)
    handler = LogFile(tmp_path / "site.log", SMALL)
    handler.handle(record("after"))
    handler.close()
    assert (tmp_path / "site.log").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "site.log").read_text().startswith("before\n")


def test_two_do_not_write_one_file(tmp_path: Path) -> None:
    first = LogFile(tmp_path / "site.log", SMALL)
    with pytest.raises(OSError, match="another process writes it"):
        LogFile(tmp_path / "site.log", SMALL)
    first.close()
    LogFile(tmp_path / "site.log", SMALL).close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "site.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        LogFile(tmp_path / "site.log", SMALL)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has a disk that is full")
def test_a_full_disk_is_said_once_and_forgotten_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> TextIO:
        return open("/dev/full", "a", encoding="utf-8")

    handler = LogFile(tmp_path / "site.log", SMALL)
    handler.handle(record("one"))
    real = handler._open
    monkeypatch.setattr(handler, "_open", full)
    handler.handleError(record(""))
    assert capsys.readouterr().err.count("\n") == 1
    for number in range(3):
        handler.handle(record(f"lost {number}"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(handler, "_open", real)
    handler.handle(record("two"))
    handler.close()
    lines = (tmp_path / "site.log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["one", "two"]


def test_a_folder_that_cannot_be_written_is_a_line_on_the_screen(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    code = f"""
        import logging
        from pathlib import Path
        from reporting.logs import LogSettings, logging_to
        with logging_to(Path({str(tmp_path / "logs" / "site.log")!r}), LogSettings()):
            logging.getLogger("x").info("goes on")
    """
    done = run_code(code)
    assert done.returncode == 0
    assert "the log is on the screen alone" in done.stderr
    assert "x: goes on" in done.stderr


def test_settings_survive_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = LogSettings(format=LogFormat.JSON, mib=3, files=7)
    for name, value in chosen.to_environment().items():
        monkeypatch.setenv(name, value)
    assert LogSettings.from_environment() == chosen
    monkeypatch.setenv("ASDNET_LOG_MIB", "many")
    assert LogSettings.from_environment() == LogSettings()


PRINTED = b"\x1b[32mINFO \x1b[0m:      Starting\nplain\n"
DATED = b"2026-11-30T21:16:14.626Z ERROR [uvicorn.error] No more\nINFORMAL\n"


def test_a_relay_shows_lines_as_they_are_and_keeps_them_with_a_time(tmp_path: Path) -> None:
    file, screen = LogFile(tmp_path / "superlink.log", SMALL), io.BytesIO()
    relay(io.BytesIO(PRINTED), screen, "superlink", file, LogFormat.TEXT)
    file.close()
    assert screen.getvalue() == PRINTED
    first, second = (tmp_path / "superlink.log").read_text().splitlines()
    assert first.endswith("superlink: Starting") and first[:2] == "20"
    assert second.endswith("superlink: plain")


def test_a_relay_knows_levels_of_others() -> None:
    screen = io.BytesIO()
    relay(io.BytesIO(DATED), screen, "superlink", None, LogFormat.JSON)
    lines = [json.loads(line) for line in screen.getvalue().splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("ERROR", "[uvicorn.error] No more"),
        ("INFO", "INFORMAL"),
    ]


def test_a_relay_makes_json_of_lines_and_keeps_records() -> None:
    screen = io.BytesIO()
    say_about(run="tiny-1")
    made = JsonFormatter().format(record("from a ServerApp", "server.app"))
    say_about()
    relay(io.BytesIO(PRINTED + made.encode()), screen, "superlink", None, LogFormat.JSON)
    lines = [json.loads(line) for line in screen.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["Starting", "plain", "from a ServerApp"]
    assert [line["logger"] for line in lines] == ["superlink", "superlink", "server.app"]
    assert lines[2]["run"] == "tiny-1" and "run" not in lines[0]


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


def test_what_a_program_and_its_children_print_is_relayed_to_its_last_line(
    tmp_path: Path,
) -> None:
    done = run_code(f"""
        import os, subprocess, sys
        from pathlib import Path
        from reporting.log_relay import relay_output
        from reporting.logs import LogSettings
        relay_output(Path({str(tmp_path / "superlink.log")!r}), LogSettings())
        print("of the program", flush=True)
        subprocess.run([sys.executable, "-c", "print('of a child')"])
        raise KeyError("its end")
    """)
    text = (tmp_path / "superlink.log").read_text()
    for words in ("of the program", "of a child", "KeyError: 'its end'"):
        assert words in done.stderr and words in text
    assert done.returncode == 1


def test_a_launcher_that_is_killed_leaves_its_last_lines(tmp_path: Path) -> None:
    done = run_code(f"""
        import os, signal
        from pathlib import Path
        from reporting.log_relay import relay_output
        from reporting.logs import LogSettings
        relay_output(Path({str(tmp_path / "superlink.log")!r}), LogSettings())
        print("the last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert done.returncode == -9
    # The relay holds stderr, so that this process has waited for its end.
    assert "the last words" in (tmp_path / "superlink.log").read_text()


def test_the_log_is_in_the_file_while_the_launcher_is_at_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = logging.getLogger().handlers[:]
    with logging_to(tmp_path / "serve.log", LogSettings(format=LogFormat.JSON)):
        logging.getLogger("server").info("at work")
    assert logging.getLogger().handlers == before
    logging.getLogger("server").info("afterwards")
    [line] = (tmp_path / "serve.log").read_text().splitlines()
    assert json.loads(line)["message"] == "at work"


@pytest.mark.parametrize(
    "line",
    [
        "[" * 60000,
        '{"a":' * 60000,
        '{"time":"9999-12-31T23:59:59-23:00","level":"INFO","logger":"x","message":"y"}',
        '{"time":"0001-01-01T00:00:00+23:00","level":"INFO","logger":"x","message":"y"}',
    ],
)
def test_no_line_ends_whoever_reads_it(line: str) -> None:
    assert record_of(line) is None
