"""Every faulty input at once, as a data manager meets them: each is told, none stops the others."""

import re
from pathlib import Path

import bad_cases as bad
import faulty
import faulty_site
import pytest
from faulty_site import Checked

from client.data.folder.names import same_name
from protocol.config.rules import RULES
from protocol.escaping import printable

INPUTS = faulty.all_inputs()
# Of a volume that is printed with three digits.
ROUNDING = 0.005


def test_every_input_has_a_name_of_its_own_and_a_known_rule() -> None:
    assert not INPUTS.keys() & {*bad.KINDS, *bad.GOOD}
    assert len(INPUTS) >= 60
    for name, each in INPUTS.items():
        assert re.fullmatch(r"[a-z0-9_]+", name)
        assert each.rule in ("", *RULES), name
        assert each.kind and each.what, name
        assert each.said if each.rule else each.volumes_ml or each.said, name


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> list[Checked]:
    return faulty_site.check_all(tmp_path_factory.mktemp("faulty"))


def folder_of(checked: list[Checked], name: str) -> Checked:
    return next(each for each in checked if name in each.places)


def test_the_old_and_the_new_ones_are_in_one_folder(checked: list[Checked]) -> None:
    assert len(checked[0].places) > 0.8 * len(INPUTS)
    for name, kind in bad.KINDS.items():
        start = f"refused .*: rule {kind.rule}: " if kind.rule else "used "
        lines = [line for line in checked[0].said_of(name) if re.match(start, line)]
        assert len(lines) == 1 and (kind.said in lines[0] or not kind.rule), name
    for name in bad.GOOD:
        (line,) = checked[0].said_of(name)
        assert line.startswith("used")


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_is_told_or_used_rightly(checked: list[Checked], name: str) -> None:
    each, found = INPUTS[name], folder_of(checked, name)
    lines = found.said_of(name)
    if not lines:  # no case: the line on what was passed over names it
        lines = [line for line in found.rest.splitlines() if re.search(rf"\b{name}\b", line)]
        assert not each.rule and each.volumes_ml is None
    start = f"refused .*: rule {each.rule}: " if each.rule else "(used|passed over) "
    assert [line for line in lines if re.match(start, line) and each.said in line], lines
    for organ, right_ml in (each.volumes_ml or {}).items():
        volumes = {float(ml) for line in lines for ml in re.findall(rf"\b{organ} (\S+) ml", line)}
        assert volumes and all(abs(ml - right_ml) <= right_ml * (0.01 + ROUNDING) for ml in volumes)


def test_none_stops_the_others_and_none_is_in_silence(checked: list[Checked]) -> None:
    for each in checked:
        refused = sum(line.startswith("refused") for line in each.lines)
        assert each.status == (1 if refused else 0)
        assert "Traceback" not in "".join(each.lines) + each.rest
        used = sum(line.startswith("used") for line in each.lines)
        counts = [f"{used} used"] * bool(used) + [f"{refused} refused"] * bool(refused)
        assert f"in all: {', '.join(counts)}" in each.rest
        said = "\n".join([*each.lines, each.rest])
        for path in entries(next(iter(each.places.values())).root):
            name = printable(same_name(path.name))
            case = name.removesuffix("_0000").split(".")[0] or name
            assert case in said, f"{path} is not told"


def entries(root: Path) -> list[Path]:
    """Everything in the folders of images and labels that is not hidden."""
    folders = [*root.glob("images*"), *root.glob("labels*")]
    return [p for folder in folders for p in folder.iterdir() if not p.name.startswith(".")]


def test_the_page_is_what_is_said(checked: list[Checked]) -> None:
    page = faulty_site.PAGE.read_text(encoding="utf-8")
    # `python tests/helpers/faulty_site.py` writes it anew.
    assert faulty_site.table(checked) in page
