"""Attack: a study that asks too much, signed or not, sent to a site; nothing of it is stored."""

import hashlib
import json
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from signed_study import CODE, SignedStudy, tiny_protocol

import client.node.executor
import client.node.guard.data_limits
from client.node.approval import ApprovedCode
from client.node.executor import Executor
from protocol.audit.verification import verify
from protocol.config.limits import SiteLimits
from protocol.config.site import SiteConfig
from protocol.wire.messages import CONFIDENCE, SEGMENTER, STUDY, pack_training
from protocol.wire.proofs import MANIFEST, SIGNATURE
from protocol.wire.reports import TrainReport

pytestmark = pytest.mark.usefixtures("flower_task")

MakeSite = Callable[..., SiteConfig]
Change = dict[str, Any]

# Within the bounds of every study, beyond this site's limits: setting in the message.
BEYOND: list[tuple[Change, str]] = [
    ({"training": {"local_steps": 1, "batch_size": 1, "views": "none"}}, "min_local_steps"),
    ({"training": {"local_steps": 10, "batch_size": 1}}, "min_patches"),
    ({"training": {"rounds": 100_000}}, "max_rounds"),
    ({"training": {"local_steps": 100_000}}, "max_local_steps"),
    ({"training": {"batch_size": 1024}}, "max_batch"),
    ({"training": {"lr_segmenter": 1.0}}, "max_learning_rate"),
    ({"patch_voxels": [1024, 1024, 1024]}, "max_patch_voxels"),
    ({"network": {"width": 256}}, "max_width"),
    ({"network": {"width": 64, "kernel": 5}}, "max_parameters"),
    ({"patch_voxels": [128, 128, 128], "training": {"batch_size": 32}}, "max_memory_gib"),
    ({"aggregation": {"max_update": 1e6}}, "max_update"),
]
# Within the limits of a study, but not with this site's scans, of 48 mm an edge.
TOO_FINE: list[tuple[Change, str]] = [
    ({"spacing_mm": [0.05, 0.05, 0.05]}, "max_grid_voxels"),
    ({"spacing_mm": [0.1, 0.1, 0.1]}, "cache_gib"),
]
# Beyond the bounds of every study.
ABSURD: list[tuple[Change, str]] = [
    ({"network": {"width": 10**9}}, "network.width"),
    ({"patch_voxels": [4096, 4096, 4096]}, "patch_voxels"),
    ({"spacing_mm": [1e-6, 1e-6, 1e-6]}, "spacing_mm"),
    ({"training": {"lr_segmenter": float("inf")}}, "training.lr_segmenter"),
    ({"training": {"lr_confidence": float("nan")}}, "training.lr_confidence"),
    ({"training": {"rounds": 10**30}}, "training.rounds"),
    ({"evaluation": {"overlap": 0.9999}}, "evaluation.overlap"),
]


class World:
    """A site's executor, and a worker that writes down what it is asked."""

    def __init__(self, config: SiteConfig, patch: pytest.MonkeyPatch) -> None:
        self.config = config
        self.asked: list[Message] = []
        self.answer: Callable[[Message], Message] | None = None
        patch.setattr(client.node.executor, "RuntimeApi", lambda *_: SimpleNamespace())
        patch.setattr(client.node.executor, "Worker", lambda _: SimpleNamespace(answer=self._work))
        patch.setattr(
            client.node.executor, "installed_bundle", lambda: SimpleNamespace(digest=CODE)
        )
        patch.setattr(client.node.executor, "check_bundle", lambda *_: ApprovedCode(CODE, {}))
        self.executor = Executor(config, "127.0.0.1:1", b"secret")

    def _work(self, _: Any, message: Message, *__: Any) -> Message:
        self.asked.append(message)
        assert self.answer is not None, "nothing was to run"
        return self.answer(message)

    def word(self, message: Message) -> str:
        """What the centre gets."""
        context = Context(2, 17, {}, RecordDict(), {})
        reply = self.executor._answer(message, context, b"", lambda: False)
        return str(reply.error.reason) if reply.has_error() else "answered"

    def files(self) -> dict[str, bytes]:
        """All that is stored, but the log of what came."""
        folders = (self.config.state, self.config.cache)
        log = self.config.audit_file.name
        return {
            str(path): path.read_bytes() if path.is_file() else b""
            for folder in folders
            for path in folder.rglob("*")
            if not path.name.startswith(log)
        }


@pytest.fixture(scope="module")
def study() -> SignedStudy:
    return SignedStudy(tiny_protocol(training={"local_steps": 10}))


@pytest.fixture
def make_world(
    study: SignedStudy, make_site: MakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., World]:
    def make(cases: int = 3, **limits: Any) -> World:
        keys = study.config(tmp_path / "keys")
        config = make_site(labelled=cases).model_copy(
            update={
                "state": keys.state,
                "limits": SiteLimits(**limits),
                "approved_studies": (study.manifest.signed(study.centre_key).digest,),
                "centre": "centre.example.org:9092",
            }
        )
        return World(config, monkeypatch)

    return make


def changed_text(study: SignedStudy, change: Change) -> str:
    """Canonical JSON of the protocol with these values, valid or not."""
    content = study.protocol.model_dump(mode="json")
    for key, value in change.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def hostile(study: SignedStudy, change: Change, *, signed: bool) -> Message:
    """The first question of a study with these values, by a centre that has signed it."""
    message, text = study.query(), changed_text(study, change)
    training = json.loads(text)["training"]
    manifest = study.manifest_with(protocol_digest=hashlib.sha256(text.encode()).hexdigest())
    if training["rounds"] <= 10**5:
        due = sorted({*range(2, training["rounds"], 2), training["rounds"]})
        manifest = manifest.model_copy(
            update={"rounds": training["rounds"], "evaluation_rounds": tuple(due)}
        )
    agreement = manifest.signed(study.centre_key)
    record = message.content[STUDY]
    assert isinstance(record, ConfigRecord)
    record["protocol"], record[MANIFEST] = text, agreement.text
    record[SIGNATURE] = agreement.signature
    if not signed:
        del record[MANIFEST], record[SIGNATURE]
    return message


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize(("change", "named"), [*BEYOND, *TOO_FINE, *ABSURD], ids=str)
def test_a_study_beyond_limits_is_refused_before_anything_is_stored(
    change: Change,
    named: str,
    signed: bool,
    study: SignedStudy,
    make_world: Callable[..., World],
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = make_world(cache_gib=1.0)
    before = world.files()
    with caplog.at_level(logging.ERROR):
        # What nobody has signed is not even looked at.
        word = "BeyondLimits" if signed else "NotSigned"
        assert world.word(hostile(study, change, signed=signed)) == word
    assert world.asked == []
    assert world.files() == before
    # The centre hears one word; the site's own log says what it was.
    assert (named if signed else "comes without a signed manifest") in caplog.text
    assert f"refused ({word})" in caplog.text
    entries = verify(world.config.audit_file).entries
    assert [entry.direction for entry in entries] == ["received", "refused", "sent"]
    assert entries[1].reason == word


def test_all_that_is_beyond_is_said_at_once(
    study: SignedStudy, make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(cases=2)
    change = {"training": {"local_steps": 1, "batch_size": 1, "lr_segmenter": 0.5}}
    assert world.word(hostile(study, change, signed=True)) == "BeyondLimits"
    for limit in ("min_local_steps", "min_patches", "max_learning_rate", "min_cases"):
        assert f"limits.{limit} of A.yaml: " in caplog.text


def test_a_site_of_two_cases_takes_no_part(
    study: SignedStudy, make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(cases=2)
    before = world.files()
    assert world.word(study.query()) == "BeyondLimits"
    assert "an update would rest on 2 training cases, this site allows 3 at least" in caplog.text
    assert world.files() == before


def at(hour: int) -> Any:
    """A clock that stands at that hour."""
    return SimpleNamespace(now=lambda: datetime(2026, 11, 29, hour, 30))


def test_a_closed_site_answers_nothing(
    study: SignedStudy,
    make_world: Callable[..., World],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = make_world(hours=["20:00-06:00"])
    before = world.files()
    monkeypatch.setattr(client.node.executor, "datetime", at(12))
    for message in (study.query(), study.train(1, study.first)):
        assert world.word(message) == "OutsideHours"
    assert world.files() == before
    assert "it is 12:30, this site allows 20:00-06:00 alone; this site works again at 20:00" in (
        caplog.text
    )
    # What is beyond limits is so at any hour.
    change = {"training": {"local_steps": 1}}
    assert world.word(hostile(study, change, signed=True)) == "BeyondLimits"
    monkeypatch.setattr(client.node.executor, "datetime", at(23))
    world.answer = lambda asked: Message(RecordDict(), reply_to=asked)
    assert world.word(study.query()) == "OutgoingRefused"  # it was asked, and said nothing
    assert len(world.asked) == 1


def test_headers_are_read_once_for_a_study(
    study: SignedStudy, make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, read = make_world(), []

    def count(*_: object) -> list[str]:
        read.append(1)
        return []

    monkeypatch.setattr(client.node.guard.data_limits, "broken_by_scans", count)
    world.answer = update(study, labelled=3, unlabelled=0)
    assert world.word(study.train(1, study.first)) == "answered"
    assert world.word(study.train(1, study.first)) == "answered"
    assert len(read) == 1
    # What there is may have changed by the time that the centre asks for it.
    world.word(study.query())
    assert len(read) == 2


def update(study: SignedStudy, labelled: int, unlabelled: int) -> Callable[[Message], Message]:
    def answer(asked: Message) -> Message:
        report = TrainReport(labelled=labelled, unlabelled=unlabelled, steps=10, seconds=1.0)
        networks = study.first
        content = pack_training(
            "A", report, study.protocol, networks[SEGMENTER], networks[CONFIDENCE]
        )
        return Message(content, reply_to=asked)

    return answer


def test_requirements_that_leave_one_case_over_give_no_update(
    study: SignedStudy, make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """A study may let cases be refused, and want what only one patient's scan has."""
    world = make_world(cases=3)
    world.answer = update(study, labelled=1, unlabelled=0)
    assert world.word(study.train(1, study.first)) == "BeyondLimits"
    assert len(world.asked) == 1
    assert "an update would rest on 1 training cases" in caplog.text
    entries = verify(world.config.audit_file).entries
    assert [entry.direction for entry in entries] == ["received", "refused", "sent"]
    world.answer = update(study, labelled=3, unlabelled=0)
    assert world.word(study.train(1, study.first)) == "answered"
