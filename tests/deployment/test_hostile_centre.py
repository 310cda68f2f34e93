"""A hostile centre against an unmodified hospital: one word comes back, and nothing of a patient.

One federation and one study: A and B are treated well, C is attacked in every round, as
`evil_centre.py` says.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import evil_centre
import harness
import pytest
from evil_centre import ATTACKS

RUN = "evil"
SCORED = 4  # after this round C is to score crafted weights, twice
ROUNDS = len(ATTACKS)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Deployment]:
    study = harness.tiny_study(rounds=ROUNDS)
    evaluation = study.evaluation.model_copy(update={"every_rounds": SCORED})
    study = study.model_copy(update={"evaluation": evaluation})
    folder = tmp_path_factory.mktemp("fed")
    with harness.federation(folder, study, "ABC") as fed:
        evil = evil_centre.install(folder / "evil", {SCORED})
        fed.start(
            "superlink",
            *fed.network.within("centre"),
            sys.executable,
            harness.ROOT / "server/cli.py",
            "superlink",
            "--centre",
            fed.centre,
            PYTHONPATH=f"{evil}:{harness.ROOT}",
        )
        fed.until(lambda: "Runtime HTTP API" in fed.log("superlink"), 90, "a SuperLink")
        fed.start_sites()
        fed.start_study(RUN)
        assert fed.finish(RUN, 900) == 0, fed.tails()
        yield fed


def rounds(fed: harness.Deployment) -> dict[int, dict[str, str]]:
    """Who was left out, by round."""
    return {e["round"]: e["left_out"] for e in fed.events(RUN) if e["kind"] == "round"}


def entries(fed: harness.Deployment, site: str) -> list[dict[str, Any]]:
    """The site's audit log of this run."""
    text = (fed.home(site) / "state" / "audit.jsonl").read_text(encoding="utf-8")
    return [e for e in map(json.loads, text.splitlines()) if e["run"] == RUN]


@pytest.mark.parametrize(
    ("number", "attack"), enumerate(ATTACKS, 1), ids=[attack.name for attack in ATTACKS]
)
def test_an_attack_gets_one_word(
    fed: harness.Deployment, number: int, attack: evil_centre.Attack
) -> None:
    left_out = rounds(fed)[number]
    assert set(left_out) <= {"C"}, "A and B are told the truth, and go on"
    if attack.word:
        assert left_out["C"] == attack.word
        assert f"refused ({attack.word}): " in fed.log("C")
        assert attack.sentence in fed.log("C").replace("\n", " ")
        log = [e for e in entries(fed, "C") if e["round"] == number]
        assert attack.word in [e["reason"] for e in log if e["direction"] == "refused"]
        sent = [e for e in log if e["direction"] == "sent" and "train" in e["what"]]
        assert all(e["bytes"] == 0 for e in sent), "nothing of an answer has left"


def test_crafted_weights_are_not_scored(fed: harness.Deployment) -> None:
    assert "refused (WeightsJumped): round 5: the segmenter moved" in fed.log("C").replace(
        "\n", " "
    )
    scores = [
        e
        for e in entries(fed, "C")
        if (e["what"], e["round"], e["direction"]) == ("evaluate reply", SCORED, "sent")
    ]
    assert scores == []


def test_a_site_that_was_deceived_is_let_in_again_as_late(fed: harness.Deployment) -> None:
    assert rounds(fed)[3] == {}


def test_the_one_answer_to_weights_of_its_own_shows_in_the_statements(
    fed: harness.Deployment,
) -> None:
    """C has signed what it got in round 12; the centre hid that from A and B."""
    theirs = fed.home("A") / "state/statements" / f"{RUN}.jsonl"
    found = fed.client("audit", "C", "--statements", theirs, check=False)
    plain = " ".join(found.split())
    assert "WHAT SITES HAVE SIGNED DOES NOT FIT" in plain
    assert f"run {RUN}, round 12: the centre sent different sites different weights" in plain
    assert "fit: in each round" in " ".join(fed.client("audit", "A").split())


def test_it_stays_stopped_until_a_person_decides(fed: harness.Deployment) -> None:
    assert "stopped it was because: round 12" in fed.client("audit", "C", "--resume", RUN)
    assert "was not stopped" in fed.client("audit", "C", "--resume", RUN, check=False)


def test_a_log_whose_end_is_cut_is_found_by_what_the_others_kept(
    fed: harness.Deployment,
) -> None:
    log = fed.home("B") / "state" / "audit.jsonl"
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    try:
        log.write_bytes(b"".join(lines[: len(lines) // 2]))
        own = fed.home("B") / "state/statements" / f"{RUN}.jsonl"
        kept = own.read_bytes()
        own.unlink()
        assert "complete and unchanged" in fed.client("audit", "B")
        theirs = fed.home("A") / "state/statements" / f"{RUN}.jsonl"
        found = " ".join(fed.client("audit", "B", "--statements", theirs, check=False).split())
        assert "the audit log of site B was cut or written anew" in found
        log.unlink()
        found = " ".join(fed.client("audit", "B", "--statements", theirs, check=False).split())
        assert "the audit log of site B is missing" in found
        own.write_bytes(kept)
    finally:
        log.write_bytes(whole)
