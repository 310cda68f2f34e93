"""Faulty scans in --data: all are named at once, in the words of the data check."""

import bz2
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import bad_cases as bad
import faulty
import pytest
import SimpleITK as sitk
from bad_cases import Place
from rich.console import Console

import simulation.experiment.preparation
from client.data.case import Case
from client.data.folder.layout import LayoutError
from client.datacheck.inspection import inspect_case
from protocol.config.study import StudyProtocol
from simulation.cohort import find_cohort
from simulation.errors import SplitError
from simulation.experiment.grid import fitted_protocol
from simulation.experiment.preparation import check_cases
from simulation.folds import choose_fold
from simulation.layouts import StudyCase, choose_cases, find_files, read_cohort
from simulation.options import CommonOptions

QUIET = Console(quiet=True)
# What names alone show, stops the pairing of files; the rest shows when a file is read.
BY_NAME = {"twice", "no_label", "no_image", "contours_twice", "contours_cut"}
# What is no case of training, and what only a site's file or a study's demands refuse.
ELSEWHERE = {
    "in_two_parts", "patient_in_test", "patient_in_training", "undrawn_organ", "too_coarse",
    "too_small", "computed_tomography", "copy",
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        simulation.experiment.preparation, "spawned_pool", lambda _: ThreadPoolExecutor(1)
    )


@pytest.fixture
def options(make_protocol: Callable[..., StudyProtocol], tmp_path: Path) -> CommonOptions:
    return CommonOptions(
        preset="smoke",
        protocol=make_protocol(organs=bad.ORGANS, spacing_mm=(3.0, 3.0, 3.0)),
        fixed_grid=False,
        data=tmp_path / "data",
        labelled=None,
        unlabelled=0,
        sites=2,
        sites_file=None,
        out=tmp_path / "out",
        device="cpu",
        workers=1,
        cache=tmp_path / "cache",
    )


def good_cases(folder: Path, count: int = 10) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        place = Place(root=folder, name=f"good_{number}", seed=number)
        bad.save(place.scan(), place.image())
        place.good_label()


def empty(place: Place) -> None:
    place.image(".nii.gz").touch()
    place.good_label()


def bzip2_nrrd(place: Place) -> None:
    header = (
        "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 18 14 5\nencoding: bzip2\nendian: little\n"
        "space: left-posterior-superior\nspace directions: (0.5,0,0) (0,0.7,0) (0,0,3)\n"
        "space origin: (-10,20,5)\n\n"
    )
    place.image(".nrrd").write_bytes(header.encode() + bz2.compress(place.voxels().tobytes()))
    place.good_label()


def no_spacing(place: Place) -> None:
    path = place.image(".nii")
    bad.save(place.scan(), path)
    content = bytearray(path.read_bytes())
    content[80:92] = bytes(12)
    path.write_bytes(content)
    place.good_label()


def mixed_suffix(place: Place) -> None:
    path = place.image(".nii.gz")
    bad.save(place.scan(), path)
    path.rename(place.image(".Nii.gz"))
    place.good_label()


def dangling(place: Place) -> None:
    place.image(".nii.gz").symlink_to(place.root / "nowhere")
    place.good_label()


def latin_1(place: Place) -> None:
    bad.save(place.scan(), place.image())
    place.good_label()
    for folder in ("imagesTr", "labelsTr"):
        path = bytes(place.root / folder)
        (place.root / folder / f"{place.name}.mha").rename(
            Path(
                (path + b"/" + place.name.encode() + b"_\xe4.mha").decode("utf8", "surrogateescape")
            )
        )


def test_every_faulty_file_is_named_in_the_words_of_the_check(options: CommonOptions) -> None:
    """Of all inputs that the tests of the data check make, old and new."""
    assert options.data is not None
    good_cases(options.data)
    kinds = {n: k.make for n, k in bad.KINDS.items() if n not in ELSEWHERE}
    kinds |= {n: each.make for n, each in faulty.all_inputs().items() if not each.site}
    kinds |= {"zero_bytes": empty, "bzip2": bzip2_nrrd, "no_spacing": no_spacing}
    for seed, (name, make) in enumerate(kinds.items(), 100):
        make(Place(root=options.data, name=name, seed=seed))
    files = find_files(options.data)
    said_by_check = [inspect_case(case, options.protocol) for case in files.cases]
    known = {report.name: str(report.problem) for report in said_by_check if report.problem}
    assert len(known) > 60
    cases = choose_cases(options.data, files, len(files.images), 0)
    protocol = fitted_protocol(options, {}, [with_site(case) for case in cases])
    # No case is refused for its double in the other part.
    parts = [with_site(case, "AB"[n % 2]) for n, case in enumerate(cases)]
    with pytest.raises(LayoutError) as caught:
        check_cases(parts, options.out / ".check", protocol, options, QUIET)
    said = {re.sub(r"^site [AB]: ", "", line) for line in caught.value.mistakes}
    # Of a case without a site's file the check cannot say that this file may declare it.
    said = {
        line.replace("name the case in `incomplete` of the site's file or ", "") for line in said
    }
    of_one_case = {line for line in said if "is the same scan as" not in line}
    assert of_one_case - set(known.values()) == set()
    assert set(known.values()) - of_one_case == set()
    assert not (options.out / ".check").exists()


def test_what_names_show_and_what_reading_shows_is_told_together(options: CommonOptions) -> None:
    assert options.data is not None
    good_cases(options.data, 3)
    makers = {n: bad.KINDS[n].make for n in (*BY_NAME, "constant", "label_foreign", "text_file")}
    makers |= {"mixed_suffix": mixed_suffix, "dangling": dangling, "latin": latin_1}
    for seed, (name, make) in enumerate(makers.items(), 100):
        make(Place(root=options.data, name=name, seed=seed))
    with pytest.raises(SplitError) as caught:
        find_cohort(options, QUIET)
    lines = str(caught.value).splitlines()
    for name in makers:
        assert any(name in line for line in lines), name
    assert not any("good" in line for line in lines)
    for name in ("constant", "label_foreign", "text_file", *BY_NAME):
        assert any(bad.KINDS[name].said in line for line in lines if name in line), name


def test_a_withheld_label_is_read_before_anything_is_trained(
    options: CommonOptions, tmp_path: Path
) -> None:
    assert options.data is not None
    good_cases(options.data)
    path = options.data / "labelsTr" / "good_9.mha"
    bad.save(sitk.ReadImage(str(path)) * 9, path)
    cases = choose_fold([with_site(c) for c in read_cohort(options.data, 8, 2)], 1, 1)
    assert [c.name for c in cases if c.part == "unlabelled"] == ["good_8", "good_9"]
    with pytest.raises(LayoutError, match=r"site A: case good_9: label .* holds the values 9, 18"):
        check_cases(cases, options.out / ".check", options.protocol, options, QUIET)


def with_site(case: StudyCase, site: str = "A") -> StudyCase:
    return replace(case, site=site)


def test_one_scan_at_two_sites(options: CommonOptions) -> None:
    assert options.data is not None
    good_cases(options.data, 6)
    source = options.data / "imagesTr" / "good_0.mha"
    sitk.WriteImage(sitk.ReadImage(str(source)), str(options.data / "imagesTr" / "good_5.nii.gz"))
    (options.data / "imagesTr" / "good_5.mha").unlink()
    cases = [with_site(c, "AB"[c.name > "good_3"]) for c in read_cohort(options.data, 6, 0)]
    with pytest.raises(LayoutError) as caught:
        check_cases(cases, options.out / ".check", options.protocol, options, QUIET)
    assert caught.value.mistakes == (
        "site B, labelled case good_5: is the same scan as site A, labelled case good_0; keep one"
        " of the two",
    )


def test_scans_of_one_patient_in_two_parts_have_a_remedy_here(options: CommonOptions) -> None:
    assert options.data is not None
    good_cases(options.data, 3)
    for number in range(2):
        edit = bad.put(PatientID="4711", PatientBirthDate="19500203")
        bad.dicom(edit)(Place(root=options.data, name=f"of_one_{number}", seed=50 + number))
    cases = [with_site(case) for case in read_cohort(options.data, 5, 0)]
    parts = [replace(c, part="test") if c.name == "of_one_1" else c for c in cases]
    with pytest.raises(LayoutError) as caught:
        check_cases(parts, options.out / ".check", options.protocol, options, QUIET)
    [line] = caught.value.mistakes
    assert line.startswith("site A: test case of_one_1: its patient is in training too")
    assert line.endswith("in a simulation, one `group` of --sites-file keeps them together")
    check_cases(cases, options.out / ".check", options.protocol, options, QUIET)


def test_headers_are_read_without_voxels(
    options: CommonOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grid is planned by the door for headers, and a header that cannot be read waits."""
    assert options.data is not None
    good_cases(options.data, 3)
    cases = read_cohort(options.data, 3, 0)
    planned = fitted_protocol(options, {}, [with_site(case) for case in cases])
    empty(Place(root=options.data, name="zero", seed=1))
    more = [with_site(case) for case in read_cohort(options.data, 4, 0)]
    monkeypatch.setattr(Case, "read_scan", None)
    assert fitted_protocol(options, {}, more).spacing_mm == planned.spacing_mm
    with pytest.raises(LayoutError, match=r"case zero: image zero\.nii\.gz"):
        fitted_protocol(options, {}, more[-1:])


def test_the_cohort_of_a_result_says_what_the_file_of_sites_said(options: CommonOptions) -> None:
    """study.json and result.json hold it, so another file does not continue an experiment."""
    assert options.data is not None
    good_cases(options.data, 4)
    path = options.data / "sites.csv"
    path.write_text("case,site\n" + "".join(f"good_{n},{'AB'[n > 1]}\n" for n in range(4)))
    chosen = replace(options, sites=None, sites_file=path)
    cases, cohort = find_cohort(chosen, QUIET)
    assert {case.name: case.site for case in cases} == {
        "good_0": "A", "good_1": "A", "good_2": "B", "good_3": "B",
    }  # fmt: skip
    path.write_text(path.read_text().replace("good_1,A", "good_1,B"))
    _, other = find_cohort(chosen, QUIET)
    assert cohort["kind"] == other["kind"] == "folder"
    assert cohort["sites_file"] != other["sites_file"]
    _, dealt = find_cohort(replace(options, labelled=4), QUIET)
    assert dealt == {"kind": "folder"}
