"""One check of a site's machine or of its connection: a row of the preflight's table."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from protocol.escaping import printable_text
from reporting.unexpected import log_unexpected, unexpected_place

Status = Literal["ok", "warning", "failed", "skipped"]
Result = tuple[Status, str, str]  # status, finding, hint

_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}


class Skip(Exception):
    """A check has nothing to look at, because an earlier one failed; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the table.

    Attributes:
        name: What was looked at.
        status: A warning lets the site join; a failure does not.
        finding: What is the case.
        hint: What to do about it; empty where nothing is to be done.
    """

    name: str
    status: Status
    finding: str
    hint: str = ""


def run_check(name: str, step: Callable[[], Result]) -> Check:
    """The check's row, also where the check itself breaks: one defect must not hide the rest."""
    try:
        status, finding, hint = step()
    except Skip as reason:
        return Check(name=name, status="skipped", finding=str(reason))
    except Exception as error:
        # The text of an unforeseen error may name a case; its class does not.
        status, finding = "failed", f"this check itself broke: {unexpected_place(error)}"
        hint = f"report it to the makers of this software; {log_unexpected(error)}"
    return Check(name=name, status=status, finding=finding, hint=hint)


def joined(results: list[Result]) -> Result:
    """Several findings in one row, which is as bad as the worst of them."""
    order: tuple[Status, ...] = ("failed", "warning", "skipped", "ok")
    worst = min((status for status, _, _ in results), key=order.index)
    hints = dict.fromkeys(hint for _, _, hint in results if hint)
    return worst, "; ".join(finding for _, finding, _ in results), "; ".join(hints)


def print_preflight(checks: Iterable[Check], console: Console) -> None:
    """One table; long lines are folded, never cut, so that a pipe gets every word."""
    table = Table("check", "status", "found, and what to do", show_lines=True)
    table.columns[0].no_wrap = True
    for check in checks:
        style = _STYLES.get(check.status, "dim")
        text = Text(printable_text(check.finding), overflow="fold")
        if check.hint:
            text.append(f"\nTo do: {printable_text(check.hint)}", style="bold")
        table.add_row(Text(check.name), Text(check.status, style, no_wrap=True), text)
    console.print(table)
