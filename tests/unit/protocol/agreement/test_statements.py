"""What a site signs can be neither changed, nor moved to another site, nor signed by another."""

import json

import pytest

from protocol.agreement.statements import (
    SignedStatement,
    Statement,
    StatementError,
    read_statements,
    sign,
    statements_text,
)
from protocol.keys import make_key, openssh_line

KEYS = {site: make_key() for site in "ABC"}
ROSTER = {site: openssh_line(key.public_key(), site) for site, key in KEYS.items()}


def statement(site: str = "A", **changes: object) -> Statement:
    fields = {
        "run": "tiny-1", "round": 3, "site": site, "segmenter": "1" * 64, "confidence": "2" * 64,
        "audit_seq": 7, "audit_head": "3" * 64,
    }  # fmt: skip
    return Statement.model_validate(fields | changes)


def test_a_statement_comes_back_as_it_was_signed() -> None:
    signed = [sign(statement(site), KEYS[site]) for site in "AB"]
    said = read_statements(statements_text(signed), ROSTER)
    assert said == {"A": statement("A"), "B": statement("B")}
    assert said["A"].digests == {"segmenter": "1" * 64, "confidence": "2" * 64}
    assert statement(confidence="").digests == {"segmenter": "1" * 64}


@pytest.mark.parametrize(
    ("changed", "value"),
    [("segmenter", "9" * 64), ("round", 4), ("run", "other"), ("audit_seq", 6), ("site", "B")],
)
def test_a_changed_statement_is_refused(changed: str, value: object) -> None:
    signed = sign(statement(), KEYS["A"])
    forged = statement().model_copy(update={changed: value}).canonical_json()
    with pytest.raises(StatementError, match="not signed by the site's key"):
        SignedStatement(statement=forged, signature=signed.signature).verified(ROSTER)


def test_another_sites_key_and_a_stranger_are_refused() -> None:
    with pytest.raises(StatementError, match="site A, round 3: is not signed by the site's key"):
        sign(statement("A"), KEYS["B"]).verified(ROSTER)
    with pytest.raises(StatementError, match="site X: it is not in the roster"):
        sign(statement("X"), KEYS["A"]).verified(ROSTER)


@pytest.mark.parametrize("signature", ["", "!", "AAAA", "é", "A" * 2048])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    signed = SignedStatement(statement=statement().canonical_json(), signature=signature)
    with pytest.raises(StatementError, match="not signed"):
        signed.verified(ROSTER)


@pytest.mark.parametrize("field", ["segmenter", "audit_head"])
@pytest.mark.parametrize("value", ["", "x", "A" * 64, 3, None])
def test_a_statement_of_another_form_is_refused(field: str, value: object) -> None:
    text = json.dumps(statement().model_dump() | {field: value}, sort_keys=True)
    with pytest.raises(StatementError, match="not of the agreed form"):
        SignedStatement(statement=text, signature="").read()


def test_spaces_are_another_way_to_write_the_same_and_are_refused() -> None:
    text = json.dumps(statement().model_dump(), sort_keys=True)
    with pytest.raises(StatementError, match="canonical"):
        SignedStatement(statement=text, signature="").read()


def test_a_site_makes_one_statement_and_no_more_come_than_there_are_sites() -> None:
    twice = [sign(statement("A"), KEYS["A"]), sign(statement("A", audit_seq=8), KEYS["A"])]
    with pytest.raises(StatementError, match="site A makes two"):
        read_statements(statements_text(twice), ROSTER)
    with pytest.raises(StatementError, match="too many for the roster"):
        read_statements(statements_text(twice * 100), ROSTER)
    for text in ("", "{}", "[1]", "[[]]", '[{"statement": "x"}]'):
        with pytest.raises(StatementError, match="no list of signed statements"):
            read_statements(text, ROSTER)
    assert read_statements("[]", ROSTER) == {}
