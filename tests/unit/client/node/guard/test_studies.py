"""Which studies a site believes, which of those a person has approved, and what an approval is."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from signed_studies import ISSUED, SigningCentre

from client.node.decisions import MAX_WAITING, ApprovalError, Decision
from client.node.guard.studies import (
    StudyNotApprovedError,
    approve,
    approved,
    check_study,
    find_waiting,
    last_approved,
    read_study,
    revoke,
    verified_study,
    waiting,
)
from protocol.agreement.manifest import InitialWeights, ManifestError, Study, StudyFile
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged
from protocol.keys import make_key, make_signing_key, openssh_private

PROTOCOL = StudyProtocol(name="pelvis", seed=3)


@pytest.fixture
def centre() -> SigningCentre:
    return SigningCentre("AB")


@pytest.fixture
def config(centre: SigningCentre, tmp_path: Path) -> SiteConfig:
    return centre.enrol(tmp_path, "A")


def ask(config: SiteConfig, file: StudyFile) -> Study:
    """As each instruction is checked."""
    study = verified_study(config, file)
    check_study(config, study)
    return study


def refused(config: SiteConfig, file: StudyFile) -> str:
    """The study is believed and not approved; its digest."""
    with pytest.raises(StudyNotApprovedError) as caught:
        ask(config, file)
    return caught.value.digest


def decisions(config: SiteConfig) -> list[tuple[str, str]]:
    lines = (config.studies / "approvals.jsonl").read_text(encoding="utf-8").splitlines()
    read = [Decision.model_validate_json(line) for line in lines]
    assert all(decision.user for decision in read)
    return [(decision.action, decision.digest) for decision in read]


def stored(config: SiteConfig) -> list[str]:
    return sorted(path.name for path in config.state.rglob("*") if path.is_file())


# ---- approval -----------------------------------------------------------------------------------


def test_a_study_waits_until_a_person_approves_it(
    centre: SigningCentre, config: SiteConfig
) -> None:
    file = centre.study(PROTOCOL)
    digest = refused(config, file)
    assert [kept.item.digest for kept in waiting(config)] == [digest]
    assert approved(config) == []
    assert approve(config, find_waiting(config, digest)) == []
    assert ask(config, file).manifest.run == "tiny-1"
    assert waiting(config) == []
    assert [kept.item.digest for kept in approved(config)] == [digest]
    assert decisions(config) == [("approved", digest)]
    modes = {path.stat().st_mode & 0o077 for path in config.studies.rglob("*") if path.is_file()}
    assert (config.studies / "approved").stat().st_mode & 0o077 == 0
    assert modes <= {0, 0o044}  # the log of decisions has no secret


def test_the_message_says_which_study_and_what_to_do(
    centre: SigningCentre, config: SiteConfig
) -> None:
    with pytest.raises(StudyNotApprovedError) as caught:
        ask(config, centre.study(PROTOCOL))
    assert str(caught.value) == (
        f"study pelvis, run tiny-1 ({caught.value.digest[:12]}) is not approved at this site; look"
        " at what it does with this site's data and approve it with: asdnet-site approve --site A"
    )


def test_it_can_be_approved_before_it_has_come(centre: SigningCentre, config: SiteConfig) -> None:
    """As a file that was mailed."""
    file = centre.study(PROTOCOL)
    approve(config, read_study(config, file.model_dump_json().encode()))
    ask(config, file)


def test_the_sites_file_approves_too(centre: SigningCentre, config: SiteConfig) -> None:
    file = centre.study(PROTOCOL)
    unasked = config.model_copy(update={"approved_studies": (file.signed.digest,)})
    ask(unasked, file)
    with pytest.raises(ApprovalError, match=r"remove it from approved_studies in A\.yaml"):
        revoke(unasked, file.signed.digest)
    refused(config, file)


def test_what_is_revoked_runs_no_longer(centre: SigningCentre, config: SiteConfig) -> None:
    file = centre.study(PROTOCOL)
    study = verified_study(config, file)
    approve(config, study)
    revoke(config, study.digest)
    assert refused(config, file) == study.digest
    assert decisions(config) == [("approved", study.digest), ("revoked", study.digest)]
    with pytest.raises(ApprovalError, match="is not approved at this site"):
        revoke(config, study.digest)


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "tiny-2"},
        {"code": "d" * 64},
        {"revision": 2},
        {"weights": {"segmenter": "e" * 64, "confidence": "b" * 64}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_approval_is_for_one_manifest(
    centre: SigningCentre, config: SiteConfig, changes: dict[str, Any]
) -> None:
    approve(config, verified_study(config, centre.study(PROTOCOL)))
    refused(config, centre.study(PROTOCOL, **changes))


def test_a_later_revision_replaces_the_earlier_one(
    centre: SigningCentre, config: SiteConfig
) -> None:
    """The attack: an earlier revision of the same run, approved once, is sent again."""
    first, second = (
        centre.study(PROTOCOL, revision=n, code=str(n) * 64, issued=ISSUED + timedelta(days=n))
        for n in (1, 2)
    )
    approve(config, verified_study(config, first))
    other_run = centre.study(PROTOCOL, run="other-1")
    approve(config, verified_study(config, other_run))
    assert approve(config, verified_study(config, second)) == [first.signed.digest]
    ask(config, second)
    ask(config, other_run)
    refused(config, first)
    with pytest.raises(
        ApprovalError, match=r"of run tiny-1 was signed on 2026-11-30 .*, signed on 2026-12-01"
    ):
        approve(config, verified_study(config, first))
    last = last_approved(config)
    assert last is not None and last.digest == second.signed.digest


def test_a_study_beyond_a_limit_cannot_be_approved(
    centre: SigningCentre, config: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ["training.local_steps: 1, at least 50 are needed; raise limits.min_steps"]
    monkeypatch.setattr("client.node.guard.studies.limits_broken_by", lambda *_: broken)
    study = verified_study(config, centre.study(PROTOCOL))
    with pytest.raises(ApprovalError) as caught:
        approve(config, study)
    assert "is beyond limits of site A and cannot be approved" in str(caught.value)
    assert broken[0] in str(caught.value)
    assert approved(config) == []


def test_no_more_than_a_bounded_number_wait(centre: SigningCentre, config: SiteConfig) -> None:
    """The attack: a centre signs studies without end, to fill the disk."""
    digests = [refused(config, centre.study(PROTOCOL, run=f"run-{n}")) for n in range(23)]
    assert len(waiting(config)) == MAX_WAITING
    assert digests[-1] in {kept.item.digest for kept in waiting(config)}


# ---- what is not believed: nothing of it is stored ----------------------------------------------


def unbelieved(config: SiteConfig, file: StudyFile, words: str) -> None:
    before = stored(config)
    with pytest.raises(ManifestError, match=words):
        ask(config, file)
    assert stored(config) == before


def test_a_study_signed_by_another_key(centre: SigningCentre, config: SiteConfig) -> None:
    other = SigningCentre("AB", key=make_signing_key())
    other.keys = centre.keys
    unbelieved(config, other.study(PROTOCOL), "is not signed by the centre's key that is pinned")


def test_a_study_changed_in_one_byte(centre: SigningCentre, config: SiteConfig) -> None:
    file = centre.study(PROTOCOL)
    approve(config, verified_study(config, file))
    text = file.manifest.replace('"rounds":60', '"rounds":61')
    unbelieved(config, file.model_copy(update={"manifest": text}), "is not signed by the centre's")


def test_an_approved_manifest_replayed_with_another_protocol(
    centre: SigningCentre, config: SiteConfig
) -> None:
    file = centre.study(PROTOCOL)
    approve(config, verified_study(config, file))
    one_step = merged(PROTOCOL, {"training": {"local_steps": 1, "batch_size": 1}})
    replay = file.model_copy(update={"protocol": one_step.canonical_json()})
    unbelieved(config, replay, "the protocol that came with it is not the one it was for")


def test_this_sites_key_under_another_name(centre: SigningCentre, config: SiteConfig) -> None:
    swapped = {"A": centre.line("B"), "B": centre.line("A")}
    unbelieved(config, centre.study(PROTOCOL, sites=swapped), "stands under another name, B")


def test_a_roster_without_this_site(centre: SigningCentre, config: SiteConfig) -> None:
    alone = {"B": centre.line("B")}
    unbelieved(config, centre.study(PROTOCOL, sites=alone), "site A does not take part")


def test_a_new_key_of_the_site_is_not_in_an_old_roster(
    centre: SigningCentre, config: SiteConfig
) -> None:
    config.key_file.write_bytes(openssh_private(make_key()))
    unbelieved(config, centre.study(PROTOCOL), "under site A stands another key")


def test_without_the_centres_key_nothing_is_believed(
    centre: SigningCentre, config: SiteConfig
) -> None:
    config.centre_key_file.unlink()
    unbelieved(config, centre.study(PROTOCOL), "this site believes no study: asdnet-site enrol")
    config.centre_key_file.write_text("ssh-rsa AAAA\n", encoding="utf-8")
    unbelieved(config, centre.study(PROTOCOL), "must hold one OpenSSH public key line")


def test_another_pinned_key_ends_all_approvals(centre: SigningCentre, config: SiteConfig) -> None:
    file = centre.study(PROTOCOL)
    approve(config, verified_study(config, file))
    centre.key = make_signing_key()
    centre.pin(config.centre_key_file)
    assert approved(config) == []
    unbelieved(config, file, "is not signed by the centre's key that is pinned")


# ---- files that were changed meanwhile ----------------------------------------------------------


def test_a_file_swapped_between_show_and_approve(centre: SigningCentre, config: SiteConfig) -> None:
    """The attack: something else lies in waiting/ by the time of the approval."""
    digest = refused(config, centre.study(PROTOCOL))
    shown = find_waiting(config, digest)
    other = centre.study(PROTOCOL, run="other-1")
    path = config.studies / "waiting" / f"{digest}.json"
    path.write_text(other.model_dump_json(), encoding="utf-8")
    with pytest.raises(ApprovalError, match="its file in waiting/ holds something else; delete"):
        find_waiting(config, digest)
    approve(config, shown)
    assert [kept.item.manifest.run for kept in approved(config)] == ["tiny-1"]
    refused(config, other)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[]"])
def test_a_damaged_approval_is_none(
    centre: SigningCentre, config: SiteConfig, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = centre.study(PROTOCOL)
    study = verified_study(config, file)
    approve(config, study)
    (config.studies / "approved" / f"{study.digest}.json").write_bytes(content)
    assert refused(config, file) == study.digest
    assert "is damaged and does not count" in caplog.text


def test_an_approval_under_another_name_is_none(
    centre: SigningCentre, config: SiteConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """The attack: the file of an approved study is given the name of another."""
    file, other = centre.study(PROTOCOL), centre.study(PROTOCOL, run="other-1")
    approve(config, verified_study(config, file))
    folder = config.studies / "approved"
    (folder / f"{file.signed.digest}.json").rename(folder / f"{other.signed.digest}.json")
    refused(config, other)
    assert "holds another study than it is named after" in caplog.text


@pytest.mark.parametrize("digest", ["../../A", "0" * 63, "A" * 64, ""])
def test_what_is_no_digest_names_no_file(config: SiteConfig, digest: str) -> None:
    with pytest.raises(ApprovalError, match="is not a digest of 64 digits"):
        find_waiting(config, digest)


def test_a_file_that_is_no_study_says_so(config: SiteConfig) -> None:
    with pytest.raises(ManifestError, match="is not the file of a signed study"):
        read_study(config, b"PK")
    with pytest.raises(ManifestError, match="is not the file of a signed study"):
        read_study(config, json.dumps({"manifest": "{}", "signature": ""}).encode())


# ---- updates of the code ------------------------------------------------------------------------

NEW = {"code": "d" * 64, "revision": 2, "issued": ISSUED + timedelta(hours=1)}


def following(config: SiteConfig, *bundles: str) -> SiteConfig:
    return config.model_copy(update={"code_updates": "follow", "approved_bundles": bundles})


def test_a_revision_of_known_code_needs_no_approval_of_its_own(
    centre: SigningCentre, config: SiteConfig
) -> None:
    first = verified_study(config, centre.study(PROTOCOL))
    approve(config, first)
    second = verified_study(config, centre.study(PROTOCOL, **NEW))
    for wary in (config, following(config), config.model_copy(update={"approved_bundles": ()})):
        with pytest.raises(StudyNotApprovedError):
            check_study(wary, second, installed="e" * 64)
    check_study(following(config, NEW["code"]), second)
    assert [kept.item.digest for kept in approved(config)] == [second.digest]
    assert waiting(config) == []
    lines = (config.studies / "approvals.jsonl").read_text(encoding="utf-8").splitlines()
    users = [Decision.model_validate_json(line).user for line in lines]
    assert users[1] == "code_updates: follow" != users[0]
    # The first one is not approved any more, and a later one may be of what is installed.
    with pytest.raises(StudyNotApprovedError):
        check_study(following(config, "c" * 64), first)
    third = NEW | {"code": "f" * 64, "revision": 3, "issued": ISSUED + timedelta(hours=2)}
    check_study(
        following(config), verified_study(config, centre.study(PROTOCOL, **third)), "f" * 64
    )


def test_what_a_person_has_revoked_is_not_followed(
    centre: SigningCentre, config: SiteConfig
) -> None:
    first = verified_study(config, centre.study(PROTOCOL))
    second = verified_study(config, centre.study(PROTOCOL, **NEW))
    site = following(config, NEW["code"])
    approve(site, first)
    check_study(site, second)
    revoke(site, second.digest)
    approve(site, first)
    with pytest.raises(StudyNotApprovedError):
        check_study(site, second)
    assert [kept.item.digest for kept in approved(site)] == [first.digest]


def test_what_the_file_approves_too_is_followed(centre: SigningCentre, config: SiteConfig) -> None:
    first = verified_study(config, centre.study(PROTOCOL))
    approve(config, first)
    both = {"approved_studies": (first.digest,)}
    site = following(config, NEW["code"]).model_copy(update=both)
    check_study(site, verified_study(config, centre.study(PROTOCOL, **NEW)))


@pytest.mark.parametrize(
    "other",
    [
        {"run": "tiny-2"},
        {"revision": 1},
        {"issued": ISSUED},
        {"weights": InitialWeights(segmenter="9" * 64, confidence="b" * 64)},
        {"asks": "fingerprint"},
        {"sites": {}},  # another roster; see below
    ],
)
def test_whatever_else_is_new_is_asked_for(
    centre: SigningCentre, config: SiteConfig, other: dict[str, Any]
) -> None:
    approve(config, verified_study(config, centre.study(PROTOCOL)))
    if "sites" in other:
        other = {"sites": {"A": centre.line("A")}}
    study = verified_study(config, centre.study(PROTOCOL, **(NEW | other)))
    with pytest.raises(StudyNotApprovedError):
        check_study(following(config, NEW["code"]), study)


def test_another_protocol_is_asked_for(centre: SigningCentre, config: SiteConfig) -> None:
    approve(config, verified_study(config, centre.study(PROTOCOL)))
    changed = merged(PROTOCOL, {"training": {"local_steps": 77}})
    study = verified_study(config, centre.study(changed, **NEW))
    with pytest.raises(StudyNotApprovedError):
        check_study(following(config, NEW["code"]), study)
