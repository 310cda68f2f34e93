"""Replies that are not as agreed: each is left out of the round and named, the others count."""

import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from memory_grid import RUN, Site, Spoil, error, same, study
from torch import Tensor

from protocol.config.study import StudyProtocol
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.weights import Weights, pack_weights, raw_weights
from server.rounds.loop import new_record
from server.rounds.record import StudyRecord

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def in_weights(change: Callable[[Tensor], Tensor], network: str = SEGMENTER) -> Spoil:
    """One tensor of a network, small and of several axes, is another one."""

    def spoil(_: Message, content: RecordDict) -> RecordDict:
        weights = raw_weights(content, network)
        assert weights is not None
        uneven = [n for n, w in weights.items() if w.ndim > 1 and w.shape[0] != w.shape[-1]]
        name = min(uneven, key=lambda n: weights[n].numel())
        content[network] = pack_weights(weights | {name: change(weights[name]).contiguous()})
        return content

    return spoil


def in_file(change: Callable[[Array], Array], network: str = SEGMENTER) -> Spoil:
    """The array that holds the file of a network's weights is another one."""

    def spoil(_: Message, content: RecordDict) -> RecordDict:
        record = content[network]
        assert isinstance(record, ArrayRecord)
        ((name, array),) = record.items()
        record[name] = change(array)
        return content

    return spoil


def in_names(change: Callable[[Weights], object]) -> Spoil:
    """Other tensors than those of the network."""

    def spoil(_: Message, content: RecordDict) -> RecordDict:
        weights = raw_weights(content, SEGMENTER)
        assert weights is not None
        change(weights)
        content[SEGMENTER] = pack_weights(weights)
        return content

    return spoil


def in_content(change: Callable[[RecordDict], object]) -> Spoil:
    def spoil(_: Message, content: RecordDict) -> RecordDict:
        change(content)
        return content

    return spoil


def as_bytes(data: bytes) -> Callable[[Array], Array]:
    """Bytes that say of themselves to be the array that is due."""
    return lambda array: Array(array.dtype, array.shape, array.stype, data)


def metric(name: str, value: Any) -> Spoil:
    return in_content(lambda content: content["metrics"].update({name: value}))


def text_for_a_metric(content: RecordDict) -> None:
    content["metrics"] = ConfigRecord({**content["metrics"], "seconds": "Jane Doe, 71"})


def infinite(tensor: Tensor) -> Tensor:
    values = tensor.clone()
    values.view(-1)[-1] = torch.inf
    return values


def bytes_of_file(change: Callable[[bytes], bytes]) -> Callable[[Array], Array]:
    """The file itself, as an array of bytes."""
    return lambda a: Array(np.frombuffer(change(a.numpy().tobytes()), np.uint8))


BAD_WEIGHTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "NaN": (lambda w: w * torch.nan, "NaN or infinity"),
    "infinity": (infinite, "NaN or infinity"),
    "float64": (lambda w: w.double(), "torch.float64"),
    "float16": (lambda w: w.half(), "torch.float16"),
    "integers": (lambda w: w.int(), "torch.int32"),
    "complex": (lambda w: w.to(torch.complex64), "torch.complex64|cannot be decoded"),
    "wider": (lambda w: w.repeat_interleave(2, 0), "must be torch.float32"),
    "flat": (lambda w: w.reshape(-1), "must be torch.float32"),
    "axes moved": (lambda w: w.movedim(0, -1), "must be torch.float32"),
    "empty": (lambda w: w[:0], "must be torch.float32"),
    "16 MB": (lambda _: torch.zeros(2**22), "bytes, can be of [0-9]+ at most"),
}
BAD_FILES: dict[str, tuple[Callable[[Array], Array], str]] = {
    "text": (lambda _: Array(np.array(["a"])), "must be bytes, not <U1"),
    "floats": (lambda a: Array(a.numpy()[:1024].astype(np.float64)), "must be bytes, not float64"),
    "no array": (as_bytes(b"not an array"), "cannot be decoded"),
    "no bytes": (as_bytes(b""), "cannot be decoded"),
    "64 MB": (as_bytes(bytes(64 * 2**20)), "67108864 bytes, can be of [0-9]+ at most"),
    "foreign": (lambda a: Array(a.dtype, a.shape, "pickle", a.data), "cannot be decoded"),
    "torn": (bytes_of_file(lambda file: file[:-1]), "cannot be decoded"),
    "no file": (bytes_of_file(lambda _: b""), "cannot be decoded"),
    "no header": (bytes_of_file(lambda file: b"\xff" * 8 + file[8:]), "cannot be decoded"),
    "header garbled": (bytes_of_file(lambda f: f[:8] + b"!" * 64 + f[72:]), "cannot be decoded"),
    "a byte more": (bytes_of_file(lambda file: file + b"x"), "cannot be decoded"),
}
BAD_CONTENT: dict[str, tuple[Spoil, str]] = {
    "error": (error("LayoutError"), "^LayoutError$"),
    "a tensor more": (
        in_names(lambda w: w.update(x=torch.zeros(1))),
        "tensor names differ: 0 missing; 1 that are not agreed",
    ),
    "a tensor less": (in_names(lambda w: w.popitem()), "tensor names differ"),
    "no tensors": (in_names(lambda w: w.clear()), "tensor names differ"),
    "an array more": (
        in_content(lambda c: c[SEGMENTER].update(x=Array(np.zeros(1)))),
        "must hold one array",
    ),
    "no array": (in_content(lambda c: c[SEGMENTER].clear()), "must hold one array"),
    "no segmenter": (in_content(lambda c: c.pop(SEGMENTER)), "C: sent no segmenter"),
    "segmenter of numbers": (
        in_content(lambda c: c.update({SEGMENTER: MetricRecord({"a": 1.0})})),
        "must be an ArrayRecord, not MetricRecord",
    ),
    "no metrics": (in_content(lambda c: c.pop("metrics")), "has no record 'metrics'"),
    "no name": (in_content(lambda c: c.pop("site")), "record 'site' has no name"),
    "nothing": (in_content(lambda c: c.clear()), "record 'site' has no name"),
    "another's name": (
        in_content(lambda c: c["site"].update(name="A")),
        "a node that is not site A answered in its name",
    ),
    "nobody's name": (
        in_content(lambda c: c["site"].update(name="Z")),
        "a node that is not site Z answered in its name",
    ),
    "extra metric": (
        metric("age", 71.0),
        "differ from the allow-list: 0 missing; 1 that are not agreed",
    ),
    "text for a metric": (in_content(text_for_a_metric), "has no record 'metrics'"),
    "list for a metric": (metric("seconds", [1.0, 2.0]), "seconds must be one finite number"),
    "NaN metric": (metric("loss/dice/sum", float("nan")), "loss/dice/sum must be one finite"),
    "half a case": (metric("labelled", 1.5), "labelled is 1.5, must be a whole number"),
    "fewer than no steps": (metric("steps", -1.0), "steps is -1, must be 2"),
    "more cases": (metric("labelled", 900.0), r"trained on 900\+0 cases, declared 2\+0"),
    "more scans": (metric("unlabelled", 1.0), r"trained on 2\+1 cases, declared 2\+0"),
}


def check_left_out(protocol: StudyProtocol, spoil: Spoil, reason: str, **options: Any) -> None:
    """C is left out of every round for this reason, and the study is as if it had never been."""
    sound = [Site("A", protocol), Site("B", protocol, labelled=3, step=0.012)]
    bad = Site("C", protocol, spoil={"train": spoil})
    record = study([*sound, bad], protocol, **options)
    assert len(record.rounds) == protocol.training.rounds
    for item in record.rounds:
        assert set(item.reports) == set(item.bytes_up) == {"A", "B"}
        assert set(item.left_out) == {"C"}
        assert re.search(reason, item.left_out["C"]), item.left_out
    sound = [Site("A", protocol), Site("B", protocol, labelled=3, step=0.012)]
    alone = study(sound, protocol)
    assert same(record.segmenter, alone.segmenter)
    assert same(record.confidence, alone.confidence)


@pytest.mark.parametrize("network", [SEGMENTER, CONFIDENCE])
@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_bad_weights(make_protocol: MakeProtocol, kind: str, network: str) -> None:
    change, reason = BAD_WEIGHTS[kind]
    check_left_out(make_protocol(training={"rounds": 1}), in_weights(change, network), reason)


@pytest.mark.parametrize("network", [SEGMENTER, CONFIDENCE])
@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_of_weights(make_protocol: MakeProtocol, kind: str, network: str) -> None:
    change, reason = BAD_FILES[kind]
    check_left_out(make_protocol(training={"rounds": 1}), in_file(change, network), reason)


@pytest.mark.parametrize("kind", BAD_CONTENT)
def test_bad_content(make_protocol: MakeProtocol, kind: str) -> None:
    check_left_out(make_protocol(), *BAD_CONTENT[kind])


def test_a_million_metrics(make_protocol: MakeProtocol) -> None:
    # Past Flower's own check of each value, which would take longer than all the other tests.
    surplus = dict.fromkeys(map(str, range(10**6)), 0.0)
    flood = in_content(lambda c: vars(c["metrics"]).update(_data=surplus))
    protocol = make_protocol(training={"rounds": 1})
    check_left_out(protocol, flood, "differ from the allow-list", as_bytes=False)


@pytest.mark.parametrize("stored", [False, True], ids=["pickle", "pickle in an array"])
def test_a_pickled_object_is_never_unpickled(
    make_protocol: MakeProtocol, tmp_path: Path, stored: bool
) -> None:
    sprung = tmp_path / "sprung"
    trap = Trap(sprung)
    if stored:
        out = io.BytesIO()
        np.save(out, np.array([trap], dtype=object), allow_pickle=True)
        data = out.getvalue()
        np.load(io.BytesIO(data), allow_pickle=True)
    else:
        data = pickle.dumps(trap)
        pickle.loads(data)
    assert sprung.exists()  # the trap works
    sprung.unlink()
    protocol = make_protocol(training={"rounds": 1})
    for form in (as_bytes(data), bytes_of_file(lambda _: data)):
        check_left_out(protocol, in_file(form), "cannot be decoded|must be bytes")
    assert not sprung.exists()


def moved(record: StudyRecord, protocol: StudyProtocol) -> float:
    """By how much the first weights of S were moved, each by as much."""
    before, after = new_record(protocol, RUN).segmenter, record.segmenter
    name = next(iter(before))
    return float((after[name] - before[name]).mean())


def test_an_outsized_update_is_shortened(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 1}, aggregation={"rule": "mean"})
    sites = [Site("A", protocol), Site("B", protocol), Site("C", protocol, step=0.1)]
    record = study(sites, protocol)
    assert record.rounds[0].left_out == {}
    assert record.rounds[0].clipped == {
        "C": {SEGMENTER: pytest.approx(0.3), CONFIDENCE: pytest.approx(0.3)}
    }
    assert moved(record, protocol) == pytest.approx((0.01 + 0.01 + 0.03) / 3, rel=1e-4)


def test_label_free_sites_are_measured_by_each_other(make_protocol: MakeProtocol) -> None:
    # F and G barely move; beside A, B and C alone they would be the measure, or outsized.
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(name, protocol, step=0.1) for name in "ABC"]
    free = {"labelled": 0, "unlabelled": 4}
    sites += [Site(name, protocol, step=0.001, **free) for name in "FGHI"]  # type: ignore[arg-type]
    assert study(sites, protocol).rounds[0].clipped == {}
    sites[-1] = Site("I", protocol, step=0.01, **free)  # type: ignore[arg-type]
    record = study(sites, protocol)
    assert record.rounds[0].clipped == {"I": {SEGMENTER: pytest.approx(0.3)}}


def test_an_outsized_update_of_the_confidence_network_is_shortened(
    make_protocol: MakeProtocol,
) -> None:
    protocol = make_protocol(training={"rounds": 1})
    shout = in_weights(lambda w: w + 1e30, CONFIDENCE)
    sites = [Site("A", protocol), Site("B", protocol), Site("C", protocol, spoil={"train": shout})]
    record = study(sites, protocol)
    assert record.rounds[0].clipped == {"C": {CONFIDENCE: pytest.approx(3e-32, rel=1e-3)}}
    assert record.confidence is not None
    assert max(float(w.abs().max()) for w in record.confidence.values()) < 100


def test_a_labelled_site_must_send_the_confidence_network(make_protocol: MakeProtocol) -> None:
    check_left_out(make_protocol(), in_content(lambda c: c.pop(CONFIDENCE)), CONFIDENCE)


def test_a_reply_holds_nothing_but_what_is_agreed(make_protocol: MakeProtocol) -> None:
    def more(content: RecordDict) -> None:
        content["patients"] = ConfigRecord({"names": "Jane Doe"})

    check_left_out(make_protocol(), in_content(more), "1 records are not on the allow-list")


@pytest.mark.parametrize("kind", ["metric", "name"])
def test_a_reason_is_short_whatever_the_site_wrote(make_protocol: MakeProtocol, kind: str) -> None:
    long = "!" * 10**6
    spoil = metric(long, 1.0) if kind == "metric" else None
    spoil = spoil or in_content(lambda c: c["site"].update(name=long))
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site("A", protocol), Site("B", protocol), Site("C", protocol, spoil={"train": spoil})]
    assert len(study(sites, protocol).rounds[0].left_out["C"]) < 1000


# ---- declarations and scores --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (error("LayoutError"), "LayoutError"),
        (metric("labelled", -2.0), "labelled is -2, must be a whole number from 0"),
        (metric("validation", 0.5), "validation is 0.5"),
        (metric("patients", 3.0), "allow-list"),
        (metric("annotated/rod/count", 3.0), "annotated/rod/count is 3, of 2 labelled cases"),
        (in_content(lambda c: c.pop("metrics")), "has no record 'metrics'"),
        (in_content(lambda c: c["site"].update(name="A")), "site A has joined twice"),
    ],
)
def test_a_bad_declaration_keeps_a_site_out(
    make_protocol: MakeProtocol, spoil: Spoil, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = make_protocol()
    bad = Site("C", protocol, spoil={"query": spoil})
    record = study([Site("A", protocol), Site("B", protocol), bad], protocol)
    assert list(record.facts) == ["A", "B"]
    assert bad.rounds == []
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (metric("cases/validation", 2.0), "scored more cases than it declared"),
        (metric("cases/validation", 0.0), "ball: more scores than the 0 cases can have"),
        (
            metric("validation/dsc/rod/count", 0.0),
            "1 and 1 are no sum and sum of squares of 0 values",
        ),
        (metric("cases/test", 7.0), "scored more cases than it declared"),
        (metric("validation/dsc/ball/sum", float("nan")), "one finite number"),
        (metric("validation/dsc/ball/count", -1.0), "must be a whole number from 0"),
        (metric("validation/dsc/liver/sum", 1.0), "allow-list"),
        (in_content(lambda c: c["site"].update(name="A")), "site A answered in its name"),
    ],
)
def test_bad_scores_do_not_count(
    make_protocol: MakeProtocol, spoil: Spoil, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(name, protocol, dsc=(0.4,)) for name in "AB"]
    record = study([*sites, Site("C", protocol, dsc=(1,), spoil={"evaluate": spoil})], protocol)
    finished = record.rounds[0]
    assert set(finished.evaluation or {}) == {"A", "B"}
    assert set(finished.reports) == {"A", "B", "C"}  # its update was sound
    assert finished.validation_dsc == record.best_dsc == pytest.approx(0.4)
    assert f"not evaluated: C ({reason}" in caplog.text or reason in caplog.text


@pytest.mark.parametrize(
    "spoil",
    [metric("validation/dsc/ball/sum", 1e6), metric("validation/dsc/ball/count", 1000.0)],
    ids=["a DSC of a million", "a thousand scores of one case"],
)
def test_scores_that_cannot_be_do_not_count(make_protocol: MakeProtocol, spoil: Spoil) -> None:
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(name, protocol) for name in "AB"]
    record = study([*sites, Site("C", protocol, spoil={"evaluate": spoil})], protocol)
    assert set(record.rounds[0].evaluation or {}) == {"A", "B"}


def test_the_average_of_what_is_left_is_finite(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    spoil = {"train": in_weights(BAD_WEIGHTS["NaN"][0])}
    sites = [Site("A", protocol), Site("B", protocol), Site("C", protocol, spoil=spoil)]
    assert all(torch.isfinite(w).all() for w in study(sites, protocol).segmenter.values())
