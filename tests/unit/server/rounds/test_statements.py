"""Guarded sites and the centre's loop: statements go round, late sites go on, liars are named."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message, MessageType
from memory_grid import Answer, Clock, MemoryGrid, Site, Witness
from signed_study import CODE, RUN, SignedStudy, tiny_protocol

from client.node.guard.guard import Guard
from client.node.guard.refusal import Refusal
from protocol.agreement.statement_store import STATEMENTS_FILE, kept_statements
from protocol.agreement.statements import sign
from protocol.audit.log import AuditLog
from protocol.config.study import StudyProtocol
from protocol.wire.proofs import SIGNED, add_statement, take_statement
from server.monitoring.run_folder import RunFolder, StatementWriter
from server.rounds.checkpoint import load_checkpoint, save_checkpoint
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord
from server.rounds.watchers import Watcher, Watchers

pytestmark = pytest.mark.usefixtures("flower_task")

Forge = Callable[["GuardedSite", Message], None]


class GuardedSite(Site):
    """A hospital behind its guard, as the executor has it."""

    def __init__(
        self, name: str, study: SignedStudy, folder: Path, forge: Forge | None = None, **facts: Any
    ) -> None:
        super().__init__(name, study.protocol, step=1e-6, **facts)
        self.config = study.config(folder / name, name)
        self.refused: list[tuple[str, str]] = []
        self.forge = forge

    def answer(self, message: Message) -> Answer:
        guard = Guard(self.config)  # a new process for each message
        received = AuditLog(self.config.audit_file).append("received", "x", peer="centre")
        try:
            study = guard.recognise(message)
            guard.admit(study, message, CODE)
        except Refusal as refusal:
            self.refused.append((refusal.word, str(refusal)))
            return Error(2, refusal.word)
        content = super().answer(message)
        if content is None or isinstance(content, Error):
            return content
        reply = guard.sealed(study, Message(content, reply_to=message), message, received)
        if self.forge is not None and message.metadata.message_type == MessageType.TRAIN:
            self.forge(self, reply)
        return reply.content


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("channel", "membership", "round"):
        monkeypatch.setattr(f"server.rounds.{module}.time", clock)
    return clock


def federation(
    folder: Path, protocol: StudyProtocol | None = None, **sites: dict[str, Any]
) -> tuple[SignedStudy, dict[str, GuardedSite]]:
    study = SignedStudy(protocol, "".join(sites))
    return study, {name: GuardedSite(name, study, folder, **how) for name, how in sites.items()}


def run(
    study: SignedStudy,
    sites: Iterable[GuardedSite],
    watcher: Watcher | None = None,
    record: StudyRecord | None = None,
) -> StudyRecord:
    grid = MemoryGrid(sites)
    return run_study(
        grid,
        record or new_record(study.protocol, RUN),
        watcher or Witness(),
        expected_sites=len(grid.sites),
        agreement=study.manifest.signed(study.centre_key),
    )


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_a_study_with_its_statements(tmp_path: Path, form: str) -> None:
    study, sites = federation(tmp_path, tiny_protocol(wire={"format": form}), A={}, B={}, C={})
    folder = RunFolder(tmp_path / RUN)
    record = run(study, sites.values(), StatementWriter(folder))
    assert [site.refused for site in sites.values()] == [[], [], []]
    assert [finished.left_out for finished in record.rounds] == [{}] * 5
    kept, torn = kept_statements(folder.path / STATEMENTS_FILE)
    assert (len(kept), torn) == (15, 0)
    said = [each.verified(study.manifest.sites) for each in kept]
    assert {(s.round, s.site) for s in said} == {(n, s) for n in range(1, 6) for s in "ABC"}
    assert len({s.segmenter for s in said}) == 5, "each round, one digest for all sites"


def test_the_signatures_move_no_weight(tmp_path: Path) -> None:
    study, sites = federation(tmp_path, A={}, B={}, C={})
    signed = run(study, sites.values())
    plain = [Site(name, study.protocol, step=1e-6) for name in "ABC"]
    grid = MemoryGrid(plain)
    unsigned = run_study(grid, new_record(study.protocol, RUN), Witness(), expected_sites=3)
    for name, tensor in unsigned.segmenter.items():
        assert tensor.equal(signed.segmenter[name])
    assert unsigned.statements == [] and unsigned.before == {}


@pytest.mark.parametrize("away", [1, 2, 3])
def test_a_site_that_missed_a_round_goes_on_in_the_next(tmp_path: Path, away: int) -> None:
    study, sites = federation(tmp_path, A={}, B={}, C={})
    late = sites["C"]
    after: dict[int, Callable[[], object]] = {away: lambda: late.goes("online")}
    if away > 1:
        after[away - 1] = lambda: late.goes("offline")
    else:
        # It declares itself, and is gone when round 1 begins.
        late.spoil = {"query": lambda _, content: (late.goes("offline"), content)[1]}
    record = run(study, sites.values(), Witness(after))
    assert late.refused == []
    assert [n for n in range(1, 6) if n not in late.rounds] == [away]
    assert [set(r.left_out) for r in record.rounds] == [
        {"C"} if n == away else set() for n in range(1, 6)
    ]
    sent = record.rounds[away].bytes_down
    assert sent["C"] > 1.9 * sent["A"], "with the weights of the round that it missed"


def test_a_newcomer_takes_what_the_others_have_signed(tmp_path: Path) -> None:
    study, sites = federation(tmp_path, A={}, B={}, N={})
    grid = MemoryGrid([sites["A"], sites["B"]])
    watcher = Witness({2: lambda: grid.add(sites["N"])})
    record = new_record(study.protocol, RUN)
    agreement = study.manifest.signed(study.centre_key)
    run_study(grid, record, watcher, expected_sites=2, agreement=agreement)
    assert sites["N"].refused == []
    assert sites["N"].rounds == [3, 4, 5]


def test_label_free_sites_rest_and_score_and_begin_later(tmp_path: Path) -> None:
    ramp = {"adversarial_start": 0.0, "region_start": 0.6, "length": 0.0}
    protocol = tiny_protocol(training={"ramp": ramp})
    rests = {"labelled": 0, "unlabelled": 3}
    study, sites = federation(tmp_path, protocol, A={}, B=rests, C=rests)
    run(study, sites.values())
    assert {name: site.refused for name, site in sites.items()} == {"A": [], "B": [], "C": []}
    assert (sites["A"].rounds, sites["B"].rounds) == ([1, 2, 3, 4, 5], [4, 5])
    assert sites["B"].asked["evaluate"] == 3


def test_a_study_is_resumed_at_any_round(tmp_path: Path) -> None:
    """The centre is killed before a round is stored; the sites have followed it already."""
    study, sites = federation(tmp_path, A={}, B={}, C={})

    class Killed(Exception):
        pass

    class Disk(Watcher):
        def __init__(self, dies_in: int) -> None:
            self.dies_in = dies_in

        def round_finished(self, record: StudyRecord) -> None:
            if len(record.rounds) == self.dies_in:
                raise Killed
            save_checkpoint(tmp_path, record)

    for dies_in in range(1, 6):
        record = load_checkpoint(tmp_path) or new_record(study.protocol, RUN)
        assert len(record.rounds) == dies_in - 1
        with pytest.raises(Killed):
            run(study, sites.values(), Disk(dies_in), record)
        resumed = load_checkpoint(tmp_path) or new_record(study.protocol, RUN)
        stopped = Disk(dies_in + 1)
        with pytest.raises(Killed) if dies_in < 5 else nullcontext():
            run(study, sites.values(), stopped, resumed)
    assert [site.refused for site in sites.values()] == [[], [], []]
    record = load_checkpoint(tmp_path)
    assert record is not None and [r.left_out for r in record.rounds] == [{}] * 5
    whole, others = federation(tmp_path / "whole", A={}, B={}, C={})
    unbroken = run(whole, others.values())
    assert all(t.equal(record.segmenter[n]) for n, t in unbroken.segmenter.items())


# ---- liars --------------------------------------------------------------------------------------


def removes(_: GuardedSite, reply: Message) -> None:
    del reply.content[SIGNED]


def forges(site: GuardedSite, reply: Message) -> None:
    signed = take_statement(reply.content)
    assert signed is not None
    add_statement(reply.content, signed.model_copy(update={"signature": "AAAA"}))


def signs_other_weights(site: GuardedSite, reply: Message) -> None:
    from protocol.keys import read_private_key

    signed = take_statement(reply.content)
    assert signed is not None
    lie = signed.read().model_copy(update={"segmenter": "0" * 64})
    add_statement(reply.content, sign(lie, read_private_key(site.config.key_file)))


def signs_for_another(site: GuardedSite, reply: Message) -> None:
    from protocol.keys import read_private_key

    signed = take_statement(reply.content)
    assert signed is not None
    lie = signed.read().model_copy(update={"site": "A"})
    add_statement(reply.content, sign(lie, read_private_key(site.config.key_file)))


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (removes, "has signed no statement"),
        (forges, "is not signed by the site's key"),
        (signs_other_weights, "signed other weights than it was sent"),
        (signs_for_another, "is not signed by the site's key"),
    ],
)
def test_a_site_with_a_bad_statement_is_left_out_and_the_others_go_on(
    tmp_path: Path, forge: Forge, reason: str
) -> None:
    study, sites = federation(tmp_path, A={}, B={}, C={"forge": forge})
    record = run(study, sites.values())
    for finished in record.rounds:
        assert list(finished.left_out) == ["C"] and reason in finished.left_out["C"]
    assert sites["A"].refused == sites["B"].refused == []


def test_events_and_statements_are_written_together(tmp_path: Path) -> None:
    study, sites = federation(tmp_path, A={}, B={})
    folder = RunFolder(tmp_path / RUN)
    run(study, sites.values(), Watchers([StatementWriter(folder), Witness()]))
    assert folder.statements.exists()
