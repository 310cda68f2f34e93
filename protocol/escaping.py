"""Text from outside, made safe to show: names, messages and source files of others.

A terminal obeys escape sequences, a line end begins a line of the log, bidirectional marks turn a
name round.  Whatever shows text that somebody else chose shows it through one of these.
"""

import re

_MAX_SHOWN = 4096  # characters


def printable(text: str, *, most: int = _MAX_SHOWN) -> str:
    r"""A name or a message in one line: what cannot be printed becomes an escape such as `\x1b`.

    Letters of every alphabet stay.  Line ends, control and formatting characters, bidirectional
    marks, unassigned characters and halves of a UTF-16 pair do not.

    Args:
        text: What somebody else wrote.
        most: Characters that are shown; of a longer text, the beginning.
    """
    cut = text if len(text) <= most else f"{text[:most]}..."
    return "".join(c if c.isprintable() else escape(c) for c in cut)


def printable_text(text: str) -> str:
    """`printable`, of any length, whose line ends and tabs stay: for what has lines on purpose."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or c.isprintable() else escape(c) for c in text)


def printable_lines(text: str, *, most: int = 16 * _MAX_SHOWN) -> str:
    """Several lines, each `printable`; those after the first cannot pass for a first one."""
    lines = re.split(r"\r\n|\n", text[:most])
    return "\n    ".join(printable(line, most=most) for line in lines)


def visible(text: str) -> str:
    r"""The text with everything but printable ASCII, tabs and line ends written as an escape.

    For source code, where letters of other alphabets could pass for others.  A byte that is not
    UTF-8 is shown as `\xe9`.
    """
    return re.sub(r"[^\n\t -~]", lambda match: escape(match[0]), text)


def escape(character: str) -> str:
    r"""`\x1b`, `\u202e` or `\U0001f600`; `\n` and `\r` for line ends."""
    code = ord(character)
    if character in "\n\r":
        return r"\n" if character == "\n" else r"\r"
    if 0xDC80 <= code <= 0xDCFF:  # how surrogateescape keeps a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return (
        f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"
    )
