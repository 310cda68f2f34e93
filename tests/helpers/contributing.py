"""Sections of CONTRIBUTING.md, so that what is printed there is what is tested."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading of level two."""
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(title: str) -> list[str]:
    """The Python blocks of a section."""
    return re.findall(r"```python\n(.*?)```", section(title), flags=re.DOTALL)


def add_module(
    package: ModuleType, name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A printed file as a module of a package, for one test."""
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    # Set and deleted, so that the module is forgotten when the test is over.
    monkeypatch.setitem(sys.modules, f"{package.__name__}.{name}", None)
    monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}")
