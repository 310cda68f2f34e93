"""Folders that hold every faulty input at once, and the table of what the data check says of them.

`python tests/helpers/faulty_site.py` writes the table of docs/results/faulty-inputs.md anew.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bad_cases as bad
import faulty
import yaml
from bad_cases import Place
from click.testing import CliRunner
from faulty import Faulty

from client.cli import app
from protocol.escaping import printable

PAGE = Path(__file__).parents[2] / "docs" / "results" / "faulty-inputs.md"
BEGIN, END = "<!-- made by tests/helpers/faulty_site.py -->", "<!-- end -->"
# Keys of a site's file that speak of single cases by name.
_BY_CASE = ("undrawn", "exclude")


@dataclass(kw_only=True)
class Checked:
    """One folder, and what the data check has said of it.

    Attributes:
        site: Its site's file, besides folders and name.
        places: Of its inputs, by name.
        status: Exit status of the command.
        lines: All that it has printed on cases.
        rest: What it has printed below them.
    """

    site: dict[str, Any]
    places: dict[str, Place] = field(default_factory=dict)
    status: int = 0
    lines: list[str] = field(default_factory=list)
    rest: str = ""

    def said_of(self, name: str) -> list[str]:
        """Lines on the case, or on cases whose names begin with this and a letter of no other."""
        found = re.compile(rf"^\w+ +\w+ +{name}(?![a-z0-9_]).*? \(case-[0-9a-f]+\): ")
        return [line for line in self.lines if found.match(line)]


def by_folder(inputs: Mapping[str, Faulty]) -> list[tuple[dict[str, Any], list[str]]]:
    """What the site's file says and the inputs of each folder; the first holds the old ones too."""
    together: dict[str, Any] = {"undrawn": {n: list(o) for n, o in bad.UNDRAWN.items()}}
    folders: list[tuple[dict[str, Any], list[str]]] = [(together, [])]
    for name, each in inputs.items():
        if all(key in _BY_CASE and set(value) == {name} for key, value in each.site.items()):
            for key, value in each.site.items():
                together.setdefault(key, {}).update(value)
            folders[0][1].append(name)
            continue
        for site, names in folders[1:]:
            if json.dumps(site, sort_keys=True) == json.dumps(dict(each.site), sort_keys=True):
                names.append(name)
                break
        else:
            folders.append((dict(each.site), [name]))
    return folders


def check_all(root: Path) -> list[Checked]:
    """Make every input, and run the data check once on each folder."""
    inputs = faulty.all_inputs()
    seeds = {name: 1000 + number for number, name in enumerate(inputs)}
    found = []
    for number, (site, names) in enumerate(by_folder(inputs)):
        folder = root / f"folder-{number}"
        folder.mkdir()
        if number == 0:
            bad.make_site(folder / "A")
        else:
            (folder / "A").mkdir()
        checked = Checked(site=site)
        for name in names:
            place = Place(root=folder / "A", name=name, seed=seeds[name])
            inputs[name].make(place)
            checked.places[name] = place
        _check(folder, checked, contract=bad.CONTRACT if number == 0 else {})
        found.append(checked)
    return found


def _check(folder: Path, checked: Checked, contract: Mapping[str, Any]) -> None:
    site = {"site": "A", "data": "A", "cache": "cache", "state": "state"} | checked.site
    site["limits"] = {"min_cases": 1}
    if contract:
        rows = "".join(f"{case},{patient}\n" for case, patient in bad.PATIENTS.items())
        (folder / "patients.csv").write_text(f"case,patient\n{rows}", encoding="utf-8")
        site["patients"] = "patients.csv"
    study = {"name": "faulty", "organs": bad.ORGANS, "contract": dict(contract)}
    (folder / "A.yaml").write_text(yaml.safe_dump(site), encoding="utf-8")
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    given = ["--site", "A", "--configs", str(folder), "--study", str(folder / "study.yaml")]
    done = CliRunner().invoke(app, ["check", *given, "--workers", "2", "--no-page", "--names"])
    cases, _, checked.rest = done.stdout.partition("\n\n")
    checked.lines, checked.status = cases.splitlines(), done.exit_code


# ---- the page -----------------------------------------------------------------------------------


def table(found: list[Checked]) -> str:
    """The inputs as rows of Markdown, with a second reader's truth and the product's words."""
    rows = ["| kind | input | a second reader | what the check says |", "| --- | --- | --- | --- |"]
    inputs = faulty.all_inputs()
    place_of = {name: (c, place) for c in found for name, place in c.places.items()}
    for name, each in sorted(inputs.items(), key=lambda item: _kind_order(item[1].kind)):
        checked, place = place_of[name]
        said = " ".join(_words(line, name) for line in checked.said_of(name))
        if not said:
            said = _words(next((x for x in checked.rest.splitlines() if name in x), ""), name)
        site = f" (`{_shown(each.site)}`)" if each.site else ""
        cells = (each.kind, each.what + site, each.truth(place), said)
        rows.append(f"| {' | '.join(_cell(cell, name) for cell in cells)} |")
    return "\n".join(rows)


def _kind_order(kind: str) -> tuple[int, str]:
    number = re.match(r"\d+", kind)
    return (int(number[0]) if number else 0, kind)


def _words(line: str, name: str) -> str:
    """`refused, rule geometry: ...` or `used: ...` of a case's line."""
    found = re.match(
        r"^(\w+) +\w+ +.*? \(case-[0-9a-f]+\): (?:rule (\w+): )?(?:case \S+: )?(.*)$", line
    )
    if not found:
        return re.sub(r"^(passed over) +", r"\1: ", line)
    how = f"{found[1]}, rule `{found[2]}`" if found[2] else found[1]
    return f"{how}: {found[3]}"


def _shown(site: Mapping[str, Any]) -> str:
    return json.dumps(dict(site), ensure_ascii=False)[1:-1]


def _cell(text: str, name: str) -> str:
    text = printable(re.sub(rf"\b{name}(?![a-z0-9_])", "014", text, flags=re.IGNORECASE))
    text = text.replace("\N{REPLACEMENT CHARACTER}", "?").replace("<", "&lt;").replace("|", "/")
    return text.strip()


def write_page(made: str) -> None:
    """Put the table into its page."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n\n{made}\n\n{END}{tail}", encoding="utf-8")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_page(table(check_all(Path(folder))))


if __name__ == "__main__":
    main()
