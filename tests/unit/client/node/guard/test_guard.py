"""A site follows what an honest centre could send now, and nothing else; each refusal is a word."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from signed_study import CODE, RUN, Networks, SignedStudy, tiny_protocol

from client.node.guard.guard import Guard
from client.node.guard.history import History, HistoryError, Record
from client.node.guard.refusal import Refusal
from client.node.guard.resumption import ResumptionError, resume_run
from protocol.agreement.statements import SignedStatement, Statement
from protocol.audit.log import AuditLog
from protocol.audit.verification import verify
from protocol.config.site import SiteConfig
from protocol.keys import make_key, make_signing_key, openssh_line
from protocol.wire.messages import pack_facts
from protocol.wire.proofs import take_statement
from protocol.wire.reports import SiteFacts

pytestmark = pytest.mark.usefixtures("flower_task")

STEP = 1e-6  # within the bound of D in the last round, whose rate is 1e-6


class Site:
    """A guard with its state on the disk; each message may meet a new process."""

    def __init__(self, study: SignedStudy, config: SiteConfig) -> None:
        self.study, self.config = study, config
        self.guard = Guard(config)

    def restarted(self) -> "Site":
        return Site(self.study, self.config)

    def admits(self, message: Message, code: str = CODE) -> None:
        self.guard.admit(self.guard.recognise(message), message, code)

    def answers(self, message: Message) -> Statement | None:
        """As the executor does it; the statement of the reply."""
        received = AuditLog(self.config.audit_file).append("received", "x", peer="centre")
        self.admits(message)
        facts = pack_facts(
            "A", SiteFacts(labelled=3, unlabelled=0, validation=0, test=0), self.study.protocol
        )
        reply = Message(facts, reply_to=message)
        study = self.guard.recognise(message)
        signed = take_statement(self.guard.sealed(study, reply, message, received).content)
        return None if signed is None else signed.verified(self.study.manifest.sites)

    def refuses(self, message: Message, word: str, sentence: str, code: str = CODE) -> None:
        with pytest.raises(Refusal, match=sentence) as refusal:
            self.admits(message, code)
        assert refusal.value.word == word


@pytest.fixture(scope="module")
def study() -> SignedStudy:
    return SignedStudy()


@pytest.fixture
def site(study: SignedStudy, tmp_path: Path) -> Site:
    return Site(study, study.config(tmp_path / "A"))


def path_of(study: SignedStudy, rounds: int = 5) -> list[Networks]:
    """Weights that rounds 1, 2, ... begin with; index 0 is unused."""
    networks = [study.first, study.first]
    for number in range(1, rounds + 1):
        networks.append(study.moved(networks[-1], STEP, seed=number))
    return networks


# ---- a whole study ------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_a_whole_study_passes(form: str, restart: bool, tmp_path: Path) -> None:
    study = SignedStudy(tiny_protocol(wire={"format": form}))
    site = Site(study, study.config(tmp_path / "A"))
    weights = path_of(study)
    assert site.answers(study.query()) is None
    signed: list[SignedStatement] = []
    for number in range(1, 6):
        site = site.restarted() if restart else site
        said = site.answers(study.train(number, weights[number], signed))
        assert said is not None
        signed = study.statements(number, weights[number])
        assert (said.run, said.round, said.site) == (RUN, number, "A")
        [own] = study.statements(number, weights[number], "A")
        assert said.digests == own.read().digests
        if number in study.manifest.evaluation_rounds:
            scored = study.evaluate(number, weights[number + 1], signed)
            assert site.answers(scored) is None
    lines = (site.config.statements / f"{RUN}.jsonl").read_text().splitlines()
    assert len(lines) == 5 + 2 * 5  # its own, and those of B and C, each once


def test_a_study_without_a_confidence_network_passes(tmp_path: Path) -> None:
    study = SignedStudy(tiny_protocol(method={"name": "semi-fcn"}))
    site = Site(study, study.config(tmp_path / "A"))
    weights = path_of(study)
    said = site.answers(study.train(1, weights[1]))
    assert said is not None and said.confidence == ""
    site.admits(study.train(2, weights[2], study.statements(1, weights[1])))


# ---- the manifest -------------------------------------------------------------------------------


def test_without_a_manifest_nothing_is_followed(site: Site, study: SignedStudy) -> None:
    message = study.query()
    for key in ("manifest", "manifest_signature"):
        del message.content["study"][key]  # type: ignore[attr-defined]
    site.refuses(message, "NotSigned", "comes without a signed manifest")


def test_another_centres_signature_is_refused(study: SignedStudy, tmp_path: Path) -> None:
    config = study.config(tmp_path / "A")
    pinned = openssh_line(make_signing_key().public_key())
    config.centre_key_file.write_text(pinned)
    Site(study, config).refuses(study.query(), "NotSigned", "not signed by the centre's key")
    config.centre_key_file.unlink()
    Site(study, config).refuses(study.query(), "NotSigned", "centre.pub")


def test_a_site_that_is_not_in_the_roster_refuses(study: SignedStudy, tmp_path: Path) -> None:
    config = study.config(tmp_path / "A").model_copy(update={"site": "D"})
    Site(study, config).refuses(study.query(), "NotSigned", "stands under another name, A")


def test_another_key_under_its_name_is_refused(tmp_path: Path) -> None:
    study = SignedStudy()
    config = study.config(tmp_path / "A")
    study.keys["A"] = make_key()
    study.manifest = study.manifest_with()
    Site(study, config).refuses(study.query(), "NotSigned", "under site A stands another key")


def test_another_protocol_than_was_signed_is_refused(tmp_path: Path) -> None:
    """One step, one patch: the attack of the issue's first row."""
    study = SignedStudy()
    site = Site(study, study.config(tmp_path / "A"))
    study.protocol = tiny_protocol(training={"local_steps": 1, "batch_size": 1, "views": "none"})
    site.refuses(study.query(), "NotSigned", "is not the one it was for")


def test_another_run_or_code_than_was_signed_is_refused(site: Site, study: SignedStudy) -> None:
    site.refuses(study.query(), "NotAsSigned", "comes with code ffffffffffff", code="f" * 64)
    message = study.query()
    message.content["study"]["run"] = "tiny-2"  # type: ignore[index]
    site.refuses(message, "NotAsSigned", "of another run")


# ---- form and plan ------------------------------------------------------------------------------


def with_record(content: RecordDict) -> None:
    content["more"] = ConfigRecord({"x": 1})


def with_weights_in_a_query(content: RecordDict) -> None:
    content["segmenter"] = ArrayRecord()


def with_key(content: RecordDict) -> None:
    content["study"]["more"] = "x"  # type: ignore[index]


@pytest.mark.parametrize("change", [with_record, with_weights_in_a_query, with_key])
def test_a_query_that_holds_more_is_refused(
    site: Site, study: SignedStudy, change: Callable[[RecordDict], None]
) -> None:
    message = study.query()
    change(message.content)
    site.refuses(message, "WrongForm", "instruction: ")


def test_a_training_that_holds_more_or_less_is_refused(site: Site, study: SignedStudy) -> None:
    for change in (with_record, with_key):
        message = study.train(1, study.first)
        change(message.content)
        site.refuses(message, "WrongForm", "instruction: ")
    lacking = study.train(1, study.first)
    del lacking.content["confidence"]
    site.refuses(lacking, "WrongForm", "other records than the 2 networks")
    odd = study.first | {"segmenter": {"x": torch.zeros(3)}}
    site.refuses(study.train(1, odd), "WrongForm", "tensor names differ")
    nan = {n: {k: t * float("nan") for k, t in w.items()} for n, w in study.first.items()}
    site.refuses(study.train(1, nan), "WrongForm", "holds NaN or infinity")


@pytest.mark.parametrize(
    ("changed", "value", "sentence"),
    [
        ("lr_factor", 0.5, "lr_factor is 0.5, of round 1 it is 1.0"),
        ("region_ramp", 0.0, "region_ramp is 0.0"),
        ("adversarial_ramp", 0.0, "adversarial_ramp is 0.0"),
        ("pseudo_labels", 3, "pseudo_labels is 3"),
        ("attention_scale", 1e-9, "attention_scale is 1e-09"),
        ("attention_scale", 50.0, "attention_scale: must be 1 or less"),
        ("gamma", 0.1, "which the protocol does not ask for"),
        ("organ_box", (0.5, 0.5, 0.5, 0.4, 0.6, 0.6), "organ_box"),
        ("organ_box", (0.0, 0.0, 0.0, 1.0, 1.0, 7.0), "organ_box"),
        ("round", 6, "instruction: is of no round from 1 to 5|round"),
    ],
)
def test_another_plan_than_the_protocols_is_refused(
    site: Site, study: SignedStudy, changed: str, value: object, sentence: str
) -> None:
    with pytest.raises(Refusal, match=sentence) as refusal:
        site.admits(study.train(1, study.first, **{changed: value}))
    assert refusal.value.word in ("WrongPlan", "WrongForm")


def test_what_sites_measured_may_be_in_a_plan(site: Site, study: SignedStudy) -> None:
    box = (0.2, 0.2, 0.2, 0.8, 0.8, 0.9)
    site.admits(study.train(1, study.first, attention_scale=0.25, organ_box=box))


# ---- weights ------------------------------------------------------------------------------------


def test_other_first_weights_are_refused(site: Site, study: SignedStudy) -> None:
    crafted = study.moved(study.first, 1e-6)
    site.refuses(study.train(1, crafted), "WrongWeights", "not those whose digests")


def test_signed_first_weights_that_are_not_of_the_seed_are_refused(tmp_path: Path) -> None:
    study = SignedStudy()
    site = Site(study, study.config(tmp_path / "A"))
    study.first = study.moved(study.first, 0.01)
    study.manifest = study.manifest_with()
    site.refuses(study.train(1, study.first), "WrongWeights", "not begin with the weights that the")


def test_weights_that_jump_are_refused(site: Site, study: SignedStudy) -> None:
    site.answers(study.train(1, study.first))
    said = study.statements(1, study.first)
    far = study.moved(study.first, 1.0)
    site.refuses(study.train(2, far, said), "WeightsJumped", "segmenter moved by .* at most")
    only_d = study.first | {"confidence": far["confidence"]}
    site.refuses(study.train(2, only_d, said), "WeightsJumped", "confidence moved by")
    site.admits(study.train(2, study.moved(study.first, STEP), said))


def test_other_weights_for_other_sites_stop_the_run(site: Site, study: SignedStudy) -> None:
    site.answers(study.train(1, study.first))
    theirs = study.moved(study.first, STEP)
    said = study.statements(1, theirs, "B") + study.statements(1, study.first, "C")
    message = study.train(2, study.first, said)
    site.refuses(message, "WeightsDiffer", "the centre sent other sites other weights: B")
    # What came of it is said again to everything, also after a restart.
    good = study.train(2, study.first, study.statements(1, study.first))
    site.restarted().refuses(good, "WeightsDiffer", "audit --resume")
    site.restarted().refuses(study.query(), "WeightsDiffer", "the centre sent other sites")


def test_forged_and_foreign_statements_are_refused(site: Site, study: SignedStudy) -> None:
    site.answers(study.train(1, study.first))
    [forged] = study.statements(1, study.first, "B")
    forged = forged.model_copy(
        update={"signature": study.statements(1, study.first, "C")[0].signature}
    )
    site.refuses(
        study.train(2, study.first, [forged]), "NotSigned", "site B, round 1: is not signed"
    )
    late = study.statements(2, study.first)
    site.refuses(study.train(2, study.first, late), "WrongWeights", "is of round 2 of run tiny-1")
    foreign = study.statements(1, study.first, run="other")
    site.refuses(study.train(2, study.first, foreign), "WrongWeights", "of run other")


def test_a_site_that_sees_no_other_sites_word_stops(site: Site, study: SignedStudy) -> None:
    site.answers(study.train(1, study.first))
    nobody = study.train(2, study.first)
    site.refuses(nobody, "WrongWeights", "0 other sites have signed .* at least 1 must")
    own = study.train(2, study.first, study.statements(1, study.first, "A"))
    site.refuses(own, "WrongWeights", "0 other sites have signed")


def test_where_sites_rest_at_first_nobody_is_kept_alone_for_longer(tmp_path: Path) -> None:
    ramp = {"adversarial_start": 0.0, "region_start": 0.4, "length": 0.0}
    study = SignedStudy(tiny_protocol(training={"ramp": ramp}))
    site = Site(study, study.config(tmp_path / "A"))
    weights = path_of(study)
    site.answers(study.train(1, weights[1]))
    site.answers(study.train(2, weights[2]))
    site.answers(study.train(3, weights[3]))
    # Round 3 was the first in which all sites work.
    alone = study.train(4, weights[4])
    site.refuses(alone, "WrongWeights", "0 other sites have signed the weights of round 3")
    theirs = study.moved(weights[3], STEP)
    differ = study.train(4, weights[4], study.statements(3, theirs))
    site.refuses(differ, "WeightsDiffer", "other sites other weights: B, C")


def test_where_nobody_ever_rests_a_site_is_never_alone(tmp_path: Path) -> None:
    study = SignedStudy(tiny_protocol(method={"lambda_region": 0.0}))
    site = Site(study, study.config(tmp_path / "A"))
    site.answers(study.train(1, study.first))
    alone = study.train(2, study.first)
    site.refuses(alone, "WrongWeights", "0 other sites have signed the weights of round 1")


# ---- late sites ---------------------------------------------------------------------------------


def test_a_late_site_takes_weights_that_others_have_signed(site: Site, study: SignedStudy) -> None:
    weights = path_of(study)
    said, before = study.statements(3, weights[3]), weights[3]
    site.refuses(study.train(4, weights[4], said), "WrongWeights", "does not have the weights of")
    unsigned = study.train(4, weights[4], [], before)
    site.refuses(unsigned, "WrongWeights", "0 other sites have signed")
    jumped = study.train(4, study.moved(weights[4], 1.0), said, before)
    site.refuses(jumped, "WeightsJumped", "moved by")
    site.answers(study.train(4, weights[4], said, before))
    site.admits(study.train(5, weights[5], study.statements(4, weights[4])))


def test_other_weights_of_the_round_before_than_were_signed_stop_a_late_site(
    site: Site, study: SignedStudy
) -> None:
    weights = path_of(study)
    crafted = study.moved(weights[4], 1.0)
    message = study.train(4, crafted, study.statements(3, weights[3]), crafted)
    site.refuses(message, "WeightsDiffer", "the centre sent other sites other weights")


def test_a_site_that_missed_the_first_round_knows_its_weights(
    site: Site, study: SignedStudy
) -> None:
    weights = path_of(study)
    site.answers(study.train(2, weights[2], study.statements(1, weights[1])))


def test_where_one_site_is_enough_a_late_one_takes_the_centres_word(tmp_path: Path) -> None:
    study = SignedStudy(tiny_protocol(aggregation={"min_sites": 1}))
    site = Site(study, study.config(tmp_path / "A"))
    weights = path_of(study)
    site.admits(study.train(4, weights[4], [], weights[3]))


# ---- order --------------------------------------------------------------------------------------


def test_no_round_is_done_again_once_a_later_one_was_begun(site: Site, study: SignedStudy) -> None:
    weights = path_of(study)
    first, second = (
        study.train(1, weights[1]),
        study.train(2, weights[2], study.statements(1, weights[1])),
    )
    site.answers(first)
    site.answers(second)
    site.refuses(first, "WrongRound", "round 1: training .* to round 2")
    site.answers(second)


def test_a_repeated_round_is_the_same_round(site: Site, study: SignedStudy) -> None:
    weights = path_of(study)
    said = study.statements(1, weights[1])
    site.answers(study.train(2, weights[2], said))
    other = study.train(2, study.moved(weights[2], 1e-6), said)
    site.refuses(other, "WrongWeights", "round 2: its weights are not those that came")
    plan = study.train(2, weights[2], said, attention_scale=0.5)
    site.refuses(plan, "WrongWeights", "by another plan")
    # A centre that was started anew has heard of other sites meanwhile.
    site.answers(study.train(2, weights[2], said, organ_box=(0.1, 0.1, 0.1, 0.9, 0.9, 0.9)))


def test_a_round_is_answered_a_limited_number_of_times(site: Site, study: SignedStudy) -> None:
    for _ in range(10):
        site.answers(study.train(1, study.first))
    site.refuses(study.train(1, study.first), "TooOften", "have left this site 10 times")
    weights = path_of(study)
    site.answers(study.train(2, weights[2], study.statements(1, weights[1])))


def test_what_was_admitted_and_not_answered_does_not_count(site: Site, study: SignedStudy) -> None:
    for _ in range(30):
        site.restarted().admits(study.train(1, study.first))


def test_scores_are_given_in_their_rounds_alone(site: Site, study: SignedStudy) -> None:
    weights = path_of(study)
    site.answers(study.train(1, weights[1]))
    early = study.evaluate(1, weights[2], study.statements(1, weights[1]))
    site.refuses(early, "WrongRound", "the signed rounds are 2, 4, 5")
    site.answers(study.train(2, weights[2], study.statements(1, weights[1])))
    said = study.statements(2, weights[2])
    crafted = study.evaluate(2, study.moved(weights[2], 1.0), said)
    site.refuses(crafted, "WeightsJumped", "moved by")
    for _ in range(3):
        site.answers(study.evaluate(2, weights[3], said))
    site.refuses(study.evaluate(2, weights[3], said), "TooOften", "scores have left this site 3")
    site.answers(study.train(3, weights[3], said))
    site.refuses(study.evaluate(2, weights[3], said), "WrongRound", "to round 3")


def test_one_model_is_scored_in_a_round_and_it_is_trained_on(
    site: Site, study: SignedStudy
) -> None:
    weights = path_of(study)
    said = study.statements(1, weights[1])
    site.answers(study.train(2, weights[2], said))
    later = study.statements(2, weights[2])
    site.answers(study.evaluate(2, weights[3], later))
    other = study.moved(weights[2], STEP, seed=99)
    site.refuses(study.evaluate(2, other, later), "WrongWeights", "to train or to score")
    site.refuses(study.train(3, other, later), "WrongWeights", "to train or to score")
    # The centre was killed before it had stored the round: it is trained, and scored, again.
    site.answers(study.train(2, weights[2], said))
    site.answers(study.evaluate(2, other, later))
    site.answers(study.train(3, other, later))


def test_a_site_that_only_scores_is_shown_what_others_trained_on(
    site: Site, study: SignedStudy
) -> None:
    weights = path_of(study)
    said = study.statements(2, weights[2])
    bare = study.evaluate(2, weights[3], said)
    site.refuses(bare, "WrongWeights", "does not have the weights of round 2")
    site.answers(study.evaluate(2, weights[3], said, weights[2]))
    site.answers(study.evaluate(4, weights[5], study.statements(4, weights[4]), weights[4]))


def test_declarations_are_bounded(site: Site, study: SignedStudy) -> None:
    history = History(site.config.state, RUN)
    history.save(Record(queries=100))
    site.refuses(study.query(), "TooOften", "declarations have left this site 100 times")


# ---- logs ---------------------------------------------------------------------------------------


def test_its_own_cut_log_is_noticed(site: Site, study: SignedStudy) -> None:
    weights = path_of(study)
    AuditLog(site.config.audit_file).append("note", "x", peer="")
    kept = site.config.audit_file.read_bytes()
    site.answers(study.train(1, weights[1]))
    whole = site.config.audit_file.read_bytes()
    second = study.train(2, weights[2], study.statements(1, weights[1]))
    site.config.audit_file.write_bytes(kept)
    site.refuses(second, "LogCut", "own audit log was cut: entry 2")
    site.config.audit_file.unlink()
    site.refuses(second, "LogCut", "own audit log was cut")
    site.config.audit_file.write_bytes(whole)
    site.admits(second)


def test_a_person_goes_on_where_the_mark_in_its_own_log_is_damaged(
    site: Site, study: SignedStudy
) -> None:
    weights = path_of(study)
    site.answers(study.train(1, weights[1]))
    second = study.train(2, weights[2], study.statements(1, weights[1]))
    (site.config.state / "guard" / "last-signed.json").write_text("{", encoding="utf-8")
    with pytest.raises(HistoryError, match="go on with asdnet-site audit --resume RUN"):
        site.admits(second)
    assert "is answered again" in resume_run(site.config, study.manifest.run)
    site.admits(second)
    with pytest.raises(ResumptionError, match="was not stopped at this site"):
        resume_run(site.config, study.manifest.run)


def test_another_sites_cut_log_is_recorded_and_the_study_goes_on(
    site: Site, study: SignedStudy, caplog: pytest.LogCaptureFixture
) -> None:
    weights = path_of(study)
    site.answers(study.train(1, weights[1]))
    said = study.statements(1, weights[1], "B", audit_seq=50) + study.statements(1, weights[1], "C")
    site.answers(study.train(2, weights[2], said))
    cut = study.statements(2, weights[2], "B", audit_seq=49) + study.statements(2, weights[2], "C")
    site.answers(study.train(3, weights[3], cut))
    assert "site B's audit log was cut: it had 50 entries or more, and ends at 49" in caplog.text
    notes = [e for e in verify(site.config.audit_file).entries if e.direction == "note"]
    assert [note.what for note in notes] == ["another site's audit log was cut"]
    assert "site B" in notes[0].reason


def test_a_person_lets_a_stopped_run_go_on(site: Site, study: SignedStudy) -> None:
    site.answers(study.train(1, study.first))
    theirs = study.moved(study.first, STEP)
    site.refuses(
        study.train(2, study.first, study.statements(1, theirs)), "WeightsDiffer", "other weights"
    )
    said = resume_run(site.config, RUN)
    assert "is answered again from now on" in said and "other sites other weights: B, C" in said
    site.answers(study.train(2, study.first, study.statements(1, study.first)))
    note = verify(site.config.audit_file).entries[-2]
    assert (note.what, note.run) == ("run answered again", RUN)
    assert "decided by" in note.reason
    with pytest.raises(ResumptionError, match="was not stopped"):
        resume_run(site.config, RUN)
    with pytest.raises(ResumptionError, match="is no name of a run"):
        resume_run(site.config, "../../x")


def test_a_person_lets_it_go_on_without_the_lost_end_of_the_log(
    site: Site, study: SignedStudy
) -> None:
    site.answers(study.train(1, study.first))
    site.config.audit_file.unlink()
    second = study.train(2, study.first, study.statements(1, study.first))
    site.refuses(second, "LogCut", "was cut")
    assert "had lost its end" in resume_run(site.config, RUN)
    site.answers(second)


# ---- the disk -----------------------------------------------------------------------------------


def test_weights_on_the_disk_are_bounded(site: Site, study: SignedStudy) -> None:
    weights = path_of(study)
    for number in range(1, 6):
        said = study.statements(number - 1, weights[number - 1]) if number > 1 else []
        site.answers(study.train(number, weights[number], said))
        assert len(list((site.config.state / "guard" / RUN).glob("weights-*"))) == 1


def test_damaged_weights_are_as_lost_ones(site: Site, study: SignedStudy) -> None:
    weights = path_of(study)
    for number in (1, 2):
        said = study.statements(number - 1, weights[number - 1]) if number > 1 else []
        site.answers(study.train(number, weights[number], said))
    [path] = (site.config.state / "guard" / RUN).glob("weights-*")
    path.write_bytes(b"damaged")
    said = study.statements(2, weights[2])
    site.refuses(study.train(3, weights[3], said), "WrongWeights", "does not have the weights of")
    site.admits(study.train(3, weights[3], said, weights[2]))


def test_a_damaged_record_stops_the_run(site: Site, study: SignedStudy) -> None:
    site.answers(study.train(1, study.first))
    (site.config.state / "guard" / RUN / "record.json").write_text("{}}")
    with pytest.raises(HistoryError, match="does not know any more"):
        site.admits(study.train(1, study.first))


@pytest.mark.parametrize("step", ["keep_statements", "keep_weights", "save"])
def test_killed_between_any_two_steps_a_site_answers_the_same_round(
    site: Site, study: SignedStudy, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    import client.node.guard.guard as module

    weights = path_of(study)
    site.answers(study.train(1, weights[1]))
    second = study.train(2, weights[2], study.statements(1, weights[1]))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "keep_statements":
            patch.setattr(module, step, killed)
        else:
            patch.setattr(History, step, killed)
        with pytest.raises(KeyboardInterrupt):
            site.answers(second)
    site.restarted().answers(second)
    site.restarted().answers(study.train(3, weights[3], study.statements(2, weights[2])))
