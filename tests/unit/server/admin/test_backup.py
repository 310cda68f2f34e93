"""A centre in one file, and back."""

import io
import os
import sqlite3
import stat
import tarfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from protocol.config.study import StudyProtocol
from server.admin.centre import Centre, create_centre, read_centre
from server.cli import app
from server.monitoring.run_folder import RunFacts, RunFolder


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    run = RunFolder(made.runs / "one")
    run.create(RunFacts(name="one", mlflow_uri="x://"), StudyProtocol())
    run.add_event("round", round=7, line="")
    run.updates.mkdir()
    (run.updates / "A.safetensors").write_bytes(b"of a round at work")
    with run.lock():
        pass
    (made.folder / "audit.jsonl").write_text("{}\n", encoding="utf-8")
    return made


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_centre_comes_back_as_it_was(centre: Centre, tmp_path: Path) -> None:
    out, folder = tmp_path / "b.tar", tmp_path / "again"
    result = call("backup", "--out", out, "--centre", centre.folder)
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    result = call("restore", out, "--centre", folder)
    assert result.exit_code == 0, result.output
    assert "not finished at the time of the backup: one (after round 7)" in result.stdout
    found, was = contents(folder), contents(centre.folder)
    left_out = {"runs/one/lock", "runs/one/updates/A.safetensors"}
    assert was.keys() - found.keys() == left_out
    assert found == {name: was[name] for name in found}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "flower").is_dir()
    assert read_centre(folder).model_copy(update={"folder": centre.folder}) == centre


def test_a_database_at_work_is_whole(centre: Centre, tmp_path: Path) -> None:
    out, folder = tmp_path / "b.tar", tmp_path / "again"
    with closing(sqlite3.connect(centre.database)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (x)")
        writer.execute("INSERT INTO t VALUES (42)")
        writer.commit()
        writer.execute("INSERT INTO t VALUES (43)")  # not committed
        call("backup", "--out", out, "--centre", centre.folder)
    call("restore", out, "--centre", folder)
    with closing(sqlite3.connect(folder / "superlink.db")) as reader:
        assert reader.execute("SELECT x FROM t").fetchall() == [(42,)]
    assert not list(centre.folder.glob(".draft-*"))


def test_nothing_is_replaced(centre: Centre, tmp_path: Path) -> None:
    out = tmp_path / "b.tar"
    out.write_bytes(b"mine")
    result = call("backup", "--out", out, "--centre", centre.folder)
    assert result.exit_code == 2 and "is there already; choose another --out" in result.stderr
    assert out.read_bytes() == b"mine"
    good = tmp_path / "good.tar"
    call("backup", "--out", good, "--centre", centre.folder)
    before = contents(centre.folder)
    result = call("restore", good, "--centre", centre.folder)
    assert result.exit_code == 2 and "is there already and is not empty" in result.stderr
    assert contents(centre.folder) == before


@pytest.mark.parametrize("harm", ["cut", "text", "changed", "outside", "missing", "newer"])
def test_a_damaged_backup_restores_nothing(centre: Centre, tmp_path: Path, harm: str) -> None:
    out, folder = tmp_path / "b.tar", tmp_path / "again"
    call("backup", "--out", out, "--centre", centre.folder)
    if harm == "cut":
        os.truncate(out, out.stat().st_size // 2)
    elif harm == "text":
        out.write_text("no archive", encoding="utf-8")
    else:
        rewrite(out, harm)
    result = call("restore", out, "--centre", folder)
    assert result.exit_code == 2, result.output
    assert str(out) in result.stderr and "Traceback" not in result.stderr
    assert not folder.exists()
    assert not (tmp_path / "evil").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "centre"]


def rewrite(out: Path, harm: str) -> None:
    with tarfile.open(out) as archive:
        members = {
            member.name: stream.read()
            for member in archive
            if (stream := archive.extractfile(member)) is not None
        }
    if harm == "changed":
        members["sites.json"] += b" "
    if harm == "missing":
        del members["ca.pem"]
    if harm == "newer":
        members["backup.json"] = members["backup.json"].replace(b'"version": 1', b'"version": 2')
    if harm == "outside":
        members["../evil"] = members["sites.json"]
        listed = members["backup.json"].decode()
        members["backup.json"] = listed.replace('"sites.json"', '"../evil"').encode()
    with tarfile.open(out, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
