"""Flower has every private name that is used, as it is used; a newer Flower is told by these."""

import ast
import importlib
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from flower_compat.private_name import PrivateName
from flower_compat.private_names import PRIVATE_NAMES

ROOM = Path(__file__).parents[3] / "flower_compat"
PUBLIC = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation")


def resolved(name: str) -> Any:
    """As `from module import attribute` has it."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError:
        return importlib.import_module(name)


def difference(private: PrivateName) -> str:
    """What is not as `private` says; empty if nothing."""
    try:
        value = resolved(private.name)
    except ImportError as error:
        return str(error)
    # `dir`: properties of a metaclass may refuse to be read.
    present = {*dir(value), *dir(type(value))}
    missing = [name for name in private.attributes if name not in present]
    if missing:
        return f"has no {', '.join(missing)}"
    if private.parameters is not None:
        parameters = tuple(inspect.signature(value).parameters)
        if parameters != private.parameters:
            return f"takes {parameters}, not {private.parameters}"
    return ""


@pytest.mark.parametrize("private", PRIVATE_NAMES, ids=lambda private: private.name)
def test_flower_has_it(private: PrivateName) -> None:
    moved = difference(private)
    assert not moved, (
        f"flwr {version('flwr')} has moved {private.name}: {moved}; "
        f"used by flower_compat/{private.used_by}: {private.reason}"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ({"name": "flwr.cli.build.gone"}, "gone"),
        ({"name": "flwr.gone.build"}, "gone"),
        ({"parameters": ("other",)}, "takes ('app',)"),
        ({"attributes": ("gone",)}, "has no gone"),
    ],
)
def test_what_has_moved_is_named(name: dict[str, Any], says: str) -> None:
    given = {"name": "flwr.cli.build.build_fab_from_disk", "used_by": "x", "reason": "y"}
    assert says in difference(PrivateName(**(given | name)))


def used_privately(path: Path) -> set[str]:
    """Names outside the public API that a file imports."""
    return {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if node.module.partition(".")[0] == "flwr" and node.module not in PUBLIC
    }


def test_the_list_is_complete_and_says_who_uses_what() -> None:
    found = {
        (name, path.stem) for path in sorted(ROOM.glob("*.py")) for name in used_privately(path)
    }
    listed = {(p.name, module) for p in PRIVATE_NAMES for module in p.used_by.split(", ")}
    assert found == listed
    assert all(private.reason for private in PRIVATE_NAMES)


def test_the_list_can_be_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flower_compat.private_names"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(private.name in done.stdout for private in PRIVATE_NAMES)
