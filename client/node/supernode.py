"""Flower's SuperNode as a child process: it holds the connection, and runs no code of the centre.

`python -m client.node.supernode PARENT_PID INSTRUCTION_BYTES BYTES_A_SECOND ...` takes
flower-supernode's own options, pulls no larger instruction, is no faster (0: no bound), and
ends when the parent does, so that no orphan keeps the site's identity.
"""

import protocol.telemetry  # isort: skip

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from client.node.child_output import ChildOutput
from flower_compat.refusal import CONNECTED
from protocol.config.site import SiteConfig

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_PARENT_POLL_S, _LAST_LINES_S = 0.5, 2.0
_SIGN_OFF_S = 10.0


class SuperNode:
    """One start of the SuperNode; its Runtime API listens on loopback, behind a secret."""

    def __init__(self, config: SiteConfig, site_file: Path) -> None:
        self.secret = secrets.token_bytes(32)
        self.address = f"{_LOOPBACK}:{_free_port()}"
        secret_file = config.state / "runtime.secret"
        secret_file.parent.mkdir(parents=True, exist_ok=True)
        secret_file.unlink(missing_ok=True)
        with os.fdopen(
            os.open(secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        ) as f:
            f.write(self.secret)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-u", "-m", "client.node.supernode"),
                *(str(os.getpid()), str(config.limits.instruction_bytes)),
                str(config.limits.bytes_a_second or 0),
                *("--superlink", str(config.centre)),
                *("--root-certificates", str(config.ca_file)),
                *("--auth-supernode-private-key", str(config.key_file)),
                *("--node-config", f'site-config="{site_file.resolve()}"'),
                *("--isolation", "process", "--superexec-auth-secret-file", str(secret_file)),
                *("--host", _LOOPBACK, "--port", self.address.rpartition(":")[2]),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        # Some of its lines quote the centre.
        self._output = ChildOutput(self._process.stdout, log, mark=CONNECTED)

    @property
    def was_connected(self) -> bool:
        """Whether the centre has taken this site's key."""
        return self._output.marked

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def stop(self, patience_s: float = _SIGN_OFF_S) -> None:
        """Ask it to sign off at the centre; end it if it does not."""
        if self.exit_code is None:
            self._process.terminate()
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._output.join(_LAST_LINES_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with(parent: int) -> None:
    """Sign off at the centre once the parent has ended; end in any case, a little later."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SIGN_OFF_S)
    os._exit(1)


if __name__ == "__main__":
    from flower_compat.supernode import run_supernode

    # The terminal's Ctrl-C is for the parent, which ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(int(sys.argv.pop(1)),), daemon=True).start()
    run_supernode(array_bytes=int(sys.argv.pop(1)), bytes_per_s=int(sys.argv.pop(1)))
