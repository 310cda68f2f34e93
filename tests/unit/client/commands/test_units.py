"""`asdnet-site units`: a service that systemd can read, and that the worker's walls survive."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client.cli import app


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "site_configs"
    for made in (folder, tmp_path / "state", tmp_path / "cache"):
        made.mkdir()
    return folder


def units(configs: Path, *more: str) -> Result:
    text = "site: A\ndata: ../data\ncache: ../cache\nstate: ../state\n" + "".join(more)
    (configs / "A.yaml").write_text(text, encoding="utf-8")
    options = ["--site", "A", "--configs", str(configs), "--user", "asdnet"]
    return CliRunner().invoke(app, ["units", *options, "--out", str(configs.parent / "units")])


def lines(configs: Path, key: str) -> list[str]:
    text = (configs.parent / "units" / "asdnet-site-A.service").read_text(encoding="utf-8")
    return re.findall(rf"^{key}=(.*)$", text, flags=re.M)


def test_the_service_writes_its_state_and_its_cache_alone(configs: Path) -> None:
    made = units(configs)
    assert made.exit_code == 0
    assert "systemctl enable --now asdnet-site-A.service" in made.stdout
    (command,) = lines(configs, "ExecStart")
    assert command.endswith(f" run --site A --configs {configs}")
    root = configs.parent
    assert lines(configs, "ReadWritePaths") == [f"{root}/state {root}/cache"]
    assert str(root / "data") in lines(configs, "RequiresMountsFor")[0].split()
    assert lines(configs, "User") == ["asdnet"]


def test_the_worker_can_still_leave_the_network_and_use_a_gpu(configs: Path) -> None:
    units(configs)
    assert lines(configs, "RestrictNamespaces") == ["user net"]
    for key in ("SystemCallFilter", "PrivateUsers", "MemoryDenyWriteExecute", "PrivateDevices"):
        assert lines(configs, key) == []
    units(configs, "device: cpu\n")
    assert lines(configs, "PrivateDevices") == ["yes"]


@pytest.mark.parametrize("missing", ["state", "cache"])
def test_a_folder_that_is_not_there_is_told(configs: Path, missing: str) -> None:
    (configs.parent / missing).rmdir()
    made = units(configs)
    assert made.exit_code == 2
    assert f"install -d -m 700 -o asdnet {configs.parent / missing}" in made.stderr
    assert not (configs.parent / "units").exists()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_systemd_has_nothing_to_say(configs: Path) -> None:
    units(configs)
    path = configs.parent / "units" / "asdnet-site-A.service"
    command = ["systemd-analyze", "verify", "--man=no", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
