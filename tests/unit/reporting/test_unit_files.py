"""Unit files, as systemd itself reads them."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from reporting import unit_files
from reporting.unit_files import Unit, UnitError, program, user_of_service, write_units

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not here")


def make(folder: Path, **changes: object) -> Unit:
    facts: dict[str, object] = {
        "name": "asdnet-test",
        "description": "a test",
        "command": (sys.executable, "--folder", str(folder)),
        "user": "asdnet",
        "writable": (folder,),
    }
    return Unit(**{**facts, **changes})  # type: ignore[arg-type]


def verified(files: Sequence[Path]) -> str:
    """What systemd has to say of them; empty: nothing."""
    assert ANALYZE is not None
    command = [ANALYZE, "verify", "--man=no", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f"{done.returncode}")


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, flags=re.M)


@needs_systemd
@pytest.mark.parametrize("name", ["plain", "with space", "100%h", "$HOME", "größe"])
def test_systemd_reads_a_unit_whatever_its_folder_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_units(tmp_path / "units", [make(folder, environment={"PLACE": str(folder)})])
    assert verified([tmp_path / "units" / "asdnet-test.service"]) == ""


def test_a_percent_is_no_specifier_and_a_dollar_no_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "100%h $HOME"
    folder.mkdir()
    monkeypatch.chdir(folder)
    text = make(folder, environment={"PLACE": str(folder)}).text()
    assert values(text, "WorkingDirectory") == [f"{tmp_path}/100%%h $HOME"]
    assert values(text, "ReadWritePaths") == [f'"{tmp_path}/100%%h $HOME"']
    assert values(text, "Environment") == [f'"PLACE={tmp_path}/100%%h $HOME"']
    (command,) = values(text, "ExecStart")
    assert command.endswith(f' "{tmp_path}/100%%h $$HOME"')


@needs_systemd
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ProtectSystem=strict", "ProtectSystem=very"),
        ("RestartSec=10", "RestartSeconds=10"),
        ("ExecStart=/", "ExecStart=/nowhere/"),
        ("ReadWritePaths=/", "ReadWritePaths=x/"),
    ],
)
def test_systemd_would_tell_of_a_broken_one(old: str, new: str, tmp_path: Path) -> None:
    text = make(tmp_path).text()
    assert text.count(old) == 1
    path = tmp_path / "asdnet-test.service"
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert verified([path]) != ""


@pytest.mark.parametrize("name", ["a\nExecStartPre=x", 'a"b', "a'b", "a\\b"])
def test_a_folder_that_no_unit_can_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnitError, match="choose another folder"):
        write_units(tmp_path / "units", [make(tmp_path), make(tmp_path / name)])
    assert not (tmp_path / "units").exists()


def test_what_is_needed_below_home_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_files, "_python", lambda: [Path("/opt/python")])
    monkeypatch.setattr(unit_files, "_CODE", Path("/opt/code"))
    monkeypatch.setattr(Path, "cwd", lambda: Path("/srv"))
    assert values(make(Path("/srv/centre")).text(), "ProtectHome") == ["yes"]
    for folder in ("/home/a/centre", "/root/centre"):
        assert values(make(Path(folder)).text(), "ProtectHome") == ["read-only"]
    monkeypatch.setattr(unit_files, "_python", lambda: [Path("/home/a/.pyenv")])
    assert values(make(Path("/srv/centre")).text(), "ProtectHome") == ["read-only"]


def test_it_starts_again_for_ever_but_not_on_a_wrong_file(tmp_path: Path) -> None:
    text = make(tmp_path, restart_s=60).text()
    assert values(text, "Restart") == ["always"] and values(text, "RestartSec") == ["60"]
    assert values(text, "StartLimitIntervalSec") == ["0"]
    assert values(text, "RestartPreventExitStatus") == ["78"]


def test_the_user_is_named_and_root_is_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(UnitError, match="best not root"):
        user_of_service(None)
    assert user_of_service("root") == "root"
    for wrong in ("a b", "x\nUser=root", "-x"):
        with pytest.raises(UnitError, match="must be a user's name"):
            user_of_service(wrong)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("getpass.getuser", lambda: "asdnet")
    assert user_of_service(None) == "asdnet"


def test_a_command_is_found_beside_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert program("tool", "a.b") == (str(tmp_path / "python"), "-m", "a.b")
    (tmp_path / "tool").touch()
    assert program("tool", "a.b") == (str(tmp_path / "tool"),)


def test_what_to_do_next_names_every_file(tmp_path: Path) -> None:
    lines = write_units(tmp_path, [make(tmp_path), make(tmp_path, name="asdnet-other")])
    assert lines[0].startswith("2 unit files written, for the user asdnet")
    told = "\n".join(lines)
    assert str(tmp_path / "asdnet-other.service") in told and "daemon-reload" in told
    assert "enable --now asdnet-test.service asdnet-other.service" in told
