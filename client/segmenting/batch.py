"""Segments many cases in turn: results that exist are kept, failures are reported."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from client.data.errors import ScanError
from client.data.pseudonyms import Pseudonyms
from client.segmenting.options import Options
from client.segmenting.prediction import Model
from client.segmenting.results import CaseResult, made_from, make_result, read_result
from client.segmenting.sources import Source
from protocol.files import write_text
from protocol.keys import PUBLIC_MODE
from reporting.unexpected import log_unexpected, unexpected_place

SUMMARY_FILE = "summary.csv"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a case has no result.

    Attributes:
        rule: The rule that it breaks; `error` for what the machine lacks.
        message: Rule, value and hint, without a name of the site's; of what nobody expected, the
            path of the user's own log.
        full: The whole message, for the site's own screen.
    """

    rule: str
    message: str
    full: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one case; `name` is its own and stays at the site."""

    name: str
    case: str
    status: Literal["done", "kept", "failed"]
    result: CaseResult | None = None
    failure: Failure | None = None


def predict_all(
    sources: Iterable[Source],
    out: Path,
    model: Model,
    options: Options,
    pseudonyms: Pseudonyms,
    *,
    again: bool = False,
) -> Iterator[Outcome]:
    """Segment every case that has no result of this model, these options and this scan yet.

    Args:
        sources: Cases with different names.
        out: The folder of all results, which exists.
        model: A trained model.
        options: What is made of every case.
        pseudonyms: Under the site's key.
        again: Make every result anew.
    """
    for source in sources:
        case = pseudonyms.of(source.name)
        try:
            source.check()
            seal = made_from(source, model, options, pseudonyms)
            result = None if again else read_result(out / case)
            kept = result is not None and result.made_from == seal
            if not kept:
                result = make_result(source, out, model, options, pseudonym=case, seal=seal)
            yield Outcome(
                name=source.name, case=case, status="kept" if kept else "done", result=result
            )
        except Exception as error:  # whatever it is, the other cases must go on
            yield Outcome(name=source.name, case=case, status="failed", failure=_failure(error))


def write_summary(out: Path, outcomes: Sequence[Outcome], organs: Iterable[str]) -> None:
    """`summary.csv`: failed cases, then the least confident first.

    Args:
        out: Where it goes; replaces an older one atomically.
        outcomes: Of all cases of this call.
        organs: The study's, in the order of the columns.
    """
    named = list(organs)
    columns = ["case", "status", "failed_rule", "lowest_mean_confidence", "organs_not_found"]
    columns += ["not_written"]
    columns += [f"{organ}_{what}" for organ in named for what in _MEASURES]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns, "model_sha256"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(outcome, named) for outcome in in_order(outcomes))
    write_text(out / SUMMARY_FILE, text.getvalue(), PUBLIC_MODE)


def in_order(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Failed ones, then where an organ was not found, then by the lowest confidence."""
    return sorted(
        outcomes,
        key=lambda outcome: (
            -2.0 if outcome.result is None else outcome.result.least_confidence,
            outcome.case,
        ),
    )


_MEASURES = ("volume_ml", "mean_confidence", "low_confidence_share")


def _row(outcome: Outcome, organs: Sequence[str]) -> Mapping[str, Any]:
    row: dict[str, Any] = {"case": outcome.case, "status": outcome.status}
    if outcome.failure is not None:
        row["failed_rule"] = outcome.failure.rule
    if outcome.result is None:
        return row
    row["model_sha256"] = outcome.result.model_sha256
    row["not_written"] = " ".join(outcome.result.unmade)
    measures = outcome.result.organs
    row["organs_not_found"] = " ".join(o for o in organs if measures[o].mean_confidence is None)
    if not row["organs_not_found"]:
        row["lowest_mean_confidence"] = f"{outcome.result.least_confidence:.4f}"
    for organ in organs:
        for what, digits in zip(_MEASURES, (3, 4, 4), strict=True):
            value = getattr(measures[organ], what)
            row[f"{organ}_{what}"] = "" if value is None else f"{value:.{digits}f}"
    return row


def _failure(error: Exception) -> Failure:
    """An exception as a line with a hint, and the same without any name."""
    if isinstance(error, ScanError):
        problem = error.problem
        return Failure(rule=problem.rule, message=problem.anonymous, full=str(problem))
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        message = (
            "out of memory: the scan is too large for this device; give --device cpu, or crop it"
        )
        return Failure(rule="error", message=message, full=message)
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        message = (
            f"a file cannot be read or written ({reason.lower()}); check the disk and its rights"
        )
        return Failure(rule="error", message=message, full=f"{message}: {error}")
    # Its words may hold a path or a header's text, so that they are in the log alone.
    message = (
        f"something went wrong that this program did not expect ({unexpected_place(error)});"
        f" {log_unexpected(error)}; please report it"
    )
    return Failure(rule="unexpected", message=message, full=message)
