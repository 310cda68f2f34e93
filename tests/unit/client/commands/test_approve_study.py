"""The command by which a person reads what a study does with the site's data, and decides."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from signed_studies import ISSUED, SigningCentre

from asdnet_models.networks import build_segmenter
from client.cli import app
from client.node.guard.studies import (
    StudyNotApprovedError,
    approved,
    check_study,
    verified_study,
    waiting,
)
from protocol.agreement.bundle import Bundle
from protocol.agreement.manifest import StudyFile
from protocol.config.site import SiteConfig, read_site
from protocol.config.study import StudyProtocol, merged
from protocol.keys import make_signing_key, openssh_fingerprint

PROTOCOL = StudyProtocol.model_validate(
    {"name": "pelvis", "seed": 3, "network": {"width": 1}, "confidence": {"width": 1}}
)
WEIGHTS = sum(w.numel() for w in build_segmenter(PROTOCOL).parameters())
INSTALLED = Bundle({}, "c" * 64)  # what SigningCentre signs


@pytest.fixture
def centre() -> SigningCentre:
    return SigningCentre("AB")


@pytest.fixture
def config(centre: SigningCentre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteConfig:
    monkeypatch.setattr("client.commands.approve.installed_bundle", lambda: INSTALLED)
    enrolled = centre.enrol(tmp_path, "A")
    for number in range(5):
        for folder in ("imagesTr", "labelsTr"):
            (enrolled.data / folder).mkdir(parents=True, exist_ok=True)
            (enrolled.data / folder / f"{number}.nii.gz").touch()
    for number in range(7):
        (enrolled.data / "imagesUn").mkdir(exist_ok=True)
        (enrolled.data / "imagesUn" / f"u{number}.nii.gz").touch()
    content = f"site: A\ndata: {enrolled.data}\ncache: cache\nstate: {enrolled.state}\n"
    (tmp_path / "A.yaml").write_text(content, encoding="utf-8")
    return read_site(tmp_path / "A.yaml")


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits before a terminal; what is typed comes with `run`."""
    monkeypatch.setattr("client.commands.approve.is_interactive", lambda: True)


def run(config: SiteConfig, *options: object, typed: str | None = None) -> Result:
    folder = config.state.parents[1]
    given = ["approve", "--site", "A", "--configs", str(folder), *map(str, options)]
    return CliRunner().invoke(app, given, input=typed)


def send(config: SiteConfig, file: StudyFile) -> str:
    """The digest of what now waits."""
    with pytest.raises(StudyNotApprovedError) as caught:
        check_study(config, verified_study(config, file))
    return caught.value.digest


def mail(folder: Path, file: StudyFile) -> Path:
    path = folder / "manifest.json"
    path.write_text(file.model_dump_json(indent=2), encoding="utf-8")
    return path


def digests(config: SiteConfig) -> list[str]:
    return [kept.item.digest for kept in approved(config)]


# ---- what is shown ------------------------------------------------------------------------------


def test_a_study_is_shown_in_words(centre: SigningCentre, config: SiteConfig) -> None:
    digest = send(config, centre.study(PROTOCOL))
    result = run(config, typed="y\n")
    assert result.exit_code == 1
    shown = " ".join(result.stdout.split())
    keys = {site: openssh_fingerprint(key.public_key()) for site, key in centre.keys.items()}
    for words in (
        "Study pelvis, run tiny-1, revision 1",
        f"digest {digest}",
        f"by the centre's key {openssh_fingerprint(centre.key.public_key())}",
        "segments bladder, prostate, rectum; by the method asdnet",
        "trains in 60 rounds, 50 steps each, of 2 labelled patches and as many unlabelled ones a",
        "a patch is 64 x 64 x 16 voxels of 1 x 1 x 1 mm",
        "an update rests on 100 labelled patches of 5 cases, and as many unlabelled ones of 7",
        "from round 4 on the confidence network judges what is predicted of them (Eq. 5)",
        "from round 16 on they are learnt from where the prediction is trusted (Eq. 6)",
        "once: how many cases of each kind there are, and the mean box of the organs",
        f"the weights of the segmentation network ({WEIGHTS:,}, {WEIGHTS * 4e-6:.1f} MB) and",
        "MB) as fp32, and sums of the losses",
        "12 times, after rounds 5, 10, 15, 20, 25, 30, ... 60: sums of DSC and surface distance",
        "no number of fewer than 3 cases (min_cases_reported)",
        f"A {keys['A']} (this site)",
        f"B {keys['B']}",
        "cccccccccccc: the version that is installed here",
        "met: min_cases 3, min_patches 20, min_local_steps 10,",
        "none is approved: this is the first",
        f"{digest[:12]} is not approved: run this in a terminal, or with --yes DIGEST",
    ):
        assert words in shown
    assert "BROKEN" not in shown
    assert digests(config) == []


def test_the_difference_to_the_study_approved_last_is_shown(
    centre: SigningCentre, config: SiteConfig, person: None
) -> None:
    before = centre.study(PROTOCOL)
    assert run(config, "--file", mail(config.state, before), typed="y\n").exit_code == 0
    other = SigningCentre("ABC", key=centre.key)
    other.keys |= centre.keys
    study = merged(PROTOCOL, {"training": {"local_steps": 40}, "organs": {"uterus": 4}})
    send(config, other.study(study, revision=2, issued=ISSUED + timedelta(1), code="d" * 64))
    lines = [line.strip() for line in run(config, typed="n\n").stdout.splitlines()]
    at = lines.index("Against the study approved last (run tiny-1)")
    assert lines[at + 1 : at + 6] == [
        "organs.uterus: nothing -> 4",
        "training.local_steps: 50 -> 40",
        f"site C is new: {openssh_fingerprint(other.keys['C'].public_key())}",
        "code: cccccccccccc -> dddddddddddd",
        "",
    ]
    assert any("NOT the version that is installed here (cccc" in line for line in lines)


def test_a_hostile_centre_cannot_reach_the_terminal(
    centre: SigningCentre, config: SiteConfig
) -> None:
    with pytest.raises(ValueError, match="organ"):
        merged(PROTOCOL, {"organs": {"\x1b[2J\x1b[31mball": 4}})
    send(config, centre.study(PROTOCOL))
    assert "\x1b" not in run(config).stdout


def test_where_cases_cannot_be_counted_it_says_so(
    centre: SigningCentre, config: SiteConfig
) -> None:
    next((config.data / "labelsTr").iterdir()).unlink()
    send(config, centre.study(PROTOCOL))
    assert "the cases here cannot be counted: asdnet-site check says why" in run(config).stdout


# ---- deciding -----------------------------------------------------------------------------------


def test_a_person_approves(centre: SigningCentre, config: SiteConfig, person: None) -> None:
    digest = send(config, centre.study(PROTOCOL))
    result = run(config, typed="y\n")
    assert result.exit_code == 0
    assert f"Approve study {digest[:12]} for site A? [y/N]" in result.stdout
    assert f"approved study {digest} for site A\n" in result.stdout
    assert digests(config) == [digest]
    assert run(config).stdout == "nothing waits for approval at site A\n"


@pytest.mark.parametrize("typed", ["\n", "n\n"])
def test_a_person_refuses(
    centre: SigningCentre, config: SiteConfig, person: None, typed: str
) -> None:
    digest = send(config, centre.study(PROTOCOL))
    result = run(config, typed=typed)
    assert result.exit_code == 0
    assert f"{digest[:12]} stays waiting" in result.stdout
    assert digests(config) == []
    assert len(waiting(config)) == 1


def test_a_file_that_was_mailed_is_approved_by_its_digest(
    centre: SigningCentre, config: SiteConfig, tmp_path: Path
) -> None:
    file = centre.study(PROTOCOL)
    path, digest = mail(tmp_path, file), file.signed.digest
    result = run(config, "--file", path, "--yes", "0" * 64)
    assert result.exit_code == 2
    assert f"manifest.json: holds study {digest}, not {'0' * 64}" in result.stderr
    assert digests(config) == []
    result = run(config, "--file", path, "--yes", digest)
    assert result.stdout == f"approved study {digest} for site A\n"
    assert digests(config) == [digest]
    check_study(config, verified_study(config, file))


def test_a_waiting_study_is_approved_unasked(centre: SigningCentre, config: SiteConfig) -> None:
    digest = send(config, centre.study(PROTOCOL))
    result = run(config, "--yes", digest)
    assert result.stdout == f"approved study {digest} for site A\n"
    assert digests(config) == [digest]


@pytest.mark.parametrize("attack", ["byte", "key", "protocol", "name", "nothing"])
def test_a_file_that_is_not_the_centres_is_not_shown(
    centre: SigningCentre, config: SiteConfig, tmp_path: Path, attack: str
) -> None:
    """The attacks on a mailed file: nothing of it reaches the screen as if it were true."""
    file = centre.study(PROTOCOL)
    short = merged(PROTOCOL, {"training": {"local_steps": 1}})
    swapped = {"A": centre.line("B"), "B": centre.line("A")}
    made: dict[str, Any] = {
        "byte": file.model_copy(update={"manifest": file.manifest.replace("60", "61", 1)}),
        "key": SigningCentre("AB", make_signing_key()).study(PROTOCOL),
        "protocol": file.model_copy(update={"protocol": short.canonical_json()}),
        "name": centre.study(PROTOCOL, sites=swapped),
        "nothing": None,
    }
    words = {
        "byte": "is not signed by the centre's key that is pinned here",
        "key": "is not signed by the centre's key that is pinned here",
        "protocol": "the protocol that came with it is not the one it was for",
        "name": "stands under another name, B; ask the centre by telephone who B is",
        "nothing": "is not the file of a signed study",
    }
    path = tmp_path / "manifest.json"
    path.write_text("{}", encoding="utf-8")
    if made[attack] is not None:
        mail(tmp_path, made[attack])
    for options in ((), ("--yes", file.signed.digest)):
        result = run(config, "--file", path, *options)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {path}: ")
        assert words[attack] in result.stderr
        assert result.stdout == ""
    assert digests(config) == []
    assert waiting(config) == []


def test_what_is_approved_is_what_was_shown(
    centre: SigningCentre,
    config: SiteConfig,
    person: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The attack: the file is swapped between show and approve, mailed or waiting."""
    good, other = centre.study(PROTOCOL), centre.study(PROTOCOL, run="other-1")

    def swap(path: Path) -> None:
        def confirm(_: str) -> bool:
            path.write_text(other.model_dump_json(), encoding="utf-8")
            return True

        monkeypatch.setattr("typer.confirm", confirm)

    path = mail(tmp_path, good)
    swap(path)
    assert run(config, "--file", path).exit_code == 0
    assert digests(config) == [good.signed.digest]
    assert run(config, "--revoke", good.signed.digest).exit_code == 0

    digest = send(config, good)
    swap(config.studies / "waiting" / f"{digest}.json")
    assert run(config).exit_code == 0
    assert digests(config) == [good.signed.digest]
    kept = json.loads((config.studies / "approved" / f"{digest}.json").read_bytes())
    assert kept["manifest"] == good.manifest
    with pytest.raises(StudyNotApprovedError):
        check_study(config, verified_study(config, other))


def test_a_study_beyond_a_limit_cannot_be_approved(
    centre: SigningCentre, config: SiteConfig, person: None, tmp_path: Path
) -> None:
    one_step = merged(PROTOCOL, {"training": {"local_steps": 1, "batch_size": 1}})
    file = centre.study(one_step)
    path = mail(tmp_path, file)
    result = run(config, "--file", path, typed="y\n")
    assert result.exit_code == 1
    broken = "BROKEN: limits.min_local_steps of A.yaml: training.local_steps is 1, this site allows"
    assert broken in result.stdout
    assert "BROKEN: limits.min_patches of A.yaml" in result.stdout
    assert "cannot be approved: it is beyond limits of this site" in result.stdout
    assert "Approve study" not in result.stdout
    result = run(config, "--file", path, "--yes", file.signed.digest)
    assert result.exit_code == 2
    assert "limits.min_local_steps of A.yaml: training.local_steps is 1" in result.stderr
    assert digests(config) == []
    # The site's people can decide otherwise, in the site's own file.
    own = config.state.parents[1] / "A.yaml"
    limits = "limits: {min_local_steps: 1, min_patches: 1}\n"
    own.write_text(own.read_text(encoding="utf-8") + limits, encoding="utf-8")
    assert run(config, "--file", path, "--yes", file.signed.digest).exit_code == 0


def test_too_few_cases_break_a_limit_too(
    centre: SigningCentre, config: SiteConfig, tmp_path: Path
) -> None:
    own = config.state.parents[1] / "A.yaml"
    text = own.read_text(encoding="utf-8")
    own.write_text(f"{text}limits: {{min_cases: 13}}\n", encoding="utf-8")
    file = centre.study(PROTOCOL)
    result = run(config, "--file", mail(tmp_path, file), "--yes", file.signed.digest)
    assert result.exit_code == 2
    assert "an update would rest on 12 training cases, this site allows 13 at least" in (
        result.stderr
    )


# ---- lists and revoking -------------------------------------------------------------------------


def test_list_and_revoke(centre: SigningCentre, config: SiteConfig, tmp_path: Path) -> None:
    yes, no = centre.study(PROTOCOL), centre.study(PROTOCOL, run="other-1")
    run(config, "--file", mail(tmp_path, yes), "--yes", yes.signed.digest)
    send(config, no)
    lines = [line.split() for line in run(config, "--list").stdout.splitlines()]
    assert [line[:3] for line in lines[1:]] == [
        ["study", "approved", yes.signed.digest],
        ["study", "waiting", no.signed.digest],
    ]
    assert lines[2][-4:] == ["run", "other-1,", "revision", "1"]
    result = run(config, "--revoke", yes.signed.digest)
    assert result.stdout == f"revoked {yes.signed.digest} for site A\n"
    assert digests(config) == []


def test_a_later_revision_says_what_it_replaces(
    centre: SigningCentre, config: SiteConfig, tmp_path: Path
) -> None:
    first = centre.study(PROTOCOL)
    second = centre.study(PROTOCOL, revision=2, issued=ISSUED + timedelta(days=1))
    run(config, "--file", mail(tmp_path, first), "--yes", first.signed.digest)
    result = run(config, "--file", mail(tmp_path, second), "--yes", second.signed.digest)
    assert result.stdout.splitlines() == [
        f"{first.signed.digest[:12]}, signed earlier for the same run, is approved no longer",
        f"approved study {second.signed.digest} for site A",
    ]


@pytest.mark.parametrize("option", [("--list",), ("--digest", "ab"), ("--revoke", "0" * 64)])
def test_a_file_goes_with_yes_alone(config: SiteConfig, option: tuple[str, ...]) -> None:
    result = run(config, "--file", "manifest.json", *option)
    assert result.exit_code == 2
    assert "--file: only with --yes, or alone" in result.stderr


def test_a_file_that_is_missing_or_endless(config: SiteConfig, tmp_path: Path) -> None:
    result = run(config, "--file", tmp_path / "none.json")
    assert result.exit_code == 2
    assert "none.json: no such file" in result.stderr
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(17 * 2**20)
    result = run(config, "--file", huge)
    assert result.exit_code == 2
    assert "no study is so long" in result.stderr
