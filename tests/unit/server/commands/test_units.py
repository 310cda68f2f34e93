"""`asdnet-centre units`: three services that systemd can read."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.admin.centre import Centre, create_centre
from server.cli import app

NAMES = ["asdnet-mlflow.service", "asdnet-studies.service", "asdnet-superlink.service"]


def make(tmp_path: Path, port: int = 9092) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",), port=port)
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    return made


def units(centre: Centre, *options: str) -> Result:
    out = str(centre.folder.parent / "units")
    common = ["units", "--out", out, "--user", "asdnet", "--centre", str(centre.folder)]
    return CliRunner().invoke(app, [*common, *options])


def read(centre: Centre) -> dict[str, str]:
    folder = centre.folder.parent / "units"
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


def line(text: str, key: str) -> str:
    return " ".join(re.findall(rf"^{key}=(.*)$", text, flags=re.M))


def test_three_services_are_written(tmp_path: Path) -> None:
    centre = make(tmp_path)
    made = units(centre, "--mlflow-port", "5055")
    assert made.exit_code == 0 and "systemctl enable --now asdnet-superlink.service" in made.stdout
    texts = read(centre)
    assert list(texts) == NAMES
    for text in texts.values():
        assert line(text, "User") == "asdnet"
        assert line(text, "ReadWritePaths") == str(centre.folder)
    mlflow, studies, superlink = texts.values()
    assert line(superlink, "ExecStart").endswith(f" superlink --centre {centre.folder}")
    assert line(studies, "ExecStart").endswith(f" serve --centre {centre.folder}")
    assert line(studies, "After") == "network-online.target asdnet-superlink.service"
    assert line(studies, "EnvironmentFile") == f"-{centre.folder}/alerts.env"
    assert "--host 127.0.0.1 --port 5055 " in line(mlflow, "ExecStart")
    assert f"sqlite:///{centre.folder}/mlflow.db" in line(mlflow, "ExecStart")
    assert "MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true" in line(mlflow, "Environment")
    assert line(mlflow, "IPAddressDeny") == "any"


def test_a_low_port_needs_one_right(tmp_path: Path) -> None:
    centre = make(tmp_path, port=443)
    units(centre)
    texts = read(centre)
    assert line(texts["asdnet-superlink.service"], "AmbientCapabilities") == "CAP_NET_BIND_SERVICE"
    assert line(texts["asdnet-studies.service"], "AmbientCapabilities") == ""


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    centre = make(tmp_path)
    units(centre)
    files = sorted((tmp_path / "units").iterdir())
    command = ["systemd-analyze", "verify", "--man=no", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_is_no_centre_is_one_message(tmp_path: Path) -> None:
    centre = make(tmp_path)
    centre.facts_file.unlink()
    made = units(centre)
    assert made.exit_code == 2 and "is not a centre" in made.stderr
    assert not (tmp_path / "units").exists()
