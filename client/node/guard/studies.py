"""Studies at a site: what the centre has signed, and what a person here has approved of it.

In the folder `config.studies`, as `client.node.decisions` keeps it.  An approval is for one
manifest: one run, one protocol, one code, one roster.
"""

from __future__ import annotations

import logging
from collections import Counter

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from client.node.approval import may_run
from client.node.decisions import ApprovalError, DecisionStore, Kept
from protocol.agreement.manifest import ManifestError, Study, StudyFile
from protocol.config.site import SiteConfig
from protocol.keys import (
    KeyFileError,
    openssh_fingerprint,
    openssh_line,
    read_private_key,
    read_verifying_key,
)

log = logging.getLogger(__name__)

# In the place of a person's name, among the decisions.
BY_UPDATE = "code_updates: follow"


class StudyNotApprovedError(ApprovalError):
    """A study that the centre has signed, and nobody here has approved."""

    def __init__(self, study: Study, site: str) -> None:
        super().__init__(
            f"study {study.protocol.name}, run {study.manifest.run} ({study.digest[:12]}) is not"
            " approved at this site; look at what it does with this site's data and approve it"
            f" with: asdnet-site approve --site {site}"
        )
        self.digest = study.digest


def pinned_key(config: SiteConfig) -> Ed25519PublicKey:
    """The centre's key for studies, as this site has it.

    Raises:
        ManifestError: If it is not here, or is none.
    """
    try:
        return read_verifying_key(config.centre_key_file)
    except KeyFileError as error:
        raise ManifestError(
            f"{error}; without the centre's study.pub this site believes no study:"
            f" asdnet-site enrol --site {config.site} says where to put it"
        ) from None


def pinned_fingerprint(config: SiteConfig) -> str:
    """Of the pinned key, to be compared with the centre by telephone."""
    return openssh_fingerprint(pinned_key(config))


def verified_study(config: SiteConfig, file: StudyFile) -> Study:
    """A study, once it is known to be signed by this site's centre, and for this site.

    Nothing is stored.

    Raises:
        ManifestError: If it is changed, signed by another, or this site is not in its roster
            under its own key.
    """
    study = file.verified(pinned_key(config))
    try:
        own = openssh_line(read_private_key(config.key_file).public_key())
    except KeyFileError as error:
        raise ManifestError(f"{error}; without it this site is in no roster") from None
    study.manifest.require_member(config.site, own)
    return study


def check_study(config: SiteConfig, study: Study, installed: str = "") -> None:
    """Whether somebody here has approved it, a person or the site's file.

    Args:
        config: The site.
        study: Of `verified_study`, and within the site's limits.
        installed: Digest of the code that is installed here.

    Raises:
        StudyNotApprovedError: Nobody has; it is kept in waiting/, for a person to look at.
    """
    store = _store(config)
    if not store.may_run(study.digest) and not _is_update(config, study, installed):
        store.keep(study.digest, _content(study))
        raise StudyNotApprovedError(study, config.site)
    store.path("waiting", study.digest).unlink(missing_ok=True)


def _is_update(config: SiteConfig, study: Study, installed: str) -> bool:
    """Approve a revision that brings nothing new but code that may run here, if the site wants so.

    Whatever else the manifest binds (protocol, first weights, rounds, sites and keys) must be as
    approved.
    """
    code = study.manifest.code
    if config.code_updates != "follow" or not (code == installed or may_run(config, code)):
        return False
    of_run = [k.item for k in approved(config) if k.item.manifest.run == study.manifest.run]
    if not of_run:
        return False
    before, now = of_run[-1].manifest, study.manifest
    new = {"code": now.code, "revision": now.revision, "issued": now.issued}
    later = now.revision > before.revision and now.issued > before.issued
    if not later or before.model_copy(update=new) != now:
        return False
    store = _store(config)
    if store.was_revoked(study.digest):  # a person has decided on it
        return False
    store.approve(study.digest, _content(study), by=BY_UPDATE)
    for other in of_run:
        if other.digest not in config.approved_studies:
            store.revoke(other.digest, by=BY_UPDATE)
    log.info(
        "run %s: revision %d differs in its code alone, and that runs here: approved, as"
        " code_updates of %s.yaml has it",
        now.run,
        now.revision,
        config.site,
    )
    return True


def waiting(config: SiteConfig) -> list[Kept[Study]]:
    """Studies that await a decision, in the order of arrival."""
    return _store(config).waiting()


def approved(config: SiteConfig) -> list[Kept[Study]]:
    """Approved studies in the order of approval, without those of `approved_studies`."""
    return _store(config).approved()


def last_approved(config: SiteConfig, run: str = "") -> Study | None:
    """What was approved last and still is; of this run, where there is one of it."""
    kept = [study.item for study in approved(config)]
    of_run = [study for study in kept if study.manifest.run == run]
    return (of_run or kept)[-1] if kept else None


def read_study(config: SiteConfig, content: bytes) -> Study:
    """A study from its file, as it was mailed or kept.

    Raises:
        ManifestError: If it is no such file, or `verified_study` refuses it.
    """
    try:
        file = StudyFile.model_validate_json(content)
    except ValidationError:
        raise ManifestError(
            "is not the file of a signed study (manifest, signature, protocol); have the centre"
            " send its manifest.json again"
        ) from None
    return verified_study(config, file)


def find_waiting(config: SiteConfig, digest: str) -> Study:
    """The waiting study of this digest.

    Raises:
        ApprovalError: It is not waiting, or the file of that name holds something else.
    """
    return _store(config).waiting_content(digest)[0]


def approve(config: SiteConfig, study: Study) -> list[str]:
    """Let a study run from now on; earlier revisions of its run may not any more.

    Args:
        config: The site.
        study: Exactly what was shown: what a file holds by now does not count.

    Returns:
        Digests of the revisions that it replaces.

    Raises:
        ApprovalError: It breaks limits of the site, or one of the same run that was signed later
            is approved.
    """
    broken = limits_broken_by(config, study)
    if broken:
        raise ApprovalError(
            f"study {study.digest[:12]} is beyond limits of site {config.site} and cannot be"
            f" approved; the site's own file, {config.site}.yaml, can raise them:\n"
            + "\n".join(broken)
        )
    manifest = study.manifest
    others = [
        kept.item
        for kept in approved(config)
        if kept.item.manifest.run == manifest.run and kept.item.digest != study.digest
    ]
    later = [other for other in others if other.manifest.issued >= manifest.issued]
    if later:
        mine, its = (f"{m.issued:%Y-%m-%d %H:%M} UTC" for m in (manifest, later[-1].manifest))
        raise ApprovalError(
            f"study {study.digest[:12]} of run {manifest.run} was signed on {mine}, and"
            f" {later[-1].digest[:12]}, signed on {its}, is approved; revoke that one first if the"
            " centre really goes back"
        )
    store = _store(config)
    # Before the old ones go: at no time is a run without its approval.
    store.approve(study.digest, _content(study))
    for other in others:
        store.revoke(other.digest)
    return [other.digest for other in others]


def limits_broken_by(config: SiteConfig, study: Study) -> list[str]:
    """Which limits of the site the study breaks: rule, value, remedy of each.

    Cases are counted by the names of their files, and scans measured by their headers; where the
    folder has mistakes they are not here yet, and each round looks anew.
    """
    # Late: it is of the commands alone, and reads scans' libraries.
    from client.node.guard.data_limits import all_broken
    from client.node.guard.limits import broken_by_fingerprint

    of_fingerprint = broken_by_fingerprint(config) if study.manifest.asks == "fingerprint" else []
    return of_fingerprint + all_broken(config, study.protocol)


def count_cases(config: SiteConfig) -> Counter[str] | None:
    """Cases by part, from file names alone; None where they cannot be counted."""
    # Late: it is of the commands alone, and reads scans' libraries.
    from client.data.folder.layout import LayoutError, find_cases

    try:
        return Counter(case.part for case in find_cases(config.data, config))
    except (LayoutError, OSError):
        return None


def revoke(config: SiteConfig, digest: str) -> None:
    """Let an approved study run no longer: its next instruction is refused.

    Raises:
        ApprovalError: It is not approved, or it is so by the site's own file.
    """
    _store(config).revoke(digest)


def _content(study: Study) -> bytes:
    return study.file.model_dump_json().encode()


def _store(config: SiteConfig) -> DecisionStore[Study]:
    def read(content: bytes) -> Study:
        return read_study(config, content)

    return DecisionStore(
        folder=config.studies,
        suffix=".json",
        noun="study",
        read=read,
        by_file=config.approved_studies,
        setting=f"approved_studies in {config.site}.yaml",
    )
