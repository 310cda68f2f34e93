"""`asdnet-site check` as a data manager runs it: every case is told, none stops the others."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_cases as bad
import pytest
import SimpleITK as sitk
import yaml
from click.testing import CliRunner
from flwr.app import Message, MessageType, RecordDict

import client.commands.check
from client.cli import app
from client.data.case import Case
from client.datacheck.inspection import inspect_case
from protocol.config.rules import RULES
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.planning.fingerprint import Fingerprint
from protocol.wire.messages import pack_instruction

ROOT = Path(__file__).parents[4]
TABLE = ROOT / "docs" / "guides" / "data-check.md"
MakeSite = Callable[..., SiteConfig]
MakeProtocol = Callable[..., StudyProtocol]


def write_files(folder: Path, protocol: dict[str, Any], **facts: Any) -> None:
    site = {"site": "A", "data": "A", "cache": "cache", "state": "state"} | facts
    (folder / "A.yaml").write_text(yaml.safe_dump(site))
    (folder / "study.yaml").write_text(yaml.safe_dump(protocol))


def run(folder: Path, *options: str) -> tuple[int, str, str]:
    arguments = [
        "check",
        "--site",
        "A",
        "--configs",
        str(folder),
        "--study",
        str(folder / "study.yaml"),
    ]
    found = CliRunner().invoke(app, [*arguments, "--names", "--workers", "1", *options])
    return found.exit_code, found.stdout, found.stderr


# ---- every kind of bad input --------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    bad.make_site(folder / "A")
    rows = "".join(f"{case},{patient}\n" for case, patient in bad.PATIENTS.items())
    (folder / "patients.csv").write_text(f"case,patient\n{rows}")
    write_files(
        folder,
        {"name": "bad", "organs": bad.ORGANS, "contract": bad.CONTRACT},
        patients="patients.csv",
        undrawn={case: list(organs) for case, organs in bad.UNDRAWN.items()},
    )
    return folder


@pytest.fixture(scope="module")
def told(bad_site: Path) -> tuple[int, str]:
    status, out, _ = run(bad_site, "--no-page")
    return status, out


def test_a_pipe_is_told_no_name(bad_site: Path) -> None:
    with_names = run(bad_site, "--no-page")[1]
    given = ["--site", "A", "--configs", str(bad_site), "--study", str(bad_site / "study.yaml")]
    piped = CliRunner().invoke(app, ["check", *given, "--workers", "1", "--no-page"]).stdout
    assert len(piped.splitlines()) == len(with_names.splitlines())
    cases = re.findall(r"^(?:used|refused) +\S+ +(\S+) \((case-\w+)\)", with_names, re.MULTILINE)
    assert len(cases) > 30
    for name, pseudonym in cases:
        assert f"{name} (" not in piped and f"case {name}" not in piped
        assert pseudonym in piped
    assert str(bad_site) not in piped


def line_of(out: str, name: str, status: str) -> str:
    (line,) = re.findall(rf"^{status} .* {name} \(case-.*$", out, re.MULTILINE)
    return str(line)


@pytest.mark.parametrize("name", bad.KINDS)
def test_a_bad_case_is_told_with_rule_and_remedy(told: tuple[int, str], name: str) -> None:
    kind = bad.KINDS[name]
    if not kind.rule:
        assert line_of(told[1], name, "used")
        return
    line = line_of(told[1], name, "refused")
    assert f": rule {kind.rule}: " in line
    assert kind.said in line
    assert "Error" not in line and "itk" not in line.lower()


def test_none_stops_the_check_of_the_others(told: tuple[int, str]) -> None:
    status, out = told
    refused = [name for name, kind in bad.KINDS.items() if kind.rule]
    assert status == 1
    assert len(refused) >= 30
    for name in bad.GOOD:
        assert line_of(out, name, "used")
    used = len(bad.GOOD) + sum(not kind.rule for kind in bad.KINDS.values())
    # The case that is in two parts is used in the first.
    assert f"in all: {used + 1} used, {len(refused)} refused" in out


def test_the_table_in_the_documentation_is_what_is_said(told: tuple[int, str]) -> None:
    assert bad.table(told[1]) in TABLE.read_text(encoding="utf-8")


def test_what_is_written_names_nobody(bad_site: Path) -> None:
    status, out, _ = run(bad_site, "--json")
    assert status == 1
    content = json.loads(out)
    by_rule = [case["rule"] for case in content["cases"] if case["status"] == "refused"]
    assert sorted(by_rule) == sorted(kind.rule for kind in bad.KINDS.values() if kind.rule)
    assert set(by_rule) <= set(RULES)
    page = bad_site / "page.html"
    run(bad_site, "--html", str(page))
    for text in (out, page.read_text()):
        for name in [*bad.KINDS, *bad.GOOD, "4711", "4712", "Doe", "Jane", "Prost."]:
            assert not re.search(rf"\b{re.escape(name)}\b(?! voxel| of|,? )", text) or name in WORDS
        assert str(bad_site) not in text
    assert page.stat().st_mode & 0o077 == 0
    assert page.read_text().count("<img") == len([c for c in content["cases"] if c["rule"] is None])


# Names of kinds that are words of messages too.
WORDS = {"constant", "infinite", "nan", "colours", "report", "copy", "twice"}


def test_a_pseudonym_is_known_at_the_site_alone(bad_site: Path) -> None:
    _, out, _ = run(bad_site, "--no-page")
    line = line_of(out, "good_map", "used")
    (pseudonym,) = re.findall(r"case-[0-9a-f]{10}", line)
    assert run(bad_site, "--who", pseudonym)[:2] == (0, "good_map\n")
    status, out, error = run(bad_site, "--who", "case-0000000000")
    assert (status, out) == (2, "")
    assert error.startswith("error: case-0000000000: is no case")


# ---- what the centre is told --------------------------------------------------------------------


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize("tolerated", [0.5, 0.0])
def test_for_centre_is_exactly_what_the_site_answers(
    make_site: MakeSite, make_protocol: MakeProtocol, tmp_path: Path, tolerated: float
) -> None:
    from flwr.app import Context

    from client.app import build_client_app

    protocol = make_protocol(contract={"max_refused_share": tolerated})
    config = make_site(labelled=3, unlabelled=2, validation=1, test=1)
    (config.data / "labelsTr" / "patient-labelled-0.nii.gz").unlink()
    write_files(
        tmp_path,
        protocol.model_dump(mode="json"),
        data=str(config.data),
        min_cases_reported=1,
        exclude={"patient-unlabelled-0": "motion"},
    )
    status, out, _ = run(tmp_path, "--for-centre")
    from protocol.config.site import read_site

    answering = read_site(tmp_path / "A.yaml")
    question = Message(pack_instruction(protocol, run="r"), 1, MessageType.QUERY)
    context = Context(1, 1, {}, RecordDict(), {})
    reply = build_client_app(lambda _: answering)(question, context)
    assert json.loads(out) == dict(reply.content["metrics"])
    assert status == 1
    told = json.loads(out)
    assert (told["labelled"], told["excluded"], told["refused/pair/count"]) == (2, 1, 1)
    # Where the study would refuse the data, nothing is measured on them.
    assert told["box/x0/count"] == (2 if tolerated else 0)
    assert 0 < told["box/x0/sum"] < 2 or not tolerated


@pytest.mark.usefixtures("flower_task")
def test_a_fingerprint_is_exactly_what_the_site_answers(
    make_site: MakeSite,
    make_protocol: MakeProtocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flwr.app import Context

    import client.datacheck.fingerprint
    from client.app import build_client_app
    from protocol.config.site import read_site

    def tried(found: Fingerprint, config: SiteConfig) -> Fingerprint:
        return found.model_copy(update={"step_seconds": 1.0, "step_gigamacs": 40.0})

    monkeypatch.setattr(client.datacheck.fingerprint, "with_machine", tried)
    protocol = make_protocol()
    config = make_site(labelled=4, unlabelled=2, test=2)
    write_files(tmp_path, protocol.model_dump(mode="json"), data=str(config.data))
    status, out, _ = run(tmp_path, "--fingerprint")
    assert status == 0
    told = json.loads(out)
    assert (told["labelled"], told["unlabelled"], told["spacing_mm/x/cases"]) == (4, 2, 6)
    answering = read_site(tmp_path / "A.yaml")
    # Nothing has been written down as having left.
    assert not list(answering.state.rglob("*fingerprint*"))
    question = Message(pack_instruction(protocol, run="r", ask="fingerprint"), 1, MessageType.QUERY)
    context = Context(1, 1, {}, RecordDict(), {})
    reply = build_client_app(lambda _: answering)(question, context)
    assert told == dict(reply.content["metrics"])


def test_what_a_new_run_would_hold_back_is_shown_before(
    make_site: MakeSite, make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    from client.data.cohort import site_of_run
    from protocol.config.site import read_site

    protocol = make_protocol()
    config = make_site(labelled=3, test=4)
    data = config.data
    late = {f: data / f / "patient-test-3.nii.gz" for f in ("imagesTs", "labelsTs")}
    kept = {folder: path.read_bytes() for folder, path in late.items()}
    for path in late.values():
        path.unlink()
    write_files(tmp_path, protocol.model_dump(mode="json"), data=str(data))
    assert "held back" not in run(tmp_path, "--no-page")[1]
    site_of_run(read_site(tmp_path / "A.yaml"), protocol, "run-1")
    before = json.loads(run(tmp_path, "--for-centre")[1])
    for folder, path in late.items():
        path.write_bytes(kept[folder])
    out = " ".join(run(tmp_path, "--no-page")[1].split())
    assert "held back test scores of ball: 1 new cases wait until there are 3" in out
    after = json.loads(run(tmp_path, "--for-centre")[1])
    assert after == before | {"test": 4.0}


# ---- the rest of the command --------------------------------------------------------------------


def good_site(folder: Path, count: int = 2) -> None:
    (folder / "A").mkdir(parents=True)
    for seed in range(count):
        place = bad.Place(root=folder / "A", name=f"c{seed}", seed=seed)
        bad.of_label(lambda image: image)(place)
    write_files(folder, {"name": "good", "organs": bad.ORGANS})


def test_a_good_site_is_status_0(tmp_path: Path) -> None:
    good_site(tmp_path, 3)
    status, out, _ = run(tmp_path)
    assert status == 0
    assert "in all: 3 used" in out
    assert "volume: bladder      0.063 to 0.063" in out
    assert (tmp_path / "state" / client.commands.check.PAGE).exists()
    assert not (tmp_path / "cache").exists()


def test_the_limits_that_a_study_breaks_are_told(tmp_path: Path) -> None:
    good_site(tmp_path)
    status, out, _ = run(tmp_path, "--no-page")
    assert status == 1
    line = "limits               BROKEN: limits.min_cases of A.yaml: an update would rest on 2"
    assert line in out
    assert len(json.loads(run(tmp_path, "--json")[1])["broken_limits"]) == 1
    write_files(
        tmp_path, {"name": "good", "organs": bad.ORGANS}, limits={"min_cases": 2, "max_width": 16}
    )
    status, out, _ = run(tmp_path)
    assert status == 0 and "limits               the study is within all of this site's" in out
    assert json.loads(run(tmp_path, "--json")[1])["broken_limits"] == []


def test_excluded_cases_are_told_and_no_mistake(tmp_path: Path) -> None:
    good_site(tmp_path, 4)
    facts = {"exclude": {"c1": "metal hip"}}
    write_files(tmp_path, {"name": "good", "organs": bad.ORGANS}, **facts)
    status, out, _ = run(tmp_path, "--no-page")
    assert status == 0
    assert "left out by the site's file: metal hip" in line_of(out, "c1", "excluded")
    write_files(tmp_path, {"name": "good", "organs": bad.ORGANS}, exclude={"cx": "?"})
    status, out, _ = run(tmp_path, "--no-page")
    assert status == 1 and "exclude names a case that is not there" in out


def test_what_is_no_scan_is_told(tmp_path: Path) -> None:
    good_site(tmp_path, 3)
    (tmp_path / "A" / "imagesTr" / "notes.txt").touch()
    (tmp_path / "A" / "old").mkdir()
    (tmp_path / "A" / "scan.nii.gz").touch()
    status, out, _ = run(tmp_path, "--no-page")
    assert status == 0
    assert "imagesTr: notes.txt (no scan, no label)" in out
    assert "data folder: old, scan.nii.gz (in no folder of cases)" in out


def test_an_empty_label_and_an_odd_volume_are_pointed_out(tmp_path: Path) -> None:
    good_site(tmp_path, 6)
    folder = tmp_path / "A" / "labelsTr"
    for number in range(4):  # volumes differ a little, so that there is a spread
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"c{number}.mha")))
        label[1, 2 : 2 + number, 3] = 0
        bad.save(bad.on_grid(label), folder / f"c{number}.mha")
    small = bad.organs() * 0
    small[2, 2, 3] = 1
    bad.save(bad.on_grid(small), folder / "c4.mha")
    bad.save(bad.on_grid(small * 0), folder / "c5.mha")
    status, out, _ = run(tmp_path, "--no-page")
    assert status == 0
    assert "its label holds no organ at all" in line_of(out, "c5", "used")
    assert re.search(r"look at +c4: bladder has 0.00105 ml", out)


def test_mistakes_of_files_are_status_2(tmp_path: Path) -> None:
    good_site(tmp_path)
    write_files(tmp_path, {"name": "good", "organs": bad.ORGANS}, not_annotated=["uterus"])
    status, _, error = run(tmp_path)
    assert status == 2
    assert error.startswith("error: A.yaml: not_annotated: 'uterus' is no organ of the study")
    write_files(tmp_path, {"name": "good", "organs": bad.ORGANS}, patients="nowhere.csv")
    status, _, error = run(tmp_path)
    assert status == 2 and "nowhere.csv: cannot be read" in error
    (tmp_path / "A.yaml").unlink()
    assert run(tmp_path)[0] == 2


def test_a_table_of_patients_reaches_every_case_or_is_told(tmp_path: Path) -> None:
    for number, part in enumerate(("Tr", "Tr", "Ts", "Ts")):
        place = bad.Place(root=tmp_path / "A", name=f"c{number}", seed=number)
        place.root.mkdir(exist_ok=True)
        bad.save(place.scan(), place.image(part=part))
        place.good_label(part=part)
    table = tmp_path / "patients.csv"
    write_files(tmp_path, {"name": "good", "organs": bad.ORGANS}, patients=table.name)
    table.write_text("case,patient\nc0,P1\nc2 , P1 \nz7,P2\n")
    status, out, _ = run(tmp_path, "--no-page")
    assert status == 1 and "rule patient: " in line_of(out, "c2", "refused")
    assert "1 row(s) of `patients` name no case here" in out
    assert "2 case(s) have no row in `patients` and no header" in out
    table.write_text("case,patient\nc0,P1\nC2.nii.gz,P1\nc1,\n")
    status, _, error = run(tmp_path, "--no-page")
    assert status == 2
    assert "line 3: case 'C2.nii.gz' is no case here, 'c2' is; correct" in error
    assert "line 4: case 'c1' has no patient" in error


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    write_files(tmp_path, {"name": "good", "organs": bad.ORGANS})
    status, out, _ = run(tmp_path, "--no-page")
    assert status == 1
    assert "rule missing: data folder A: does not exist; correct the site file" in out


def test_processes_find_the_same(tmp_path: Path) -> None:
    good_site(tmp_path, 3)
    alone = run(tmp_path, "--json")[1]
    command = [
        sys.executable,
        "-m",
        "client.cli",
        "check",
        "--site",
        "A",
        "--configs",
        str(tmp_path),
    ]
    command += ["--study", str(tmp_path / "study.yaml"), "--json", "--workers", "2"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert json.loads(found.stdout) == json.loads(alone)


def test_an_oblique_scan_says_so(tmp_path: Path) -> None:
    place = bad.Place(root=tmp_path, name="c", seed=1)
    image = place.scan()
    image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    bad.save(image, place.image(part="Un"))
    case = Case(name="c", part="unlabelled", image=place.image(part="Un"), label=None)
    measures = inspect_case(case, StudyProtocol(organs=bad.ORGANS)).measures
    assert measures is not None
    assert measures.orientation == "LPS, 37 degrees oblique"
    assert measures.size_xyz == (18, 14, 5)


@pytest.mark.parametrize("kind", ["contours", "segments"])
def test_structures_that_are_left_aside_are_counted(tmp_path: Path, kind: str) -> None:
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "imagesTr").mkdir()
    place = bad.Place(root=tmp_path, name="c", seed=1)
    bad.labelled_dicom(kind, lambda *_: None, **bad.ORGANS, BODY=3, PTV_60=4)(place)
    site = SiteConfig(
        site="A", data=tmp_path, cache=tmp_path, state=tmp_path, ignored_labels=("ptv*",)
    )
    case = Case(
        name="c", part="labelled", image=place.image(""), label=place.label(".dcm"), site=site
    )
    assert case.unused_structures(bad.ORGANS) == ["BODY"]
    (note,) = inspect_case(case, StudyProtocol(organs=bad.ORGANS)).notes
    assert note.startswith("1 of its label's structures left aside")
    assert "BODY" not in note  # a page of the check may be passed on
