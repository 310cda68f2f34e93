"""A site runs once on its folder of state; whoever died is in nobody's way."""

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from client.node.running import AlreadyRunningError, running_now, running_once
from protocol.config.site import SiteConfig

ROOT = Path(__file__).parents[4]
HOLD = """
import sys
from pathlib import Path
from client.node.running import running_once
from protocol.config.site import SiteConfig
folder = Path(sys.argv[1])
with running_once(SiteConfig(site="A", data=folder, cache=folder, state=folder / "state")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def config(tmp_path: Path) -> SiteConfig:
    return SiteConfig(site="A", data=tmp_path, cache=tmp_path, state=tmp_path / "state")


def test_a_killed_site_leaves_a_file_and_no_lock(config: SiteConfig) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(config.data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        words = f"process {other.pid} (since "
        assert running_now(config).startswith(words)
        refused = pytest.raises(
            AlreadyRunningError, match=f"site A: already running, process {other.pid}"
        )
        with refused, running_once(config):
            raise AssertionError("it runs twice")
        other.send_signal(signal.SIGKILL)
        other.wait()
    file = config.state / "running.lock"
    assert str(other.pid) in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert running_now(config) == ""
    with running_once(config):
        assert str(other.pid) not in running_now(config)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 5000])
def test_what_stands_in_the_file_decides_nothing(config: SiteConfig, content: bytes) -> None:
    config.state.mkdir()
    file = config.state / "running.lock"
    file.write_bytes(content)
    assert running_now(config) == ""
    with running_once(config):
        file.write_bytes(content)
        assert running_now(config) == "in a process that has not said which"


def test_an_error_of_the_site_is_its_own(config: SiteConfig) -> None:
    from protocol.files import LockedError

    with pytest.raises(LockedError, match="another's"), running_once(config):
        raise LockedError("another's")


def test_a_look_at_a_site_that_never_ran_makes_nothing(config: SiteConfig) -> None:
    assert running_now(config) == ""
    assert not config.state.exists()
