"""What a run says of the models that come after its rounds."""

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from simulation.experiment import comparison
from simulation.experiment.comparison import after_the_rounds, train_others
from simulation.experiment.options import RunOptions
from simulation.layouts import StudyCase


def options(*, local_only: bool, pooled: bool) -> RunOptions:
    fields = {"local_only": local_only, "pooled": pooled, "left_out": {"C"}, "out": Path("none")}
    return cast(RunOptions, SimpleNamespace(**fields))


CASES = [
    cast(StudyCase, SimpleNamespace(site=site, part=part))
    for site, part in (
        ("A", "labelled"),
        ("A", "test"),
        ("B", "labelled"),
        ("C", "labelled"),
        ("D", "unlabelled"),
    )
]


def test_what_comes_after_the_rounds_is_announced() -> None:
    both = after_the_rounds(options(local_only=True, pooled=True), CASES)
    assert both == "; after the rounds: 2 own models of the sites and a pooled model, to compare"
    alone = after_the_rounds(options(local_only=True, pooled=False), CASES[:2])
    assert alone == "; after the rounds: 1 own model of the sites, to compare"
    assert after_the_rounds(options(local_only=False, pooled=False), CASES) == ""


class Now(ThreadPoolExecutor):
    """Does what it is given at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_each_model_is_a_line_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "train_alone", lambda config, protocol: f"scores of {config}")
    facts = {s: SimpleNamespace(labelled=s != "D") for s in "ABD"}
    record = cast(Any, SimpleNamespace(facts=facts, protocol=None))
    configs = cast(Any, {"A": "a", "B": "b", "D": "d"})
    out = io.StringIO()
    alone, pooled = train_others(
        options(local_only=True, pooled=False), record, configs, CASES, Now(), Console(file=out)
    )
    assert alone == {"A": "scores of a", "B": "scores of b"} and pooled == {}
    first, second = out.getvalue().splitlines()
    assert first.startswith("comparison models   1/2  left about 0:0")
    assert second == "comparison models   2/2"
