"""What somebody else wrote, as it is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.escaping import printable, printable_lines, visible

HOSTILE = "a\x1b[2J\x1b]0;t\x07b\rc\nd\x9b1mE\u202eF\u2066G\u200bH\u2028I\ud800J\x7f"


@given(st.text())
def test_only_printable_ascii_is_shown(text: str) -> None:
    shown = visible(text)
    assert all(character in "\n\t" or " " <= character <= "~" for character in shown)
    assert visible(shown) == shown
    assert shown.count("\n") == text.count("\n")


def test_an_emoji_is_an_escape_in_source_code() -> None:
    assert visible("\U0001f600") == r"\U0001f600"


def test_a_hostile_name_is_shown_as_what_it_is() -> None:
    assert printable(HOSTILE) == (
        r"a\x1b[2J\x1b]0;t\x07b\rc\nd\u009b1mE\u202eF\u2066G\u200bH\u2028I\ud800J\x7f"
    )


@pytest.mark.parametrize("name", ["Schädel nativ", "前立腺", "простата [red]", "a:b:c", "t2_tse"])
def test_letters_of_every_alphabet_stay(name: str) -> None:
    assert printable(name) == name


@given(st.text())
def test_only_what_can_be_printed_is_shown(text: str) -> None:
    shown = printable(text)
    assert shown == "" or shown.isprintable()
    assert printable(shown) == shown
    assert printable_lines(text).replace("\n", "") == "" or all(
        line == "" or line.isprintable() for line in printable_lines(text).split("\n")
    )


def test_a_second_line_cannot_pass_for_a_line_of_the_log() -> None:
    assert printable_lines("x\n2026-01-01 root: all is well") == (
        "x\n    2026-01-01 root: all is well"
    )


def test_a_long_text_is_cut() -> None:
    assert printable("x" * 10_000_000) == "x" * 4096 + "..."
    assert len(printable_lines("x\n" * 1_000_000)) < 400_000
