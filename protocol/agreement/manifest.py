"""The manifest of a study: what the centre signs once, and every instruction is held to.

The centre signs it with a key of its own (Ed25519), apart from the CA of its certificate; a site
has the public key pinned in its file.  What is signed is text: it is verified before it is read.
"""

import binascii
import hashlib
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AwareDatetime, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from asdnet_models.fields import Frozen
from protocol.config.explanation import beyond_bounds, explain
from protocol.config.schedule import evaluation_rounds
from protocol.config.site import SITE_NAME, Sha256
from protocol.config.study import RUN_NAME, StudyProtocol
from protocol.keys import KeyFileError, openssh_fingerprint, openssh_line, parse_openssh_line

VERSION = 1
# Ten thousand sites: no honest manifest is longer, and nobody fills a memory by one.
MAX_CHARACTERS = 4 * 2**20
MANIFEST_FILE = "manifest.json"
_MAX_EXPLAINED = 2000  # characters of a message

# What a run is for: training a study, or saying once what one could be planned from.
Asks = Literal["training", "fingerprint"]
SiteName = Annotated[str, Field(pattern=f"^{SITE_NAME.pattern}$")]


class ManifestError(ValueError):
    """A study that is not what the centre has signed, or not one for this site."""


class AbsurdStudyError(ManifestError):
    """A study that asks for what no honest one does, whoever has signed it."""


class InitialWeights(Frozen):
    """Digests of the weights that round 1 starts from (`weights_digest`)."""

    segmenter: Sha256
    confidence: Sha256 | None = Field(description="null: the study trains no confidence network")

    @property
    def digests(self) -> dict[str, str]:
        """By network."""
        both = {"segmenter": self.segmenter, "confidence": self.confidence}
        return {network: digest for network, digest in both.items() if digest is not None}


class Manifest(Frozen):
    """All that binds a study; a site approves it once."""

    model_config = ConfigDict(strict=True)

    version: Literal[1] = Field(description="of this form")
    run: Annotated[str, Field(pattern=f"^{RUN_NAME.pattern}$")] = Field(
        description="the run's name: an approval is for this run alone"
    )
    revision: PositiveInt = Field(description="from 1; each later one of a run replaces the last")
    protocol_digest: Sha256 = Field(description="SHA-256 of the protocol's canonical JSON")
    code: Sha256 = Field(description="digest of the app bundle")
    weights: InitialWeights
    rounds: PositiveInt = Field(description="rounds of the study")
    evaluation_rounds: tuple[PositiveInt, ...] = Field(
        description="the rounds after which sites score their cases; in no other may they be asked"
    )
    sites: Annotated[dict[SiteName, str], Field(min_length=1)] = Field(
        description="who takes part: by name, the public key as an OpenSSH line (EC P-384)"
    )
    issued: AwareDatetime = Field(description="when it was signed, UTC")
    asks: Asks = Field(
        "training",
        description="fingerprint: a site says what a study can be planned from, and trains nothing",
    )

    @field_validator("sites")
    @classmethod
    def _keys_are_the_sites_own(cls, sites: dict[str, str]) -> dict[str, str]:
        for site, line in sites.items():
            try:
                plain = openssh_line(parse_openssh_line(line))
            except KeyFileError as error:
                raise ValueError(f"key of site {site} {error}") from None
            if plain != line:
                raise ValueError(f"key of site {site} must be one line without a comment")
        if len(set(sites.values())) < len(sites):
            raise ValueError("two sites must not have one key")
        return sites

    @field_validator("evaluation_rounds")
    @classmethod
    def _rounds_ascend(cls, rounds: tuple[int, ...]) -> tuple[int, ...]:
        if list(rounds) != sorted(set(rounds)):
            raise ValueError("must ascend, each round once")
        return rounds

    @field_validator("issued")
    @classmethod
    def _time_is_utc(cls, issued: AwareDatetime) -> AwareDatetime:
        if issued.utcoffset() != timedelta(0):
            raise ValueError("must be UTC")
        return issued

    def canonical_json(self) -> str:
        """Sorted and compact: the text that is signed; training goes without saying."""
        unsaid = {"asks"} if self.asks == "training" else None
        return _canonical(self.model_dump(mode="json", exclude=unsaid))

    def signed(self, key: Ed25519PrivateKey) -> "SignedManifest":
        """With the centre's signature."""
        text = self.canonical_json()
        return SignedManifest(text=text, signature=b64encode(key.sign(text.encode())).decode())

    def require_member(self, site: str, key: str) -> None:
        """This site takes part, under its own name and its own key.

        Args:
            site: Its name.
            key: Its public key, as an OpenSSH line without a comment.

        Raises:
            ManifestError: If it is not so.
        """
        names = [name for name, line in self.sites.items() if line == key]
        mine = openssh_fingerprint(parse_openssh_line(key))
        if site not in self.sites and not names:
            there = ", ".join(sorted(self.sites))
            raise ManifestError(
                f"manifest of run {self.run}: site {site} does not take part; the sites are"
                f" {there}; have the centre add this site (its key is {mine}) and sign again"
            )
        if names and names != [site]:
            raise ManifestError(
                f"manifest of run {self.run}: the key of this site {site} ({mine}) stands under"
                f" another name, {names[0]}; ask the centre by telephone who {names[0]} is"
            )
        if not names:
            other = openssh_fingerprint(parse_openssh_line(self.sites[site]))
            raise ManifestError(
                f"manifest of run {self.run}: under site {site} stands another key, {other}, not"
                f" this site's, {mine}; ask the centre by telephone whose it is"
            )


class SignedManifest(Frozen):
    """A manifest as it travels; nothing of it is believed before `verified`."""

    text: Annotated[str, Field(max_length=MAX_CHARACTERS)] = Field(
        description="canonical JSON of the manifest"
    )
    signature: Annotated[str, Field(max_length=128)] = Field(
        description="Ed25519 signature of the text in UTF-8, base64"
    )

    @property
    def digest(self) -> str:
        """SHA-256 of the text: what a site approves."""
        return hashlib.sha256(_encoded(self.text)).hexdigest()

    def verified(self, key: Ed25519PublicKey) -> Manifest:
        """The manifest, once it is known to be the centre's.

        Args:
            key: The centre's, as the site has it pinned.

        Raises:
            ManifestError: If it was changed, signed by another, of another version, or breaks a
                rule.
        """
        try:
            key.verify(b64decode(self.signature, validate=True), _encoded(self.text))
        except (InvalidSignature, ValueError, binascii.Error):
            raise ManifestError(
                "manifest: is not signed by the centre's key that is pinned here"
                f" ({openssh_fingerprint(key)}): it was changed on its way, or another key has"
                " signed it; compare the fingerprint of study.pub with the centre by telephone"
            ) from None
        return _parsed(self.text)


class StudyFile(Frozen):
    """A signed study with its protocol in one file, as it is mailed and kept."""

    manifest: Annotated[str, Field(max_length=MAX_CHARACTERS)]
    signature: Annotated[str, Field(max_length=128)]
    protocol: Annotated[str, Field(max_length=MAX_CHARACTERS)] = Field(
        description="canonical JSON of the study's protocol"
    )

    @property
    def signed(self) -> SignedManifest:
        """The manifest alone."""
        return SignedManifest(text=self.manifest, signature=self.signature)

    def verified(self, key: Ed25519PublicKey) -> "Study":
        """Manifest and protocol, once they are known to be the centre's and of one study.

        Raises:
            ManifestError: If they are not.
        """
        manifest = self.signed.verified(key)
        return Study(manifest, agreed_protocol(manifest, self.protocol), self)


@dataclass(frozen=True)
class Study:
    """A verified study; `file` is what it was verified from."""

    manifest: Manifest
    protocol: StudyProtocol
    file: StudyFile

    @property
    def digest(self) -> str:
        """What a site approves."""
        return self.file.signed.digest


def agreed_protocol(manifest: Manifest, text: str) -> StudyProtocol:
    """The protocol that the manifest binds.

    Args:
        manifest: Verified.
        text: The protocol as it came.

    Raises:
        ManifestError: If it is another one than was signed, or is not to be understood as it was
            meant; an AbsurdStudyError if a value of it is beyond all bounds.
    """
    where = f"manifest of run {manifest.run}"
    if hashlib.sha256(_encoded(text)).hexdigest() != manifest.protocol_digest:
        raise ManifestError(f"{where}: the protocol that came with it is not the one it was for")
    # Written in another way, a key that is there twice could mean one thing here and another to
    # the code that reads it next.
    if not _is_canonical(text):
        raise ManifestError(f"{where}: its protocol is not JSON in canonical form")
    try:
        protocol = StudyProtocol.model_validate_json(text)
    except ValidationError as error:
        if beyond_bounds(error):
            raise AbsurdStudyError(
                f"{where}: asks for what no honest study does:"
                f" {explain(error, 'protocol')[:_MAX_EXPLAINED]}"
            ) from None
        raise ManifestError(
            f"{where}: this version does not understand its protocol; update it to the centre's:"
            f" {explain(error, 'protocol')[:_MAX_EXPLAINED]}"
        ) from None
    if manifest.rounds != protocol.training.rounds:
        raise ManifestError(
            f"{where}: has {manifest.rounds} rounds, its protocol {protocol.training.rounds}"
        )
    if manifest.evaluation_rounds != evaluation_rounds(protocol):
        raise ManifestError(f"{where}: lets sites be scored in other rounds than its protocol does")
    if (manifest.weights.confidence is not None) != protocol.method.trains_confidence:
        raise ManifestError(f"{where}: its weights are not of the networks of its protocol")
    return protocol


def _parsed(text: str) -> Manifest:
    if not _is_canonical(text):
        raise ManifestError("manifest: is not JSON in canonical form")
    content = json.loads(text)
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise ManifestError(
            f"manifest: is of version {str(version)[:20]!r}, this software reads {VERSION}; update"
            " the older of the two sides"
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ManifestError(explain(error, "manifest")[:_MAX_EXPLAINED]) from None
    if manifest.canonical_json() != text:
        raise ManifestError("manifest: is not in canonical form")
    return manifest


def _canonical(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _is_canonical(text: str) -> bool:
    try:
        return _canonical(json.loads(text)) == text
    except (ValueError, RecursionError):
        return False


def _encoded(text: str) -> bytes:
    """UTF-8 of any text that JSON can hold, so that odd text is refused and breaks nothing."""
    return text.encode("utf-8", "surrogatepass")
