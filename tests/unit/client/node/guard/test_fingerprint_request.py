"""A fingerprint is asked for by a run of its own, which a person approves and a site may refuse."""

from datetime import datetime
from pathlib import Path

import pytest
from signed_study import CODE, SignedStudy

from client.node.guard.allowed import require_allowed
from client.node.guard.form import read_instruction
from client.node.guard.guard import Guard
from client.node.guard.refusal import Refusal
from client.node.guard.studies import limits_broken_by
from client.node.guard.words import study_words
from protocol.config.limits import SiteLimits
from protocol.config.site import SiteConfig
from protocol.wire.description import describe
from protocol.wire.error_words import BEYOND_LIMITS, NOT_AS_SIGNED

pytestmark = pytest.mark.usefixtures("flower_task")


@pytest.fixture
def planning() -> SignedStudy:
    study = SignedStudy()
    study.manifest = study.manifest_with(asks="fingerprint")
    return study


def test_what_was_signed_for_a_fingerprint_is_asked_for_that_alone(
    planning: SignedStudy, tmp_path: Path
) -> None:
    guard = Guard(planning.config(tmp_path / "A"))
    asked = planning.ask_fingerprint()
    guard.admit(guard.recognise(asked), asked, CODE)
    for message in (planning.query(), planning.train(1, planning.first)):
        with pytest.raises(Refusal, match="signed for fingerprint") as refusal:
            guard.admit(guard.recognise(message), message, CODE)
        assert refusal.value.word == NOT_AS_SIGNED


def test_a_study_that_was_approved_for_training_gives_no_fingerprint(tmp_path: Path) -> None:
    study = SignedStudy()
    guard = Guard(study.config(tmp_path / "A"))
    message = study.ask_fingerprint()
    with pytest.raises(Refusal, match="signed for training"):
        guard.admit(guard.recognise(message), message, CODE)


def test_another_wish_is_of_no_agreed_form(planning: SignedStudy) -> None:
    message = planning.ask_fingerprint()
    message.content["study"]["ask"] = "names"  # type: ignore[index]
    with pytest.raises(Refusal, match="asks for what no run asks for"):
        read_instruction(message, planning.protocol, {})


def _refusing(config: SiteConfig) -> SiteConfig:
    limits = SiteLimits(fingerprint=False, min_local_steps=1, min_patches=1)
    return config.model_copy(update={"limits": limits})


def test_a_sites_file_refuses_it(planning: SignedStudy, tmp_path: Path) -> None:
    config = _refusing(planning.config(tmp_path / "A"))
    message = planning.ask_fingerprint()
    with pytest.raises(Refusal, match=r"limits\.fingerprint of A\.yaml") as refusal:
        require_allowed(config, planning.protocol, message, datetime(2026, 1, 1, 12))
    assert refusal.value.word == BEYOND_LIMITS
    study = Guard(config).recognise(message)
    assert any("limits.fingerprint" in line for line in limits_broken_by(config, study))


def test_a_person_is_told_what_leaves(planning: SignedStudy, tmp_path: Path) -> None:
    config = planning.config(tmp_path / "A")
    study = Guard(config).recognise(planning.ask_fingerprint())
    words = "\n".join(study_words(config, study, CODE, None))
    assert "trains nothing" in words
    assert "equal parts of at least 3 cases" in words


def test_the_log_names_it(planning: SignedStudy) -> None:
    assert describe(planning.ask_fingerprint())["what"] == "fingerprint instruction"
    assert describe(planning.query())["what"] == "facts instruction"
