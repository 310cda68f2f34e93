"""Names that somebody else chose, in everything that a command shows."""

import io
import json
import logging
from typing import Any

import click
import pytest
from rich.table import Table

from protocol.config.study import ProtocolError
from reporting.blocks import Facts, Section
from reporting.logs import PlainFormatter
from reporting.render import render_page
from reporting.terminal import (
    MISCONFIGURED,
    make_console,
    print_errors,
    user_errors,
)

HOSTILE = "Doe\x1b[2J\x1b]0;owned\x07\x9b1m\u202egnp.exe\u2066[red]x[/red]\ud800\x00:AB:"
SHOWN = r"Doe\x1b[2J\x1b]0;owned\x07\u009b1m\u202egnp.exe\u2066[red]x[/red]\ud800\x00:AB:"


def clean(text: str) -> bool:
    return all(c in "\n\t" or c.isprintable() for c in text)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_shows_a_hostile_name_as_what_it_is(terminal: bool) -> None:
    console = make_console()
    out = io.StringIO()
    console.file, console._force_terminal, console.width = out, terminal, 200
    console.print(f"case {HOSTILE}: is odd")
    table = Table("case")
    table.add_row(HOSTILE)
    console.print(table)
    with console.status(HOSTILE):
        pass
    assert f"case {SHOWN}: is odd" in out.getvalue()
    assert out.getvalue().count(SHOWN) >= 2
    if not terminal:
        assert clean(out.getvalue())
    assert "\x1b]" not in out.getvalue() and "\x1b[2J" not in out.getvalue()


def shown_table(console: Any, width: int | None = None) -> str:
    out = io.StringIO()
    console.file = out
    console.width = width or console.width
    table = Table("setting", "right_ventricle", "left_ventricle", "myocardium", "a", "b", "c", "d")
    table.add_row("pooled-equal-steps", *["0.815 (2.31)"] * 7)
    console.print(table)
    return out.getvalue()


def test_no_name_in_a_table_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    piped = shown_table(make_console(soft_wrap=False, whole_tables=True))
    assert "pooled-equal-steps" in piped and "right_ventricle" in piped
    assert 100 < max(map(len, piped.splitlines())) < 160
    narrow = shown_table(make_console(soft_wrap=False), width=60)
    assert "…" not in narrow and max(map(len, narrow.splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "70")
    asked = shown_table(make_console(soft_wrap=False, whole_tables=True))
    assert max(map(len, asked.splitlines())) <= 70


def test_styles_are_the_consoles_own() -> None:
    console = make_console()
    out = io.StringIO()
    console.file, console._force_terminal, console._color_system = out, True, None
    console.print("[b]bold[/b]\tand\nmore", style="bold")
    assert "[b]bold[/b]" in out.getvalue() and r"\x09" not in out.getvalue()


def test_an_error_is_shown_as_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_errors(f"case {HOSTILE}\x0b: is odd")
    shown = capsys.readouterr().err
    assert SHOWN in shown and clean(shown)
    assert all(line.startswith("error: ") for line in shown.splitlines())


def test_a_name_cannot_forge_a_line_of_the_log() -> None:
    formatter = PlainFormatter("%(name)s: %(message)s")
    try:
        raise ValueError(f"{HOSTILE}\n2026-01-01 root: all is well")
    except ValueError as error:
        record = logging.LogRecord(
            "client", logging.ERROR, "", 1, "case %s", (HOSTILE + "\nroot: fine",), None
        )
        record.exc_info = (type(error), error, error.__traceback__)
    text = formatter.format(record)
    assert text.startswith(f"client: case {SHOWN}\n    root: fine\n    Traceback")
    assert clean(text)
    assert all(line.startswith("    ") for line in text.split("\n")[1:])


def test_a_page_shows_a_hostile_name_as_what_it_is() -> None:
    name = HOSTILE.replace("\ud800", "") + "<script>alert(1)</script>"
    page = render_page(name, name, [Section(title=name, blocks=(Facts(items=((name, name),)),))])
    assert clean(page)
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert r"\u202egnp.exe" in page


def test_a_library_s_words_are_no_mistake_of_the_user() -> None:
    with pytest.raises(json.JSONDecodeError), user_errors(ValueError):
        json.loads("{")
    with pytest.raises(click.exceptions.Exit), user_errors(ValueError):
        raise ValueError("case 014: is odd")
    with pytest.raises(click.exceptions.Exit), user_errors(ProtocolError):
        raise ProtocolError("A.yaml: is odd")


def test_a_service_s_own_mistakes_have_a_status_of_their_own() -> None:
    """A unit is not started again after it; what the system refuses may go well later."""
    for error, status in ((ProtocolError("A.yaml: is odd"), 78), (OSError(28, "full"), 2)):
        with (
            pytest.raises(click.exceptions.Exit) as ended,
            user_errors(ProtocolError, status=MISCONFIGURED),
        ):
            raise error
        assert ended.value.exit_code == status
