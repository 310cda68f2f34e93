"""What a centre signs: read back as it was meant, and refused once anything of it is changed."""

import hashlib
import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from signed_studies import ISSUED, SigningCentre

from protocol.agreement.manifest import (
    Manifest,
    ManifestError,
    SignedManifest,
    StudyFile,
    agreed_protocol,
)
from protocol.config.study import StudyProtocol, merged
from protocol.keys import make_key, make_signing_key, openssh_fingerprint, openssh_line

PROTOCOL = StudyProtocol(name="pelvis", seed=3)
CENTRE = SigningCentre("AB")
PUBLIC = CENTRE.key.public_key()
SIGNED = CENTRE.manifest(PROTOCOL).signed(CENTRE.key)


def signed_text(content: object) -> SignedManifest:
    """Whatever it is, with the centre's own signature."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return signed(text)


def signed(text: str) -> SignedManifest:
    return SignedManifest(text=text, signature=b64encode(CENTRE.key.sign(text.encode())).decode())


def changed(**changes: Any) -> dict[str, Any]:
    return json.loads(SIGNED.text) | changes


def test_what_was_signed_comes_back() -> None:
    manifest = SIGNED.verified(PUBLIC)
    assert manifest == CENTRE.manifest(PROTOCOL)
    assert manifest.issued == ISSUED
    assert manifest.evaluation_rounds == (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60)
    assert len(SIGNED.digest) == 64


def test_equal_manifests_are_equal_bytes() -> None:
    again = CENTRE.manifest(PROTOCOL, sites=dict(reversed(CENTRE.manifest(PROTOCOL).sites.items())))
    assert again.signed(CENTRE.key) == SIGNED


@given(st.data())
def test_one_changed_byte_is_refused(data: st.DataObject) -> None:
    """The attack: a manifest changed in one byte, anywhere."""
    place = data.draw(st.integers(0, len(SIGNED.text) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != SIGNED.text[place]))
    text = SIGNED.text[:place] + other + SIGNED.text[place + 1 :]
    with pytest.raises(ManifestError, match="is not signed by the centre's key that is pinned"):
        SignedManifest(text=text, signature=SIGNED.signature).verified(PUBLIC)


@pytest.mark.parametrize(
    "signature",
    ["", "AAAA", "not base64!", SIGNED.signature[:-4], b64encode(bytes(64)).decode(), "\ud800"],
    ids=["none", "short", "no base64", "cut", "zeros", "no text"],
)
def test_a_wrong_signature_is_refused(signature: str) -> None:
    with pytest.raises(ManifestError, match="is not signed by the centre's key"):
        SIGNED.model_copy(update={"signature": signature}).verified(PUBLIC)


def test_text_that_is_no_text_is_refused() -> None:
    with pytest.raises(ManifestError, match="is not signed by the centre's key"):
        SIGNED.model_copy(update={"text": "\ud800"}).verified(PUBLIC)


def test_another_key_is_refused_and_the_pinned_one_named() -> None:
    """The attack: a manifest signed by another key."""
    forged = CENTRE.manifest(PROTOCOL).signed(make_signing_key())
    with pytest.raises(ManifestError) as caught:
        forged.verified(PUBLIC)
    assert openssh_fingerprint(PUBLIC) in str(caught.value)
    assert "compare the fingerprint of study.pub with the centre by telephone" in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, "1", None, "\x1b[2J" * 20, [1]])
def test_an_unknown_version_is_refused(version: object) -> None:
    with pytest.raises(ManifestError, match="this software reads 1; update") as caught:
        signed_text(changed(version=version)).verified(PUBLIC)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra": 1}, "unknown key"),
        ({"run": "../x"}, "run"),
        ({"revision": 0}, "revision"),
        ({"revision": "1"}, "revision"),
        ({"rounds": 4.0}, "rounds"),
        ({"code": "C" * 64}, "code"),
        ({"evaluation_rounds": [5, 5]}, "must ascend, each round once"),
        ({"evaluation_rounds": [0]}, "evaluation_rounds"),
        ({"weights": {"segmenter": "a" * 64}}, "confidence"),
        ({"issued": "2026-11-29T14:00:00+01:00"}, "must be UTC"),
        ({"issued": "2026-11-29T14:00:00"}, "issued"),
        ({"sites": {}}, "sites"),
        ({"sites": {"A B": CENTRE.line("A")}}, "sites"),
        ({"sites": {"A": "ssh-ed25519 AAAA"}}, "key of site A"),
        ({"sites": {"A": openssh_line(PUBLIC)}}, "must be an EC P-384 key"),
        ({"sites": {"A": CENTRE.line("A") + " comment"}}, "one line without a comment"),
        ({"sites": {"A": CENTRE.line("A"), "B": CENTRE.line("A")}}, "must not have one key"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        signed_text(changed(**change)).verified(PUBLIC)


def test_only_one_form_is_read() -> None:
    content = json.loads(SIGNED.text)
    for text in (
        json.dumps(content),
        SIGNED.text + "\n",
        SIGNED.text[:-1] + ',"version":1}',
        SIGNED.text.replace('"version":1', '"version":1.0'),
    ):
        with pytest.raises(ManifestError):
            signed(text).verified(PUBLIC)
    for text in ("", "[]", "nothing", "{"):
        with pytest.raises(ManifestError):
            signed(text).verified(PUBLIC)


def test_a_time_that_is_not_utc_is_not_signed() -> None:
    local = datetime(2026, 11, 29, tzinfo=timezone(timedelta(hours=1)))
    with pytest.raises(ValidationError, match="must be UTC"):
        CENTRE.manifest(PROTOCOL, issued=local)
    assert CENTRE.manifest(PROTOCOL, issued=datetime(2026, 11, 29, tzinfo=UTC))


# ---- who takes part -----------------------------------------------------------------------------


def roster(**sites: str) -> Manifest:
    return CENTRE.manifest(PROTOCOL, sites=sites)


def test_a_site_under_its_own_key_takes_part() -> None:
    roster(A=CENTRE.line("A"), B=CENTRE.line("B")).require_member("A", CENTRE.line("A"))


def test_a_site_that_is_not_named_does_not() -> None:
    stranger = openssh_line(make_key().public_key())
    with pytest.raises(ManifestError, match="site C does not take part; the sites are A, B"):
        CENTRE.manifest(PROTOCOL).require_member("C", stranger)


def test_the_key_of_another_under_the_sites_name() -> None:
    other = openssh_line(make_key().public_key())
    with pytest.raises(ManifestError, match="under site A stands another key, SHA256:"):
        roster(A=other, B=CENTRE.line("B")).require_member("A", CENTRE.line("A"))


@pytest.mark.parametrize("with_own", [False, True])
def test_the_sites_key_under_another_name(with_own: bool) -> None:
    """The attack: a roster in which this site's key stands under another name."""
    sites = {"B": CENTRE.line("A")}
    if with_own:
        sites["A"] = CENTRE.line("B")
    with pytest.raises(ManifestError, match="stands under another name, B; ask the centre"):
        roster(**sites).require_member("A", CENTRE.line("A"))


# ---- the protocol that it binds -----------------------------------------------------------------


def test_a_study_file_has_manifest_and_protocol() -> None:
    file = CENTRE.study(PROTOCOL)
    study = StudyFile.model_validate_json(file.model_dump_json()).verified(PUBLIC)
    assert study.protocol == PROTOCOL
    assert study.manifest.run == "tiny-1"
    assert study.digest == SIGNED.digest == file.signed.digest


def test_a_replayed_manifest_with_another_protocol_is_refused() -> None:
    """The attack: the manifest of an earlier run, replayed with a protocol of one step."""
    short = merged(PROTOCOL, {"training": {"local_steps": 1}})
    file = CENTRE.study(PROTOCOL).model_copy(update={"protocol": short.canonical_json()})
    with pytest.raises(ManifestError, match="the protocol that came with it is not the one"):
        file.verified(PUBLIC)


def test_the_protocol_is_of_one_form_and_understood() -> None:
    def refused(text: str, words: str, **facts: Any) -> None:
        digest = hashlib.sha256(text.encode()).hexdigest()
        manifest = CENTRE.manifest(PROTOCOL, protocol_digest=digest, **facts)
        with pytest.raises(ManifestError, match=words):
            agreed_protocol(manifest, text)

    canonical = PROTOCOL.canonical_json()
    refused(canonical + " ", "not JSON in canonical form")
    refused(canonical[:-1] + ',"seed":4}', "not JSON in canonical form")
    refused("nothing", "is not JSON in canonical form")
    refused("[" * 100_000, "is not JSON in canonical form")
    refused("[]", "does not understand its protocol; update it to the centre's")
    refused(canonical.replace('"kernel":5', '"kernel":4'), "does not understand its protocol")
    refused(canonical.replace('"seed":3', '"seed":-3'), "asks for what no honest study does")
    refused(canonical[:-1] + ',"zoom":1}', "zoom: unknown key")
    refused(canonical, "has 4 rounds, its protocol 60", rounds=4)
    refused(canonical, "in other rounds than its protocol", evaluation_rounds=tuple(range(1, 61)))
    lone = {"segmenter": "a" * 64, "confidence": None}
    refused(canonical, "not of the networks of its protocol", weights=lone)
