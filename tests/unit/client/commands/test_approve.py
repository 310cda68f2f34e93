"""The command by which a person at the site looks at code and decides on it."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from flwr.cli.build import build_fab_from_disk

from client.cli import app
from client.node.approval import NotApprovedError, approve, approved, check_bundle, waiting
from protocol.agreement.bundle import Bundle, installed_bundle
from protocol.config.site import SiteConfig, read_site

PROJECT = """[project]
name = "tiny"
version = "1.0.0"

[tool.flwr.app]
publisher = "centre"

[tool.flwr.app.components]
serverapp = "tinyapp.server:app"
clientapp = "tinyapp.client:app"
"""
INSTALLED = "x = 1\n"


def write_app(root: Path, code: str) -> Path:
    (root / "tinyapp").mkdir(parents=True, exist_ok=True)
    (root / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (root / "tinyapp" / "client.py").write_text(code, encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkout of the installed version."""
    checkout = write_app(tmp_path / "tiny-app", INSTALLED)

    def installed() -> Bundle:
        return installed_bundle(checkout)

    monkeypatch.setattr("client.commands.approve.installed_bundle", installed)
    return checkout


@pytest.fixture
def config(tmp_path: Path, root: Path) -> SiteConfig:
    content = "site: A\ndata: data\ncache: cache\nstate: state\n"
    (tmp_path / "A.yaml").write_text(content, encoding="utf-8")
    return read_site(tmp_path / "A.yaml")


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits before a terminal; what is typed comes with `run`."""
    monkeypatch.setattr("client.commands.approve.is_interactive", lambda: True)


def send(config: SiteConfig, root: Path, code: str) -> str:
    """The digest of what now waits."""
    fab = build_fab_from_disk(write_app(root.parent / "sent" / "tiny-app", code))
    with pytest.raises(NotApprovedError) as caught:
        check_bundle(config, fab, root)
    return caught.value.digest


def run(config: SiteConfig, *options: str, typed: str | None = None) -> Result:
    folder = config.state.parent
    return CliRunner().invoke(
        app, ["approve", "--site", "A", "--configs", str(folder), *options], input=typed
    )


def digests(config: SiteConfig) -> list[str]:
    return [kept.item.digest for kept in approved(config)]


def test_nothing_waits(config: SiteConfig) -> None:
    result = run(config)
    assert result.exit_code == 0
    assert result.stdout == "nothing waits for approval at site A\n"


def test_without_a_terminal_it_shows_and_does_not_approve(config: SiteConfig, root: Path) -> None:
    digest = send(config, root, "x = 2\n")
    result = run(config, typed="y\n")
    assert result.exit_code == 1
    assert f"waiting  {digest}  " in result.stdout
    assert "2 files\n" in result.stdout
    installed = installed_bundle(root).digest
    assert f"{digest[:12]} against the installed version ({installed[:12]}):" in result.stdout
    assert "changed  tinyapp/client.py (+1 -1 lines)" in result.stdout
    assert "-x = 1\n+x = 2\n" in result.stdout
    assert f"{digest[:12]} is not approved: run this in a terminal" in result.stdout
    assert digests(config) == []
    assert len(waiting(config)) == 1


def test_a_person_approves(config: SiteConfig, root: Path, person: None) -> None:
    digest = send(config, root, "x = 2\n")
    result = run(config, typed="y\n")
    assert result.exit_code == 0
    assert f"Approve {digest[:12]} for site A? [y/N]" in result.stdout
    assert f"approved {digest} for site A\n" in result.stdout
    assert digests(config) == [digest]
    assert run(config).stdout == "nothing waits for approval at site A\n"


@pytest.mark.parametrize("typed", ["\n", "n\n", "no\n"])
def test_a_person_refuses(config: SiteConfig, root: Path, person: None, typed: str) -> None:
    digest = send(config, root, "x = 2\n")
    result = run(config, typed=typed)
    assert result.exit_code == 0
    assert f"{digest[:12]} stays waiting" in result.stdout
    assert digests(config) == []
    assert len(waiting(config)) == 1


def test_an_end_of_input_approves_nothing(config: SiteConfig, root: Path, person: None) -> None:
    send(config, root, "x = 2\n")
    assert run(config, typed="").exit_code == 1
    assert digests(config) == []


def test_the_difference_is_to_the_version_approved_last(config: SiteConfig, root: Path) -> None:
    before = send(config, root, "x = 2\n")
    approve(config, before)
    digest = send(config, root, "x = 2\ny = 3\n")
    shown = run(config).stdout
    assert f"{digest[:12]} against the version approved last ({before[:12]}):" in shown
    assert " x = 2\n+y = 3\n" in shown
    assert "x = 1" not in shown


def test_each_is_asked_about(config: SiteConfig, root: Path, person: None) -> None:
    first = send(config, root, "x = 2\n")
    second = send(config, root, "x = 3\n")
    result = run(config, typed="n\nn\n")
    assert result.stdout.count("? [y/N]") == 2
    assert {first, second} == {kept.item.digest for kept in waiting(config)}


def test_one_is_chosen_by_its_first_digits(config: SiteConfig, root: Path, person: None) -> None:
    first = send(config, root, "x = 2\n")
    second = send(config, root, "x = 3\n")
    prefix = next(first[:n] for n in range(1, 64) if not second.startswith(first[:n]))
    result = run(config, "--digest", prefix, typed="y\n")
    assert result.exit_code == 0
    assert second[:12] not in result.stdout
    assert digests(config) == [first]


@pytest.mark.parametrize("prefix", ["", "x"])
def test_digits_that_fit_none_or_all_are_refused(
    config: SiteConfig, root: Path, prefix: str
) -> None:
    send(config, root, "x = 2\n")
    result = run(config, "--digest", prefix)
    assert result.exit_code == 2
    assert "0 of 1 waiting studies and app bundles begin so" in result.stderr
    assert result.stdout == ""


def test_yes_needs_the_whole_digest(config: SiteConfig, root: Path) -> None:
    digest = send(config, root, "x = 2\n")
    for given, said in [
        (digest[:12], "is not a digest of 64 digits"),
        ("0" * 64, "is not waiting at this site"),
    ]:
        result = run(config, "--yes", given)
        assert result.exit_code == 2
        assert said in result.stderr
        assert digests(config) == []
    result = run(config, "--yes", digest)
    assert result.exit_code == 0
    assert result.stdout == f"approved {digest} for site A\n"
    assert digests(config) == [digest]


def test_revoke(config: SiteConfig, root: Path) -> None:
    digest = send(config, root, "x = 2\n")
    assert run(config, "--revoke", digest).exit_code == 2
    approve(config, digest)
    result = run(config, "--revoke", digest)
    assert result.exit_code == 0
    assert result.stdout == f"revoked {digest} for site A\n"
    assert send(config, root, "x = 2\n") == digest


def test_list(config: SiteConfig, root: Path) -> None:
    yes = send(config, root, "x = 2\n")
    approve(config, yes)
    waits = send(config, root, "x = 3\n")
    by_hand = "ab" * 32
    file = config.state.parent / "A.yaml"
    file.write_text(f"{file.read_text()}approved_bundles: [{by_hand}]\n", encoding="utf-8")
    result = run(config, "--list")
    assert result.exit_code == 0
    lines = [line.split()[:2] for line in result.stdout.splitlines()]
    assert lines == [
        ["installed", installed_bundle(root).digest],
        ["approved", yes],
        ["approved", by_hand],
        ["waiting", waits],
    ]


def test_what_was_installed_meanwhile_needs_no_approval(config: SiteConfig, root: Path) -> None:
    digest = send(config, root, "x = 2\n")
    write_app(root, "x = 2\n")
    result = run(config)
    assert result.exit_code == 0
    assert f"{digest[:12]} is the version installed here: it runs without approval" in result.stdout


def test_a_hostile_file_cannot_reach_the_terminal(config: SiteConfig, root: Path) -> None:
    send(config, root, "x = 2  # \x1b[2J\x1b[31m[bold]:smile: \u202e\n")
    shown = run(config).stdout
    assert r"+x = 2  # \x1b[2J\x1b[31m[bold]:smile: \u202e" in shown
    assert "\x1b" not in shown


def test_mistakes_give_status_2_and_no_traceback(config: SiteConfig) -> None:
    for options, said in [
        (["--yes", "0" * 64, "--list"], "give only one of"),
        (["--site", "B"], "B.yaml: cannot be read"),
    ]:
        result = run(config, *options)
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stdout == ""


def test_it_is_started_from_the_checkout(config: SiteConfig) -> None:
    checkout = Path(__file__).parents[4]
    folder = str(config.state.parent)
    done = subprocess.run(
        [sys.executable, "-m", "client.cli", "approve", "--site", "A", "--configs", folder],
        cwd=checkout,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "nothing waits for approval at site A\n"
