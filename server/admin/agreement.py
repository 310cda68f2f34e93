"""The signed study of a run: made once, and anew where code, protocol or sites have changed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.agreement.bundle import read_bundle
from protocol.agreement.first_weights import digests_sent, first_weights
from protocol.agreement.manifest import (
    InitialWeights,
    Manifest,
    ManifestError,
    Study,
    StudyFile,
)
from protocol.config.schedule import evaluation_rounds
from protocol.config.study import StudyProtocol
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from server.admin.centre import Centre, CentreError, read_sites
from server.admin.signing import read_private, read_public
from server.monitoring.run_folder import RunError, RunFolder
from server.rounds.checkpoint import CHECKPOINT_FILE


@dataclass(frozen=True)
class Agreement:
    """A run's signed study; `changes` says why it was signed anew, and is empty where it was not.

    Attributes:
        study: Verified.
        new: It has been signed just now.
        changes: A line for each difference to the one before.
    """

    study: Study
    new: bool
    changes: tuple[str, ...] = ()


def agree(centre: Centre, folder: RunFolder, bundle: bytes, key: Path | None) -> Agreement:
    """The run's signed study, the stored one where it still is true.

    Args:
        centre: The centre.
        folder: The run's; the study is stored there.
        bundle: The app bundle exactly as it will be sent.
        key: File of the private key, which is read only where something is to be signed; None:
            the one in the centre's folder.

    Raises:
        CentreError: If there are no sites.
        KeyFileError: If a key is missing or of another pair.
    """
    facts, protocol = folder.read()
    public = read_public(centre.folder)
    roster = _roster(centre, facts.sites)
    code = read_bundle(bundle).digest
    stored, changes = _stored(folder, public)
    if stored is not None:
        changes = _differences(stored.manifest, protocol, code, roster)
        if not changes:
            return Agreement(stored, new=False)
    begun = (folder.path / CHECKPOINT_FILE).exists()
    manifest = Manifest(
        version=1,
        run=facts.name,
        revision=1 if stored is None else stored.manifest.revision + 1,
        protocol_digest=protocol.digest,
        code=code,
        # What a run that is under way began with stays what it began with.
        weights=stored.manifest.weights if stored and begun else _initial_weights(protocol),
        rounds=protocol.training.rounds,
        evaluation_rounds=evaluation_rounds(protocol),
        sites=roster,
        issued=datetime.now(UTC),
        asks=facts.asks,
    )
    signed = manifest.signed(read_private(centre.folder, key))
    file = StudyFile(
        manifest=signed.text, signature=signed.signature, protocol=protocol.canonical_json()
    )
    study = file.verified(public)
    folder.write_study(file)
    return Agreement(study, new=True, changes=tuple(changes))


def what_has_changed(centre: Centre, folder: RunFolder, bundle: bytes) -> list[str]:
    """Why the run's study would be signed anew, a line each; none: it is true as it stands.

    Raises:
        CentreError: If there are no sites.
        KeyFileError: If the public key is missing.
    """
    facts, protocol = folder.read()
    stored, changes = _stored(folder, read_public(centre.folder))
    if stored is None:
        return changes or ["it was never signed"]
    code = read_bundle(bundle).digest
    return _differences(stored.manifest, protocol, code, _roster(centre, facts.sites))


def require_ready(centre: Centre, key: Path | None, asked: Collection[str] | None = None) -> None:
    """Before a run is made: a study of this centre can be signed.

    Raises:
        CentreError, KeyFileError: As `agree`.
    """
    read_private(centre.folder, key)
    _roster(centre, asked)


def _roster(centre: Centre, asked: Collection[str] | None = None) -> dict[str, str]:
    """Public keys of the sites that are asked; None: of all.

    Raises:
        CentreError: There is none, or one is not admitted.
    """
    roster = {site: entry.public_key for site, entry in read_sites(centre).items()}
    if strangers := sorted(set(asked or ()) - roster.keys()):
        there = ", ".join(roster) or "none"
        raise CentreError(
            f"{', '.join(strangers)}: not admitted to this centre; admitted are {there};"
            " admit it first: asdnet-centre add-site SITE --public-key FILE"
        )
    if asked is not None:
        roster = {site: line for site, line in roster.items() if site in asked}
    if not roster:
        raise CentreError(
            "a study is signed for the sites that take part, and there are none yet; admit them"
            " first: asdnet-centre add-site SITE --public-key FILE"
        )
    return roster


def _stored(folder: RunFolder, key: Ed25519PublicKey) -> tuple[Study | None, list[str]]:
    """The study that was signed last; where it is of no use any more, why not."""
    try:
        file = folder.study()
        return (None, []) if file is None else (file.verified(key), [])
    except (RunError, ManifestError):
        return None, ["the stored manifest is damaged, or signed with an earlier key"]


def _initial_weights(protocol: StudyProtocol) -> InitialWeights:
    digests = digests_sent(protocol, first_weights(protocol))
    return InitialWeights(segmenter=digests[SEGMENTER], confidence=digests.get(CONFIDENCE))


def _differences(
    before: Manifest, protocol: StudyProtocol, code: str, roster: Mapping[str, str]
) -> list[str]:
    changes = []
    if before.code != code:
        changes.append(f"the code is another ({before.code[:12]} -> {code[:12]})")
    if before.protocol_digest != protocol.digest:
        changes.append("the protocol is another")
    for site in sorted(before.sites.keys() | roster.keys()):
        if site not in before.sites:
            changes.append(f"site {site} is added")
        elif site not in roster:
            changes.append(f"site {site} is removed")
        elif before.sites[site] != roster[site]:
            changes.append(f"site {site} has another key")
    return changes
