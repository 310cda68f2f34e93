"""`asdnet-centre studies`: the list for people and for programs."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_centre import busy_centre, made_centre

from server.cli import app
from server.monitoring.run_folder import RunFolder


def call(*arguments: str, columns: str = "200") -> Result:
    return CliRunner().invoke(app, ["studies", *arguments], env={"COLUMNS": columns})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    centre, _ = busy_centre(tmp_path_factory.mktemp("busy") / "centre", datetime.now(UTC))
    return centre.folder


def test_every_study_with_how_it_stands(folder: Path) -> None:
    with RunFolder(folder / "runs" / "pelvis-2026").lock():
        shown = call("--centre", str(folder))
    assert shown.exit_code == 0
    cells = [[c.strip() for c in line.split("│")[1:-1]] for line in shown.output.splitlines()]
    assert [row for row in cells if row] == [
        ["pelvis-2026", "at work", "5", "18 of 40", "36:48", "sites train, 1 of 3 answered"],
        ["prostate-pilot", "paused", "0", "8 of 60", "1:23:12", "by a person"],
        ["bladder-2025", "finished", "-", "20 of 20", "-", ""],
    ]


def test_json_has_all_of_it(folder: Path) -> None:
    studies = {s["name"]: s for s in json.loads(call("--centre", str(folder), "--json").output)}
    assert studies["prostate-pilot"]["state"] == "paused"
    assert len(studies["prostate-pilot"]["dsc"]) == 6
    # Nobody holds it now.
    assert studies["pelvis-2026"]["state"] == "died"


def test_a_centre_without_studies(tmp_path: Path) -> None:
    centre = made_centre(tmp_path / "centre")
    shown = call("--centre", str(centre.folder))
    assert shown.output == "no study yet; start one: asdnet-centre run --study study.yaml\n"
    assert json.loads(call("--centre", str(centre.folder), "--json").output) == []
    assert call("--centre", str(tmp_path)).exit_code == 2


def test_what_cannot_be_read_is_said_and_hides_nothing(tmp_path: Path) -> None:
    centre, _ = busy_centre(tmp_path / "centre", datetime.now(UTC))
    (centre.runs / "pelvis-2026" / "run.json").write_text("{")
    shown = call("--centre", str(centre.folder))
    assert "prostate-pilot" in shown.stdout and "pelvis-2026/run.json" in shown.stderr
    assert shown.exit_code == 1
