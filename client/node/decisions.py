"""What waits for a person's decision at a site, and what has one: app bundles, studies.

In a folder: waiting/ holds what came and may not run, approved/ what may, a file each, named by
the digest of its content; approvals.jsonl says who decided what and when.
"""

from __future__ import annotations

import getpass
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from asdnet_models.fields import Frozen
from protocol.config.site import Sha256
from protocol.files import append_line, write_bytes

log = logging.getLogger(__name__)

MAX_WAITING = 20
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600

_DECISIONS = "approvals.jsonl"
_A_DIGEST = TypeAdapter(Sha256)

State = Literal["waiting", "approved"]


class ApprovalError(ValueError):
    """A decision that cannot be made, with the reason and what to do."""


class HasDigest(Protocol):
    """What can be approved: it is known by a digest of its content."""

    @property
    def digest(self) -> str:
        """64 digits."""


Item = TypeVar("Item", bound=HasDigest)


@dataclass(frozen=True)
class Kept(Generic[Item]):
    """Something in waiting/ (since it last came) or in approved/ (since its approval)."""

    item: Item
    since: datetime


class Decision(Frozen):
    """One line of approvals.jsonl."""

    time: AwareDatetime
    digest: Sha256
    action: Literal["approved", "revoked"]
    user: str


@dataclass(frozen=True, kw_only=True)
class DecisionStore(Generic[Item]):
    """The folder of one kind of things that are decided on.

    Attributes:
        folder: Where it is; made when something is put there.
        suffix: Of its files.
        noun: What such a thing is called, for messages.
        read: A thing from its bytes; raises ValueError for bytes that are none.
        by_file: Digests that the site's own file approves; of these no content is kept.
        setting: Where they stand, for messages.
    """

    folder: Path
    suffix: str
    noun: str
    read: Callable[[bytes], Item]
    by_file: Collection[str]
    setting: str

    def path(self, state: State, digest: str) -> Path:
        """Where a thing of this digest is kept.

        Raises:
            ApprovalError: If it is no digest; so paths such as ../../x are kept out.
        """
        try:
            _A_DIGEST.validate_python(digest)
        except ValidationError:
            raise ApprovalError(f"{digest!r}: is not a digest of 64 digits 0-9a-f") from None
        return self.folder / state / f"{digest}{self.suffix}"

    def keep(self, digest: str, content: bytes) -> None:
        """Have it wait, with no more than MAX_WAITING: a centre could fill the disk otherwise."""
        path = self.path("waiting", digest)
        self._put(path, content)
        others = sorted(
            (other for other in path.parent.glob(f"*{self.suffix}") if other != path),
            key=lambda other: other.stat().st_mtime_ns,
        )
        for oldest in others[: max(0, len(others) + 1 - MAX_WAITING)]:
            oldest.unlink(missing_ok=True)

    def waiting_content(self, digest: str) -> tuple[Item, bytes]:
        """What waits under this digest, and its bytes.

        Raises:
            ApprovalError: It is not waiting, or the file of that name holds something else.
        """
        path = self.path("waiting", digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise ApprovalError(
                f"{self.noun} {digest[:12]}: is not waiting at this site; a study that came by mail"
                " is approved with --file"
            ) from None
        try:
            item = self.read(content)
        except ValueError:
            item = None
        if item is None or item.digest != digest:
            raise ApprovalError(
                f"{self.noun} {digest[:12]}: its file in waiting/ holds something else; delete"
                f" {path} and have the centre send it again"
            )
        return item, content

    def approve(self, digest: str, content: bytes, by: str = "") -> None:
        """Keep this content as approved, with a line in the log that has the person, or `by`."""
        # In the log first, so that nothing is ever approved without a line.
        self._record(digest, "approved", by)
        # Written from what was digested: the file may have changed since.
        self._put(self.path("approved", digest), content)
        self.path("waiting", digest).unlink(missing_ok=True)

    def may_run(self, digest: str) -> bool:
        """Whether it is approved, by the site's file or by a person."""
        return digest in self.by_file or self.verified(self.path("approved", digest)) is not None

    def was_revoked(self, digest: str) -> bool:
        """Whether anybody has ever revoked it here."""
        return any(d.digest == digest and d.action == "revoked" for d in self._decisions())

    def revoke(self, digest: str, by: str = "") -> None:
        """Approve it no longer, with a line in the log that has the person, or `by`.

        Raises:
            ApprovalError: It is not approved, or it is so by the site's own file.
        """
        if digest in self.by_file:
            raise ApprovalError(
                f"{self.noun} {digest[:12]}: is approved by the site's file; remove it from"
                f" {self.setting}"
            )
        try:
            self.path("approved", digest).unlink()
        except FileNotFoundError:
            raise ApprovalError(
                f"{self.noun} {digest[:12]}: is not approved at this site"
            ) from None
        self._record(digest, "revoked", by)

    def verified(self, path: Path) -> Item | None:
        """The thing in a file, if it is there and has the digest of the file's name."""
        try:
            item = self.read(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            name = f"{path.parent.name}/{path.name}"
            log.warning("%s is damaged and does not count: %s", name, error)
            return None
        if item.digest != path.stem:
            log.warning(
                "%s/%s holds another %s than it is named after and does not count",
                path.parent.name,
                path.name,
                self.noun.split()[-1],
            )
            return None
        return item

    def waiting(self) -> list[Kept[Item]]:
        """What awaits a decision, in the order of arrival; damaged files are left out."""
        return self._kept("waiting", {})

    def approved(self) -> list[Kept[Item]]:
        """What may run, in the order of approval; damaged files are left out."""
        times = {d.digest: d.time for d in self._decisions() if d.action == "approved"}
        return self._kept("approved", times)

    def _kept(self, state: State, times: dict[str, datetime]) -> list[Kept[Item]]:
        """The files of a folder, oldest first: by `times`, else by the file's time."""
        kept = []
        for path in (self.folder / state).glob(f"*{self.suffix}"):
            item = self.verified(path)
            if item is not None:
                since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                kept.append(Kept(item, times.get(item.digest, since)))
        return sorted(kept, key=lambda one: (one.since, one.item.digest))

    def _put(self, path: Path, content: bytes) -> None:
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(parents=True, mode=PRIVATE_FOLDER, exist_ok=True)
        write_bytes(path, content, PRIVATE_FILE)

    def _record(self, digest: str, action: Literal["approved", "revoked"], by: str = "") -> None:
        self.folder.mkdir(parents=True, mode=PRIVATE_FOLDER, exist_ok=True)
        line = Decision(time=datetime.now(UTC), digest=digest, action=action, user=by or person())
        append_line(self.folder / _DECISIONS, line.model_dump_json())

    def _decisions(self) -> list[Decision]:
        """Every readable line; what may run is decided by the files, not by this log."""
        try:
            lines = (self.folder / _DECISIONS).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        decisions = []
        for number, line in enumerate(lines, 1):
            try:
                decisions.append(Decision.model_validate_json(line))
            except ValidationError:
                log.warning("%s, line %d: is not readable and is left out", _DECISIONS, number)
        return decisions


def person() -> str:
    """Who decides, by the name of this process's user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
