"""Approval of code at a site: the installed version, and bundles that a person approved.

In the folder `config.bundles`: waiting/ holds what came and may not run, approved/ what may,
unpacked/ the files of the approved ones, approvals.jsonl who decided what and when.
"""

from __future__ import annotations

import getpass
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from asdnet_models.config import Frozen
from client.node.unpacking import PRIVATE_FOLDER, unpacked
from protocol.agreement.bundle import Bundle, BundleError, read_bundle
from protocol.config.site import Sha256, SiteConfig
from protocol.files import append_line, write_bytes

log = logging.getLogger(__name__)

MAX_WAITING = 20

_WAITING = "waiting"
_APPROVED = "approved"
_UNPACKED = "unpacked"
_DECISIONS = "approvals.jsonl"
_PRIVATE_FILE = 0o600
_A_DIGEST = TypeAdapter(Sha256)


class ApprovalError(ValueError):
    """A decision that cannot be made, with the reason and what to do."""


class NotApprovedError(ApprovalError):
    """Code that must not run here, because it is not approved."""

    def __init__(self, digest: str, site: str) -> None:
        super().__init__(
            f"app bundle {digest[:12]} is not approved at this site; look at it and approve it"
            f" with: asdnet-site approve --site {site}"
        )
        self.digest = digest


@dataclass(frozen=True)
class ApprovedCode:
    """Code that may run here.

    Whoever runs it from `folder` writes no byte code there: it would be an extra file, for which
    the next check builds the folder anew.
    """

    digest: str
    folder: Path | None  # None: the installed version


@dataclass(frozen=True)
class KeptBundle:
    """A bundle in waiting/ (since it last came) or in approved/ (since its approval)."""

    bundle: Bundle
    since: datetime


class Decision(Frozen):
    """One line of approvals.jsonl."""

    time: AwareDatetime
    digest: Sha256
    action: Literal["approved", "revoked"]
    user: str


def check_bundle(config: SiteConfig, fab: bytes, installed: str) -> ApprovedCode:
    """The code of a bundle, if it may run here.

    Args:
        config: The site.
        fab: The bundle as it came.
        installed: Digest of the installed version (`installed_bundle`).

    Raises:
        BundleError: The bundle is none that anybody could approve.
        NotApprovedError: It is not approved; it is kept in waiting/.
    """
    bundle = read_bundle(fab)
    waits = _file(config, _WAITING, bundle.digest)
    if bundle.digest == installed:
        waits.unlink(missing_ok=True)
        return ApprovedCode(bundle.digest, None)
    if (
        bundle.digest not in config.approved_bundles
        and _verified(_file(config, _APPROVED, bundle.digest)) is None
    ):
        _keep(waits, fab)
        raise NotApprovedError(bundle.digest, config.site)
    waits.unlink(missing_ok=True)
    return ApprovedCode(bundle.digest, unpacked(bundle, config.bundles / _UNPACKED))


def waiting(config: SiteConfig) -> list[KeptBundle]:
    """Bundles that await a decision, in the order of arrival; damaged files are left out."""
    return _kept(config.bundles / _WAITING, {})


def approved(config: SiteConfig) -> list[KeptBundle]:
    """What may run here besides the installed version, in the order of approval.

    Without the digests of the site's own file (`approved_bundles`), of which no content is kept.
    """
    times = {
        decision.digest: decision.time
        for decision in _decisions(config)
        if decision.action == "approved"
    }
    return _kept(config.bundles / _APPROVED, times)


def last_approved(config: SiteConfig) -> Bundle | None:
    """What was approved last and still is."""
    kept = approved(config)
    return kept[-1].bundle if kept else None


def approve(config: SiteConfig, digest: str) -> None:
    """Let a waiting bundle run from now on.

    Raises:
        ApprovalError: It is not waiting, or the file of that name holds something else.
    """
    path = _file(config, _WAITING, digest)
    try:
        fab = path.read_bytes()
    except FileNotFoundError:
        raise ApprovalError(f"app bundle {digest[:12]}: is not waiting at this site") from None
    try:
        unchanged = read_bundle(fab).digest == digest
    except BundleError:
        unchanged = False
    if not unchanged:
        raise ApprovalError(
            f"app bundle {digest[:12]}: its file in {_WAITING}/ holds something else; delete {path}"
            " and have the centre send it again"
        )
    # In the log first, so that nothing is ever approved without a line that has the person.
    _record(config, digest, "approved")
    # Written from what was digested: the file may have changed since.
    _put(_file(config, _APPROVED, digest), fab)
    path.unlink(missing_ok=True)


def revoke(config: SiteConfig, digest: str) -> None:
    """Let an approved bundle run no longer; a process that runs it already is not stopped.

    Raises:
        ApprovalError: It is not approved, or it is so by the site's own file.
    """
    path = _file(config, _APPROVED, digest)
    if digest in config.approved_bundles:
        raise ApprovalError(
            f"app bundle {digest[:12]}: is approved by the site's file; remove it from"
            f" approved_bundles in {config.site}.yaml"
        )
    try:
        path.unlink()
    except FileNotFoundError:
        raise ApprovalError(f"app bundle {digest[:12]}: is not approved at this site") from None
    shutil.rmtree(config.bundles / _UNPACKED / digest, ignore_errors=True)
    _record(config, digest, "revoked")


def _file(config: SiteConfig, folder: str, digest: str) -> Path:
    try:
        # Also keeps paths such as ../../x out.
        _A_DIGEST.validate_python(digest)
    except ValidationError:
        raise ApprovalError(f"{digest!r}: is not a digest of 64 digits 0-9a-f") from None
    return config.bundles / folder / f"{digest}.fab"


def _put(path: Path, fab: bytes) -> None:
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(parents=True, mode=PRIVATE_FOLDER, exist_ok=True)
    write_bytes(path, fab, _PRIVATE_FILE)


def _keep(path: Path, fab: bytes) -> None:
    """Keep what waits, and no more than MAX_WAITING: a centre could fill the disk otherwise."""
    _put(path, fab)
    others = sorted(
        (other for other in path.parent.glob("*.fab") if other != path),
        key=lambda other: other.stat().st_mtime_ns,
    )
    for oldest in others[: max(0, len(others) + 1 - MAX_WAITING)]:
        oldest.unlink(missing_ok=True)


def _verified(path: Path) -> Bundle | None:
    """The bundle in a file, if it is there and has the digest of the file's name."""
    try:
        bundle = read_bundle(path.read_bytes())
    except FileNotFoundError:
        return None
    except BundleError as error:
        log.warning("%s/%s is damaged and does not count: %s", path.parent.name, path.name, error)
        return None
    if bundle.digest != path.stem:
        log.warning(
            "%s/%s holds another bundle than it is named after and does not count",
            path.parent.name,
            path.name,
        )
        return None
    return bundle


def _kept(folder: Path, times: Mapping[str, datetime]) -> list[KeptBundle]:
    """Bundles of a folder, oldest first: by `times`, else by the file's time."""
    kept = []
    for path in folder.glob("*.fab"):
        bundle = _verified(path)
        if bundle is not None:
            since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            kept.append(KeptBundle(bundle, times.get(bundle.digest, since)))
    return sorted(kept, key=lambda one: (one.since, one.bundle.digest))


def _record(config: SiteConfig, digest: str, action: Literal["approved", "revoked"]) -> None:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    line = Decision(time=datetime.now(UTC), digest=digest, action=action, user=user)
    append_line(config.bundles / _DECISIONS, line.model_dump_json())


def _decisions(config: SiteConfig) -> list[Decision]:
    """Every readable line; what may run is decided by the files, not by this log."""
    try:
        lines = (config.bundles / _DECISIONS).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    decisions = []
    for number, line in enumerate(lines, 1):
        try:
            decisions.append(Decision.model_validate_json(line))
        except ValidationError:
            log.warning("%s, line %d: is not readable and is left out", _DECISIONS, number)
    return decisions
