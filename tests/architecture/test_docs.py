"""Documents: links resolve, and the reference names every field, rule, command and option."""

import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from pydantic import BaseModel

from protocol.config.presets import PRESET_NAMES, preset
from protocol.config.rules import RULES
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The hook that makes the reference."""
    path = ROOT / "docs" / "hooks" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(reference: ModuleType) -> set[Path]:
    """The pages that are made at every build."""
    return {ROOT / "docs" / page for page in reference.pages()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_and_image_is_a_file(document: Path, made: set[Path]) -> None:
    targets = _LINK.findall(document.read_text(encoding="utf-8"))
    paths = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:", t)]
    files = [Path(os.path.normpath(document.parent / path)) for path in paths if path]
    assert [file for file in files if not file.exists() and file not in made] == []


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} has no description"
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from _fields(nested, f"{prefix}{name}.")
        else:
            yield prefix + name, field.description


def _row(page: str, first: str) -> str:
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{first}` |")]
    return row


def test_the_reference_has_every_field_of_a_study_and_of_a_site(reference: ModuleType) -> None:
    for page, model in (
        (reference.study_file(), StudyProtocol),
        (reference.site_file(), SiteConfig),
    ):
        fields = dict(_fields(model))
        assert len(fields) > 20
        for field, description in fields.items():
            assert _row(page, field).endswith(f"| {description} |")
        assert page.count("\n| `") == len(fields)


def test_a_field_says_type_default_and_what_is_allowed(reference: ModuleType) -> None:
    page = reference.study_file()
    cells = [cell.strip() for cell in _row(page, "method.gamma").split("|")]
    assert cells[2:5] == ["number", "&ge; 0, &lt; 1", "`0.2`"]
    cells = [cell.strip() for cell in _row(page, "network.architecture").split("|")]
    assert cells[2:5] == ["text", "`svnet`, `vnet`, `unet`, `dsresunet`", "`svnet`"]
    cells = [cell.strip() for cell in _row(page, "patch_voxels").split("|")]
    assert cells[2:5] == ["3 integers", "each &ge; 1, &le; 1024", "`[64, 64, 16]`"]
    cells = [cell.strip() for cell in _row(reference.site_file(), "ca").split("|")]
    assert cells[2:5] == ["path or null", "", "`null`"]


def test_a_field_of_a_study_has_its_value_in_every_preset(reference: ModuleType) -> None:
    page = reference.study_file()
    head = "| field | type | allowed | `paper`, the default | "
    others = [name for name in reversed(PRESET_NAMES) if name != "paper"]
    columns = " | ".join(f"`{name}`" for name in others)
    assert page.count(f"\n{head}{columns} | what it is |") == page.count("\n| field ")
    paper = preset("paper")
    for field in _fields(StudyProtocol):
        cells = [cell.strip() for cell in _row(page, field[0]).split(" | ")]
        values = dict(zip(("paper", *others), cells[3 : 4 + len(others)], strict=True))
        assert values["paper"].startswith("`")
        for name in others:
            same = _value(preset(name), field[0]) == _value(paper, field[0])
            assert (values[name] == "") is same, (field, name)
    cells = dict(zip(others, _row(page, "training.rounds").split(" | ")[4:], strict=False))
    assert (cells["quick"], cells["smoke"]) == ("`40`", "`4`")


def _value(study: StudyProtocol, field: str) -> object:
    return functools.reduce(getattr, field.split("."), study)


def test_the_presets_show_where_they_differ_from_the_paper(reference: ModuleType) -> None:
    rows = reference.presets()
    assert preset("quick").training.rounds != preset("paper").training.rounds
    assert _row(rows, "training.rounds") == "| `training.rounds` | `4` | `40` | `20` | `60` |"
    assert "| `seed` |" not in rows


def test_the_reference_has_every_rule(reference: ModuleType) -> None:
    assert all(_row(reference.rules(), rule) for rule in RULES)


def _rows(sections: dict[str, str], name: str, sub: str) -> list[str]:
    return [line for line in sections[f"{name} {sub}"].splitlines() if line.startswith("| `")]


def test_the_reference_has_every_command_argument_and_option(reference: ModuleType) -> None:
    for name, module in reference.COMMANDS.items():
        group = importlib.import_module(module).app
        page = reference.commands(name, group)
        context = click.Context(group, info_name=name)
        sections = dict(
            zip(*[iter(re.split(r"^## `(.*)`$", page, flags=re.M)[1:])] * 2, strict=True)
        )
        assert list(sections) == [f"{name} {sub}" for sub in group.list_commands(context)]
        for sub in group.list_commands(context):
            command = group.get_command(context, sub)
            assert command is not None
            for parameter in command.params:
                is_option = isinstance(parameter, click.Option)
                names = parameter.opts if is_option else [parameter.make_metavar(context)]
                where = f"{name} {sub}: {names}"
                assert any(all(n in line for n in names) for line in _rows(sections, name, sub)), (
                    where
                )
                assert getattr(parameter, "help", None), f"{where} is not explained"
