"""What may run at a site: the installed version, what a person approved, and nothing else."""

import getpass
import hashlib
import os
import stat
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from client.node.approval import (
    ApprovedCode,
    NotApprovedError,
    approve,
    approved,
    check_bundle,
    last_approved,
    revoke,
    waiting,
)
from client.node.decisions import MAX_WAITING, ApprovalError, Decision
from protocol.agreement.bundle import BundleError, installed_bundle, read_bundle
from protocol.config.site import SiteConfig

PROJECT = """[project]
name = "tiny"
version = "1.0.0"

[tool.flwr.app]
publisher = "centre"

[tool.flwr.app.components]
serverapp = "tinyapp.server:app"
clientapp = "tinyapp.client:app"
"""


@pytest.fixture
def config(tmp_path: Path) -> SiteConfig:
    return SiteConfig(
        site="A", data=tmp_path / "d", cache=tmp_path / "c", state=tmp_path / "state" / "A"
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The checkout of the installed version."""
    return write_app(tmp_path / "tiny-app", "installed = True\n")


def write_app(root: Path, code: str) -> Path:
    (root / "tinyapp" / "sub").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (root / "tinyapp" / "__init__.py").write_text("", encoding="utf-8")
    (root / "tinyapp" / "sub" / "client.py").write_text(code, encoding="utf-8")
    return root


@pytest.fixture
def fab(tmp_path: Path) -> bytes:
    """What the centre sends: one byte differs from the installed version."""
    return build_fab_from_disk(write_app(tmp_path / "other" / "tiny-app", "installed = True \n"))


def another(fab: bytes, number: int) -> bytes:
    """A bundle of one more file."""
    files = dict(read_bundle(fab).files) | {"tinyapp/more.py": f"n = {number}\n".encode()}
    lines = []
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
            lines.append(f"{name},{digest_of(content)},{8 * len(content)}")
        archive.writestr(".info/CONTENT", "\n".join(lines))
    return buffer.getvalue()


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def send(config: SiteConfig, fab: bytes, root: Path) -> str:
    """A bundle that is refused; its digest."""
    with pytest.raises(NotApprovedError) as caught:
        check_bundle(config, fab, installed_bundle(root).digest)
    return caught.value.digest


def send_and_approve(config: SiteConfig, fab: bytes, root: Path) -> ApprovedCode:
    approve(config, send(config, fab, root))
    return check_bundle(config, fab, installed_bundle(root).digest)


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def decisions(config: SiteConfig) -> list[Decision]:
    lines = (config.bundles / "approvals.jsonl").read_text(encoding="utf-8").splitlines()
    return [Decision.model_validate_json(line) for line in lines]


def test_the_installed_version_runs_unasked(config: SiteConfig, root: Path) -> None:
    fab = build_fab_from_disk(root)
    assert check_bundle(config, fab, installed_bundle(root).digest) == ApprovedCode(
        read_bundle(fab).digest, read_bundle(fab).files
    )
    assert not config.bundles.exists()


def test_one_byte_more_is_refused_and_kept(config: SiteConfig, root: Path, fab: bytes) -> None:
    with pytest.raises(NotApprovedError) as caught:
        check_bundle(config, fab, installed_bundle(root).digest)
    digest = read_bundle(fab).digest
    assert caught.value.digest == digest
    assert str(caught.value) == (
        f"app bundle {digest[:12]} is not approved at this site; look at it and approve it with:"
        " asdnet-site approve --site A"
    )
    assert content_of(config.bundles) == {f"waiting/{digest}.fab": fab}
    assert stat.S_IMODE(config.bundles.stat().st_mode) == 0o700
    assert not any(name.partition(".")[0] == "tinyapp" for name in sys.modules)


def test_a_hostile_bundle_is_not_even_kept(config: SiteConfig, root: Path, fab: bytes) -> None:
    with pytest.raises(BundleError):
        check_bundle(config, fab[:-10], installed_bundle(root).digest)
    assert not config.bundles.exists()


def test_approved_code_is_what_came_and_nothing_is_unpacked(
    config: SiteConfig, root: Path, fab: bytes
) -> None:
    code = send_and_approve(config, fab, root)
    assert code == ApprovedCode(read_bundle(fab).digest, read_bundle(fab).files)
    assert sorted(os.listdir(config.bundles)) == ["approvals.jsonl", "approved", "waiting"]
    assert waiting(config) == []
    assert [kept.item.digest for kept in approved(config)] == [code.digest]


def test_a_changed_approval_does_not_count(
    config: SiteConfig, root: Path, fab: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    code = send_and_approve(config, fab, root)
    file = config.bundles / "approved" / f"{code.digest}.fab"
    for content, said in [(another(fab, 1), "holds another bundle"), (fab[:-1], "is damaged")]:
        caplog.clear()
        file.write_bytes(content)
        assert send(config, fab, root) == code.digest
        assert said in caplog.text
        assert last_approved(config) is None
    send(config, another(fab, 1), root)  # neither is what was put in its place


def test_a_changed_waiting_file_cannot_be_approved(
    config: SiteConfig, root: Path, fab: bytes
) -> None:
    digest = send(config, fab, root)
    file = config.bundles / "waiting" / f"{digest}.fab"
    for content in (another(fab, 1), b"none"):
        file.write_bytes(content)
        assert waiting(config) == []
        with pytest.raises(ApprovalError, match="holds something else"):
            approve(config, digest)
    assert not (config.bundles / "approved").exists()
    assert not (config.bundles / "approvals.jsonl").exists()
    send(config, fab, root)  # sent again, it can
    approve(config, digest)
    assert check_bundle(config, fab, installed_bundle(root).digest).digest == digest


def test_what_is_revoked_is_refused_again(config: SiteConfig, root: Path, fab: bytes) -> None:
    code = send_and_approve(config, fab, root)
    revoke(config, code.digest)
    assert send(config, fab, root) == code.digest
    assert last_approved(config) is None
    assert [(one.digest, one.action, one.user) for one in decisions(config)] == [
        (code.digest, "approved", getpass.getuser()),
        (code.digest, "revoked", getpass.getuser()),
    ]
    with pytest.raises(ApprovalError, match="is not approved at this site"):
        revoke(config, code.digest)


def test_digests_of_the_site_file_are_honoured(config: SiteConfig, root: Path, fab: bytes) -> None:
    digest = send(config, fab, root)
    trusting = config.model_copy(update={"approved_bundles": (digest,)})
    code = check_bundle(trusting, fab, installed_bundle(root).digest)
    assert code.files == read_bundle(fab).files
    assert waiting(trusting) == []
    with pytest.raises(ApprovalError, match=r"remove it from approved_bundles in A\.yaml"):
        revoke(trusting, digest)
    send(trusting, another(fab, 1), root)


def test_the_last_approval_is_the_newest_that_holds(
    config: SiteConfig, root: Path, fab: bytes
) -> None:
    assert last_approved(config) is None
    first, second = (send_and_approve(config, another(fab, n), root).digest for n in (1, 2))
    newest = config.bundles / "approved" / f"{first}.fab"
    os.utime(newest, (2e9, 2e9))  # a copied file may be younger than its approval
    found = last_approved(config)
    assert found is not None
    assert found.digest == second
    revoke(config, second)
    found = last_approved(config)
    assert found is not None
    assert found.digest == first


def test_no_more_than_some_are_kept_waiting(config: SiteConfig, root: Path, fab: bytes) -> None:
    digests = []
    for number in range(MAX_WAITING):
        digests.append(send(config, another(fab, number), root))
        file = config.bundles / "waiting" / f"{digests[-1]}.fab"
        os.utime(file, (1000 + number, 1000 + number))
    assert [kept.item.digest for kept in waiting(config)] == digests
    assert send(config, another(fab, 3), root) == digests[3]  # once more: nothing is pushed out
    os.utime(config.bundles / "waiting" / f"{digests[3]}.fab", (5000, 5000))
    assert len(waiting(config)) == MAX_WAITING
    newest = send(config, fab, root)
    assert [kept.item.digest for kept in waiting(config)] == [
        *(digest for digest in digests[1:] if digest != digests[3]),
        digests[3],
        newest,
    ]


@pytest.mark.parametrize("digest", ["", "../../x", "0" * 63, "0" * 65, "F" * 64, "0" * 64 + "\n"])
def test_what_is_no_digest_is_no_path(config: SiteConfig, digest: str) -> None:
    for decide in (approve, revoke):
        with pytest.raises(ApprovalError, match="is not a digest of 64 digits"):
            decide(config, digest)


def test_what_never_came_cannot_be_approved(config: SiteConfig) -> None:
    with pytest.raises(ApprovalError, match="000000000000: is not waiting at this site"):
        approve(config, "0" * 64)


def test_an_unfinished_line_of_the_log_costs_no_other(
    config: SiteConfig, root: Path, fab: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first = send_and_approve(config, another(fab, 1), root).digest
    with (config.bundles / "approvals.jsonl").open("ab") as file:
        file.write(b'{"time": "2026-')
    second = send_and_approve(config, another(fab, 2), root).digest
    assert [kept.item.digest for kept in approved(config)] == [first, second]
    assert "approvals.jsonl, line 2: is not readable" in caplog.text


def test_a_user_without_a_name_can_decide(
    config: SiteConfig, root: Path, fab: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    send_and_approve(config, fab, root)
    assert [one.user for one in decisions(config)] == ["unknown"]
