"""What a reader found that is usable but seldom meant: one line each, for who looks at a case."""

from collections.abc import Callable

# Takes one line without any name of the site's: "its form codes are 0: placed by its header alone".
Note = Callable[[str], None]


def unheard(line: str) -> None:
    """A `Note` for callers that have nobody to tell."""
