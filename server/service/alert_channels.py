"""Takes alerts out of this machine: each delivery is a process, which nothing waits for.

A channel that fails is tried again, with pauses from a minute to an hour, for a week.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from protocol.wording import counted
from server.service.alert_log import Alert, AlertLog
from server.service.alert_settings import Channel

TIME_LIMIT_S = 30.0
_SENDER = Path(__file__).with_name("send_url.py")
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
_TRIED_FOR = timedelta(days=7)
_CANNOT_START = "it cannot be started"

log = logging.getLogger(__name__)


class Delivery:
    """One alert on its way over one channel."""

    def __init__(
        self,
        channel: Channel,
        alert: Alert,
        *,
        environment: Mapping[str, str] = os.environ,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        self._deadline = time.monotonic() + time_limit_s
        self._limit_s = time_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._failure, self._of_url = "", channel.command is None
        url = channel.target(environment)
        if self._of_url and not url:
            self._failure = f"the environment has no variable {channel.url_from}"
            return
        text = alert.model_dump_json()
        if self._of_url:
            asked = {
                "url": url,
                "title": alert.title,
                "body": f"{alert.message}\n\n{alert.time:%Y-%m-%d %H:%M} UTC, alert {alert.number}",
                "time_limit_s": time_limit_s,
            }
            text = json.dumps(asked)
        self._start(channel.command or (sys.executable, "-P", str(_SENDER)), text)

    def _start(self, command: tuple[str, ...], text: str) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self._of_url else subprocess.DEVNULL,
                # What apprise prints may quote the URL; a command's own words are its owner's.
                stderr=subprocess.DEVNULL if self._of_url else None,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or "its arguments are none").lower()
            self._failure = f"{_CANNOT_START} ({reason})"
            return
        assert self._process.stdin is not None
        with suppress(OSError), self._process.stdin as stdin:
            # Fits into the pipe: nobody is waited for to read it.
            stdin.write(text.encode())

    def result(self) -> str | None:
        """Why it failed; empty: it has gone; None: it is still on its way."""
        if self._process is None:
            return self._failure
        status = self._process.poll()
        if status is None and time.monotonic() < self._deadline:
            return None
        if status is None:
            self.end()
            return f"no end within {self._limit_s:g} s"
        output = self._process.stdout.read(200) if self._process.stdout is not None else b""
        words = output.decode(errors="replace").strip() if status == 1 else ""
        return "" if status == 0 else words or f"exit status {status}"

    def wait(self) -> str:
        """`result` once there is one."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, self._deadline - time.monotonic()))
        while (result := self.result()) is None:
            time.sleep(0.01)
        return result

    def end(self) -> None:
        """Now, with all that it has started."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Outbox:
    """The alerts that have still to go over one channel, one at a time.

    Args:
        name: Of the channel.
        start: Begins a delivery.
        log: Where each is settled.
    """

    def __init__(self, name: str, start: Callable[[Alert], Delivery], log: AlertLog) -> None:
        self._name, self._start, self._log = name, start, log
        self._queue: deque[Alert] = deque()
        self._under_way: Delivery | None = None
        self._failures = 0
        self._not_before: datetime | None = None

    @property
    def idle(self) -> bool:
        """Nothing is on its way."""
        return self._under_way is None

    def put(self, alert: Alert) -> None:
        self._queue.append(alert)

    def look(self, now: datetime) -> None:
        """Take note of what has ended, and begin what is due; returns at once."""
        if self._under_way is not None:
            if (result := self._under_way.result()) is None:
                return
            self._under_way = None
            self._note(result, now)
        while self._queue and now - self._queue[0].time > _TRIED_FOR:
            late = self._queue.popleft()
            log.error("alert %d: given up over %s after a week", late.number, self._name)
            self._log.settle(late, self._name, now, given_up=True)
        if self._queue and (self._not_before is None or now >= self._not_before):
            self._under_way = self._start(self._queue[0])

    def wait(self, now: datetime) -> None:
        """For what is on its way, at most its time limit."""
        if self._under_way is not None:
            self._under_way.wait()
            self.look(now)

    def close(self) -> None:
        """End what is on its way; it is sent again after the next start."""
        if self._under_way is not None:
            self._under_way.end()

    def _note(self, result: str, now: datetime) -> None:
        if not result:
            self._failures, self._not_before = 0, None
            self._log.settle(self._queue.popleft(), self._name, now)
            return
        pause = min(_FIRST_PAUSE * 2 ** min(self._failures, 10), _LONGEST_PAUSE)
        self._failures += 1
        self._not_before = now + pause
        log.warning(
            "alert %d: not sent over %s (%s); tried again in %s",
            *(self._queue[0].number, self._name, result),
            counted(pause / timedelta(minutes=1), "minute"),
        )
        # One that this channel never takes holds no other up.
        self._queue.rotate(-1)
