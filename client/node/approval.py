"""Approval of code at a site: the installed version, and bundles that a person approved.

In the folder `config.bundles`, as `client.node.decisions` keeps it; nothing is unpacked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from client.node.decisions import ApprovalError, DecisionStore, Kept
from protocol.agreement.bundle import Bundle, read_bundle
from protocol.config.site import SiteConfig


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
    """Code that may run here: the files themselves, so that what runs is what was looked at."""

    digest: str
    files: Mapping[str, bytes]


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
    bundle, store = read_bundle(fab), _store(config)
    waits = store.path("waiting", bundle.digest)
    if bundle.digest == installed:
        waits.unlink(missing_ok=True)
        return ApprovedCode(bundle.digest, bundle.files)
    if not store.may_run(bundle.digest):
        store.keep(bundle.digest, fab)
        raise NotApprovedError(bundle.digest, config.site)
    waits.unlink(missing_ok=True)
    return ApprovedCode(bundle.digest, bundle.files)


def may_run(config: SiteConfig, digest: str) -> bool:
    """Whether a bundle of this digest is approved, by the site's file or by a person."""
    return _store(config).may_run(digest)


def waiting(config: SiteConfig) -> list[Kept[Bundle]]:
    """Bundles that await a decision, in the order of arrival; damaged files are left out."""
    return _store(config).waiting()


def approved(config: SiteConfig) -> list[Kept[Bundle]]:
    """What may run here besides the installed version, in the order of approval.

    Without the digests of the site's own file (`approved_bundles`), of which no content is kept.
    """
    return _store(config).approved()


def last_approved(config: SiteConfig) -> Bundle | None:
    """What was approved last and still is."""
    kept = approved(config)
    return kept[-1].item if kept else None


def approve(config: SiteConfig, digest: str) -> None:
    """Let a waiting bundle run from now on.

    Raises:
        ApprovalError: It is not waiting, or the file of that name holds something else.
    """
    store = _store(config)
    _, fab = store.waiting_content(digest)
    store.approve(digest, fab)


def revoke(config: SiteConfig, digest: str) -> None:
    """Let an approved bundle run no longer; a process that runs it already is not stopped.

    Raises:
        ApprovalError: It is not approved, or it is so by the site's own file.
    """
    _store(config).revoke(digest)


def _store(config: SiteConfig) -> DecisionStore[Bundle]:
    return DecisionStore(
        folder=config.bundles,
        suffix=".fab",
        noun="app bundle",
        read=read_bundle,
        by_file=config.approved_bundles,
        setting=f"approved_bundles in {config.site}.yaml",
    )
