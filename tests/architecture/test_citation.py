"""CITATION.cff is valid and agrees with pyproject.toml."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The keys of version 1.2.0 of the format that we use, and those that it demands.
KEYS = {"abstract", "keywords", "license", "references", "type", "version"}
REQUIRED = {"authors", "cff-version", "message", "title"}


def test_the_keys_are_those_of_the_format() -> None:
    assert CITATION["cff-version"] == "1.2.0"
    assert REQUIRED <= set(CITATION) <= REQUIRED | KEYS
    assert CITATION["type"] == "software"
    # An entity has a name, a person given and family names; never both.
    for work in [CITATION, *CITATION["references"]]:
        for author in work["authors"]:
            assert set(author) in ({"name"}, {"family-names", "given-names"})


def test_it_agrees_with_the_project() -> None:
    # YAML reads 0.1 as a number: the version must stay text.
    assert CITATION["version"] == PROJECT["version"]
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["title"].startswith(PROJECT["name"])


def test_the_paper_is_named() -> None:
    [paper] = CITATION["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert [author["family-names"] for author in paper["authors"]] == ["Nie", "Gao", "Wang", "Shen"]
    assert (paper["start"], paper["end"], paper["year"]) == (370, 378, 2018)
    assert re.fullmatch(r"10\.\d{4,9}/\S+", paper["doi"])
