"""Contours and segments that are doubled, sparse or empty, as a site meets them."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from bad_cases import ORGANS, Place
from faulty.contours import BLADDER, DRAWN, INPUTS, Roi, column, drawn

from client.commands.score import score_files
from client.data.cache import cached_case
from client.data.case import Case
from client.data.declaration import count_annotated, is_boxed
from client.data.errors import ScanError
from client.datacheck.inspection import inspect_case
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol


def made(root: Path, name: str) -> Case:
    root.mkdir(exist_ok=True)
    place = Place(root=root, name=name, seed=7)
    INPUTS[name].make(place)
    facts = {"data": root, "cache": root, "state": root} | dict(INPUTS[name].site)
    return Case(
        name=name,
        part="labelled",
        image=place.image(""),
        label=place.label(".dcm"),
        site=SiteConfig(site="A", **facts),
    )


@pytest.mark.parametrize("name", INPUTS)
def test_input(tmp_path: Path, name: str) -> None:
    each = INPUTS[name]
    report = inspect_case(made(tmp_path, name), StudyProtocol(organs=ORGANS))
    if each.rule:
        assert report.problem is not None
        assert report.problem.rule == each.rule
        assert each.said in report.problem.message
        return
    assert report.problem is None
    assert report.measures is not None
    assert each.volumes_ml == pytest.approx(report.measures.volumes_ml, rel=0.01)
    if each.said:
        assert any(each.said in note for note in report.notes)
    else:
        assert report.notes == ()
    assert name not in " ".join(report.notes)


@pytest.mark.skipif(shutil.which("plastimatch") is None, reason="plastimatch not installed")
@pytest.mark.parametrize(
    "name", [n for n, e in INPUTS.items() if n.startswith("contours_") and not e.rule]
)
def test_plastimatch_finds_the_same_voxels(tmp_path: Path, name: str) -> None:
    """Where it unites contours as we do: it has no holes, and interpolates nothing."""
    case = made(tmp_path, name)
    scan, notes = case.read_scan(), list[str]()
    label = sitk.GetArrayFromImage(case.read_label(scan, ORGANS, notes.append))
    sitk.WriteImage(scan, tmp_path / "scan.mha")
    command = ["plastimatch", "convert", "--input", case.label, "--fixed", tmp_path / "scan.mha"]
    command += ["--output-prefix", tmp_path / "masks", "--prefix-format", "nii"]
    subprocess.run([str(part) for part in command], capture_output=True, check=True)
    differ = "hole" in name or any("interpolated" in note for note in notes)
    for file in (tmp_path / "masks").iterdir():
        if value := ORGANS.get(file.stem):
            mask = sitk.GetArrayFromImage(sitk.ReadImage(file)) > 0
            same = np.array_equal(mask, label == value)
            assert same == (not differ or file.stem == "bladder")


def test_a_prediction_is_scored_as_it_was_drawn(tmp_path: Path) -> None:
    """A network draws every slice that it means, and nothing of an organ that it does not find."""
    place = Place(root=tmp_path, name="c", seed=7)
    drawn(column("bladder", BLADDER, DRAWN[::2]), Roi(name="prostate"))(place)
    path, scan = place.label(".dcm"), place.image("")
    facts = {"data": tmp_path, "cache": tmp_path, "state": tmp_path}
    site = SiteConfig(site="A", contour_gaps="keep", empty_structures="absent", **facts)
    scores = score_files(path, path, ORGANS, scan=scan, config=site)
    assert scores["bladder"].dsc == 1
    # As a reference of nobody's, it may be half drawn.
    with pytest.raises(ScanError, match="holds an empty structure for prostate"):
        score_files(path, path, ORGANS, scan=scan)
    # By its sparse slices the reference is interpolated, the prediction is not: 5 of 9 slices.
    site = SiteConfig(site="A", empty_structures="absent", **facts)
    scores = score_files(path, path, ORGANS, scan=scan, config=site)
    assert scores["bladder"].dsc == pytest.approx(2 * 5 / (5 + 9), abs=0.01)


def test_what_is_annotated_is_known_without_the_scan(tmp_path: Path) -> None:
    """The cache, the declaration and the scores ask; the key goes by the site's file alone."""
    for name, organs in (
        ("contours_none_undrawn", {"bladder"}),
        ("segments_zeros_undrawn", {"bladder"}),
        ("contours_none_absent", {"bladder", "prostate"}),
    ):
        case = made(tmp_path, name)
        assert case.annotated(ORGANS) == organs
        assert case.how_it_is_read(ORGANS)["annotated"] == ["bladder", "prostate"]


def test_an_undrawn_organ_is_unknown_to_training(tmp_path: Path) -> None:
    case = made(tmp_path / "site", "contours_none_undrawn")
    cached = cached_case(case, tmp_path / "cache", StudyProtocol(organs=ORGANS))
    assert cached.annotated == set(cached.organ_hashes) == {"bladder"}
    facts = {"bladder": 1, "prostate": 0}
    assert count_annotated([cached], ORGANS) == facts
    assert not is_boxed(cached, ORGANS)
    # Another word of the site's file on the same files is another entry.
    other = replace(case, site=case.site.model_copy(update={"empty_structures": "absent"}))
    again = cached_case(other, tmp_path / "cache", StudyProtocol(organs=ORGANS))
    assert again.annotated == set(ORGANS) and again.key != cached.key
