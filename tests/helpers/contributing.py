"""Sections of CONTRIBUTING.md, so that what is printed there is what is tested."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading of level two."""
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(title: str) -> list[str]:
    """The Python blocks of a section."""
    return re.findall(r"```python\n(.*?)```", section(title), flags=re.DOTALL)
