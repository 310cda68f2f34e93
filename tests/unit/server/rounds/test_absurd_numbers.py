"""A hostile site sends every number on the allow-list with absurd values, one a round.

Each is refused, the site is left out and the number named; the study goes on as if it had never
been, whatever the number is used for: weights, plans, the best model, calibration.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from memory_grid import Site, same, study

from protocol.config.study import StudyProtocol
from protocol.wire.metrics import METRICS, metric_ranges

MakeProtocol = Callable[..., StudyProtocol]
Change = dict[str, float]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")

# More values, and every bin: tests/unit/protocol/wire/test_metrics.py.
ABSURD = (-1.0, 1e308, 0.5)
KINDS = {"facts": "query", "train": "train", "evaluate": "evaluate"}
# The paper's method with all that is calibrated, so that every number is used.
METHOD: dict[str, Any] = {"gamma_rule": "calibrated", "sample_attention": "normalised"}


def absurd_numbers(kind: str, protocol: StudyProtocol) -> Iterator[Change]:
    """Each number alone; those that the value could be true of are left out."""
    for name, allowed in metric_ranges(kind, protocol).items():
        inner_bin = name.startswith("reliability") and "/00/" not in name and "/31/" not in name
        for value in () if inner_bin else ABSURD:
            plausible = name == "loss/total/sum" and value == -1
            if not plausible and value not in allowed:
                yield {name: value}


def in_training(name: str, **parts: float) -> Change:
    return {f"{name}/{part}": value for part, value in parts.items()}


def _failed(**kinds: float) -> Change:
    return {f"validation/failures/rod/{kind}": number for kind, number in kinds.items()}


BOX = ("x0", "y0", "z0", "x1", "y1", "z1")
INCONSISTENT: dict[str, list[Change]] = {
    "facts": [
        {"labelled": 1e6},
        {"labelled": 0.0},
        {"annotated/rod/count": 3.0},
        {"box/x0/sum": 1.9},
        {"box/x0/sum": 2.1},
        {"box/z1/sum": 0.5},
        {"box/y1/count": 1.0},
        {"box/y1/count": 0.0},
        {f"box/{edge}/count": 0.0 for edge in BOX},
        {f"box/{edge}/count": 3.0 for edge in BOX},
        {f"box/{edge}/{part}": 1e5 for edge in BOX for part in ("sum", "count")},
    ],
    "train": [
        {"labelled": 3.0},
        {"steps": 1.0},
        in_training("loss/dice", sum=2.5),
        in_training("loss/dice", sum=1.0, count=0.0),
        in_training("loss/dice", sum=3.0, count=3.0),
        in_training("loss/confidence", sum=2.1e6, count=2.0),
        in_training("attention", sum=2.1, count=2.0),
        in_training("attention", sum=0.5, count=0.0),
        in_training("attention", sum=5.0, count=5.0),
        in_training("trusted/rod", sum=5.0, count=4.0),
        in_training("trusted/rod", sum=1.0, count=0.0),
        in_training("trusted/rod", sum=0.0, count=8193.0),
        # Each class within the patches' voxels, both together not.
        in_training("trusted/rod", sum=0, count=8192.0) | {"trusted/ball/count": 1.0},
    ],
    "evaluate": [
        {"cases/validation": 2.0},
        {"cases/validation": 1e5},
        {"cases/validation": 0.0},
        {"validation/dsc/rod/count": 0.0},
        {"validation/dsc/rod/count": 2.0},
        {"validation/failures/rod/cases": 2.0},
        {"validation/failures/rod/cases": 1.0, "validation/failures/rod/missed": 1.0},
        {"validation/failures/rod/cases": 1.0} | _failed(missed=1.0, far_off=1.0),
        {"validation/failures/rod/far_off": 1.0, "validation/failures/rod/cases": 0.0},
        {"validation/nsd/rod/sum": 1.1},
        {"validation/nsd/rod/count": 2.0},
        {"validation/hd95_mm/rod/sum": 3001.0},
        {"validation/hd95_mm/rod/sum_of_squares": 0.0},
        {"validation/dsc/rod/sum": 1.1},
        {"validation/dsc/rod/sum": 0.0},
        {"validation/dsc/rod/sum_of_squares": 0.0},
        {"validation/dsc/rod/sum_of_squares": 0.6},
        {"validation/asd_mm/rod/sum": 3001.0},
        {"validation/asd_mm/rod/sum": 4.0},
        {"validation/asd_mm/rod/sum_of_squares": 9e6},
        {"test/asd_mm/rod/sum_of_squares": 0.0},
        {"reliability/confidence/right/31/count": 2.0**32 + 1},
        {"reliability/softmax/wrong/00/count": 2.0**32, "reliability/softmax/wrong/01/count": 1.0},
    ],
}


class Liar(Site):
    """Changes its next answer of one kind by the next of these."""

    def lies(self, kind: str, changes: list[Change]) -> "Liar":
        self.told: list[Change] = []
        due = iter(changes)

        def spoil(_: Message, content: RecordDict) -> RecordDict:
            if (change := next(due, None)) is not None:
                self.told.append(change)
                content[METRICS].update(change)  # type: ignore[arg-type]
            return content

        self.spoil = {KINDS[kind]: spoil}
        return self


@pytest.mark.parametrize("group", ["absurd", "inconsistent"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_the_allow_list(
    make_protocol: MakeProtocol, kind: str, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="server")
    protocol = make_protocol(method=METHOD)
    changes = INCONSISTENT[kind] if group == "inconsistent" else [*absurd_numbers(kind, protocol)]
    protocol = make_protocol(
        training={"rounds": len(changes)},
        method=METHOD,
        evaluation={"every_rounds": 1 if kind == "evaluate" else 20},
    )
    liar = Liar("C", protocol, labelled=2, unlabelled=2).lies(kind, changes)
    honest = [Site(name, protocol, dsc=(0.3, 0.6, 0.5)) for name in "AB"]
    record = study([*honest, liar], protocol)
    assert liar.told == changes
    assert len(record.rounds) == len(changes)
    if kind == "train":
        refusals = [finished.left_out["C"] for finished in record.rounds]
    else:
        refusals = [e.getMessage() for e in caplog.records if " reply: " in e.getMessage()]
        refusals += [e.getMessage() for e in caplog.records if "C: scored more" in e.getMessage()]
    assert len(refusals) == len(changes)
    if group == "absurd":
        for change, refusal in zip(changes, refusals, strict=True):
            assert f"{kind} reply: {next(iter(change))} is " in refusal
            assert len(refusal) < 200
    if kind == "evaluate":
        assert all(set(finished.evaluation or {}) == {"A", "B"} for finished in record.rounds)
        return
    assert all(set(finished.reports) == {"A", "B"} for finished in record.rounds)
    honest = [Site(name, protocol, dsc=(0.3, 0.6, 0.5)) for name in "AB"]
    alone = study(honest, protocol)
    assert same(record.segmenter, alone.segmenter)
    assert [f.plan for f in record.rounds] == [f.plan for f in alone.rounds]
    if kind == "facts":  # else its scores count
        assert (record.best_round, record.best_dsc) == (alone.best_round, alone.best_dsc)


def test_the_honest_answer_is_taken(make_protocol: MakeProtocol) -> None:
    """Else the walk above would show nothing."""
    protocol = make_protocol(method=METHOD)
    sites = [Site(n, protocol, labelled=2, unlabelled=2) for n in "ABC"]
    record = study(sites, protocol)
    assert [sorted(f.reports) for f in record.rounds] == [["A", "B", "C"]] * 2
    assert sorted(record.rounds[0].evaluation or {}) == ["A", "B", "C"]
