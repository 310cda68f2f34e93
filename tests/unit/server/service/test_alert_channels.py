"""Deliveries as they are: a server of SMTP, one of HTTP, a program."""

import json
import os
import select
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from server.service.alert_channels import Delivery
from server.service.alert_log import Alert
from server.service.alert_settings import Channel
from server.service.send_url import main

SECRET = "topsecret"  # pragma: allowlist secret
ALERT = Alert(
    number=7,
    time=datetime(2026, 12, 1, 12, tzinfo=UTC),
    kind="left_out_twice",
    study="pelvis",
    site="B",
    message="site B was left out of rounds 2 and 3 of study pelvis (offline)",
)


class _Smtp(socketserver.StreamRequestHandler):
    """As little of a mail server as a client needs."""

    def handle(self) -> None:
        self._say("220 sink")
        for line in iter(self.rfile.readline, b""):
            word = line.strip().upper()
            if word == b"DATA":
                self._say("354 go on")
                while (part := self.rfile.readline()) != b".\r\n":
                    cast(Any, self.server).got.append(part.decode())
            self._say("221 bye" if word == b"QUIT" else "250 ok")

    def _say(self, words: str) -> None:
        self.wfile.write(f"{words}\r\n".encode())


class _Http(socketserver.StreamRequestHandler):
    """Takes one POST; answers with the server's status."""

    def handle(self) -> None:
        length = 0
        while (line := self.rfile.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        cast(Any, self.server).got.append(self.rfile.read(length).decode())
        self.wfile.write(f"HTTP/1.1 {cast(Any, self.server).status} x\r\n\r\n".encode())


@contextmanager
def sink(handler: type[socketserver.BaseRequestHandler], status: int = 200) -> Iterator[Any]:
    with socketserver.TCPServer(("127.0.0.1", 0), handler) as server:
        attributes = cast(Any, server)
        attributes.got, attributes.status = [], status
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def deliver(channel: dict[str, Any], **options: Any) -> str:
    """Why it has not gone."""
    return Delivery(Channel.model_validate(channel), ALERT, **options).wait()


def send(url: str) -> str:
    """What the process that sends to a URL does, in this one."""
    return main({"url": url, "title": ALERT.title, "body": ALERT.message, "time_limit_s": 30.0})


def test_a_webhook_is_called_by_a_process_that_prints_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with sink(_Http, 503) as server:
        url = f"json://u:{SECRET}@127.0.0.1:{server.server_address[1]}/hook/{SECRET}"
        outcome = deliver({"url_from": "HOOK"}, environment={**os.environ, "HOOK": url})
    assert outcome == "refused with status 503"
    body = json.loads(server.got[0])
    assert body["title"] == "ASDNet: left out twice: pelvis B"
    assert body["message"] == f"{ALERT.message}\n\n2026-12-01 12:00 UTC, alert 7"
    assert capfd.readouterr() == ("", "")


def test_a_mail_arrives() -> None:
    with sink(_Smtp) as server:
        where = f"127.0.0.1:{server.server_address[1]}"
        assert send(f"mailto://{where}?from=c@example.org&to=h@example.org&mode=insecure") == ""
    mail = "".join(server.got)
    assert f"Subject: {ALERT.title}" in mail and "To: h@example.org" in mail
    assert ALERT.message in mail.replace("=\r\n", "")


def test_why_a_url_fails_is_told_without_it() -> None:
    with sink(_Http) as server:
        where = f"json://u:{SECRET}@127.0.0.1:{server.server_address[1]}/{SECRET}"
        assert send(where) == ""
    reasons = [send(where), send(f"none://u:{SECRET}@x"), send(f"mailto://u:{SECRET}@h:bad")]
    assert reasons == [
        "no connection, or user and password are not accepted",
        "apprise does not know this URL",
        "apprise does not know this URL",
    ]
    assert deliver({"url_from": "HOOK"}, environment={}) == "the environment has no variable HOOK"


def test_a_url_is_in_no_argument_and_what_is_said_of_it_not_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    started: list[Any] = []
    plain = subprocess.Popen

    def popen(command: Any, **options: Any) -> Any:
        started.append(command)
        return plain([sys.executable, "-c", "import os; os.write(2, os.read(0, 999))"], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    assert deliver({"url": f"json://{SECRET}"}) == ""
    assert started and SECRET not in str(started)
    assert capfd.readouterr() == ("", "")


def test_a_command_gets_the_alert_on_its_input(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    # An argument stays one, whatever is in it: there is no shell.
    assert deliver({"command": [sys.executable, "-c", code, str(out)]}) == ""
    assert Alert.model_validate_json(out.read_text("utf-8")) == ALERT


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/nowhere/program"], "it cannot be started (no such file or directory)"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "exit status 3"),
        (["x\0y"], "it cannot be started (its arguments are none)"),
    ],
)
def test_a_command_that_fails_is_told(command: list[str], words: str) -> None:
    assert deliver({"command": command}) == words


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = (
        "import subprocess, sys, time\n"
        "out = open(sys.argv[1], 'wb', 0)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], stdout=out)\n"
        "out.write(b'begun')\n"
        "time.sleep(99)\n"
    )
    delivery = Delivery(Channel(command=(sys.executable, "-c", code, str(fifo))), ALERT)
    with fifo.open("rb") as both:
        assert both.read(5) == b"begun"
        assert delivery.result() is None
        delivery._deadline = 0.0
        assert delivery.result() == "no end within 30 s"
        # At its end: nobody has it open any more.
        assert select.select([both], [], [], 30.0)[0] == [both]
        assert both.read() == b""
