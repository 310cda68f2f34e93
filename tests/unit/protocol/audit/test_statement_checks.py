"""A cut or deleted log verifies by itself; what its site has signed lies with the others."""

from pathlib import Path

import pytest
from audit_chain import filled

from protocol.agreement.statement_store import keep_statements
from protocol.agreement.statements import SignedStatement, Statement, sign
from protocol.audit.log import AuditError
from protocol.audit.report import Findings, View, examine
from protocol.audit.verification import verify
from protocol.keys import make_key, openssh_line

KEYS = {site: make_key() for site in "ABC"}
ROSTER = {site: openssh_line(key.public_key()) for site, key in KEYS.items()}


def said(site: str, number: int, seq: int, head: str, weights: str = "1") -> SignedStatement:
    statement = Statement(
        run="tiny-1",
        round=number,
        site=site,
        segmenter=weights * 64,
        audit_seq=seq,
        audit_head=head,
    )
    return sign(statement, KEYS[site])


class Sides:
    """A's log of ten entries, and what A, B and the centre have kept of its statements."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "audit.jsonl"
        filled(self.log, 10)
        self.heads = [entry.hash for entry in verify(self.log).entries]
        self.own, self.other = folder / "own.jsonl", folder / "other.jsonl"
        for number in (1, 2, 3):
            seq = 3 * number
            by_a = said("A", number, seq, self.heads[seq - 1])
            by_b = said("B", number, 5 * number, "b" * 64)
            for path in (self.own, self.other):
                keep_statements(path, [by_a, by_b], ROSTER)

    def examined(self, *others: Path, own: bool = True) -> Findings:
        view = View(
            log=self.log,
            owner="site",
            site="A",
            statements=(self.own,) if own else (),
            other_statements=others,
            keys={"A": ROSTER["A"]},
        )
        return examine(view)


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def cut(log: Path, entries: int) -> None:
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:entries]))


def test_what_fits_is_well(sides: Sides) -> None:
    found = sides.examined(sides.other)
    assert found.all_well
    assert (found.statements.count, found.statements.sites) == (6, ("A", "B"))
    assert found.statements.runs == ("tiny-1",)


def test_a_cut_log_is_found_by_the_statements(sides: Sides) -> None:
    cut(sides.log, 8)
    found = sides.examined()
    assert found.verification.faults == (), "by itself it is complete"
    assert not found.all_well
    [fault] = found.statements.faults
    assert "the audit log of site A was cut or written anew: 1 of 3 signed entries" in fault
    assert "signed in round 3 of run tiny-1" in fault


def test_a_cut_log_with_its_statements_deleted_is_found_by_anothers(sides: Sides) -> None:
    cut(sides.log, 8)
    sides.own.unlink()
    assert sides.examined(own=False).all_well
    found = sides.examined(sides.other, own=False)
    assert any("was cut or written anew" in fault for fault in found.statements.faults)


def test_a_log_that_was_written_anew_is_found(sides: Sides) -> None:
    sides.log.unlink()
    filled(sides.log, 12)
    [fault] = sides.examined().statements.faults
    assert "3 of 3 signed entries are not in it" in fault


def test_a_deleted_log_is_no_empty_one(sides: Sides) -> None:
    sides.log.unlink()
    found = sides.examined()
    assert not found.all_well
    [fault] = found.statements.faults
    assert fault == (
        "the audit log of site A is missing, which has signed that it had 9 entries: it was deleted"
    )


def test_sites_that_received_other_weights_are_named(sides: Sides) -> None:
    keep_statements(sides.other, [said("C", 2, 4, "c" * 64, weights="9")], ROSTER)
    keep_statements(sides.own, [said("C", 1, 2, "c" * 64)], ROSTER)
    [fault] = sides.examined(sides.other).statements.faults
    assert "run tiny-1, round 2: the centre sent different sites different weights" in fault
    assert "A, B received 1111111111111111" in fault and "C received 9999999999999999" in fault


def test_another_sites_log_that_shrank_is_named(sides: Sides) -> None:
    keep_statements(sides.own, [said("B", 4, 11, "b" * 64)], ROSTER)
    [fault] = sides.examined().statements.faults
    assert "site B's audit log was cut: it had 15 entries in round 3" in fault


def test_a_forged_statement_in_anothers_file_counts_for_nothing(sides: Sides) -> None:
    forged = said("B", 2, 10, "b" * 64, weights="7").model_copy(
        update={"signature": said("C", 2, 1, "c" * 64).signature}
    )
    keep_statements(sides.other, [forged], ROSTER)
    [fault] = sides.examined(sides.other).statements.faults
    assert "statement of site B, round 2: is not signed by the site's key" in fault


def test_a_key_that_only_the_other_side_names_is_not_believed(sides: Sides) -> None:
    lie = said("C", 2, 4, "c" * 64, weights="9")
    keep_statements(sides.other, [lie], ROSTER)
    [fault] = sides.examined(sides.other).statements.faults
    assert "no key of that site is known here" in fault


def test_changed_lines_and_missing_files_are_said(sides: Sides) -> None:
    sides.own.write_bytes(sides.own.read_bytes() + b"x\ny\n")
    [fault] = sides.examined().statements.faults
    assert "2 lines are no statements" in fault
    with pytest.raises(AuditError, match="cannot be read"):
        sides.examined(sides.own.with_name("none.jsonl"))


def test_the_centre_compares_a_sites_log_with_what_it_signed(sides: Sides, tmp_path: Path) -> None:
    """The site's log, sent to the centre, without its end."""
    cut(sides.log, 8)
    view = View(
        log=tmp_path / "centre.jsonl",
        owner="centre",
        site="A",
        other_log=sides.log,
        statements=(sides.other,),
    )
    assert any("site A was cut" in fault for fault in examine(view).statements.faults)
