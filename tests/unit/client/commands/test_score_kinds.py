"""Scores of contours, segments and named label maps equal those of their masks."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import bad_cases as bad
import dicom_phantoms as ph
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from faulty import label_files as lf
from numpy.typing import NDArray
from pydicom import dcmread
from surface_distance import (
    compute_average_surface_distance,
    compute_dice_coefficient,
    compute_robust_hausdorff,
    compute_surface_dice_at_tolerance,
    compute_surface_distances,
)

from client.cli import app
from client.data.dicom.derived.drawing import Drawing
from client.data.dicom.derived.segment_writing import write_segments
from client.data.dicom.derived.structures import write_structures
from client.data.dicom.series import find_series
from client.data.files.image_io import read_image

ORGANS = "bladder=1,prostate=2"
KINDS = (".mha", ".dcm", "seg.dcm", ".seg.nrrd")
Mask = NDArray[np.bool_]


def drawn(moved: int) -> NDArray[np.uint8]:
    """Bladder 1, prostate 2, moved along x."""
    return np.roll((lf.bladder() + 2 * lf.prostate()).astype(np.uint8), moved, axis=2)


def make(root: Path, name: str, moved: int, organs: dict[str, int] | None = None) -> None:
    """A label of the scan in every kind; .dcm is an RTSTRUCT."""
    image = read_image(root / "scan", case="1")
    series = find_series(root / "scan", location="1")
    array = drawn(moved)
    bad.save(bad.on_grid(array), root / f"{name}.mha")
    drawing = Drawing(array, image, series, organs or bad.ORGANS, model="test")
    write_structures(root / f"{name}.dcm", drawing)
    write_segments(root / f"{name}seg.dcm", drawing)
    box = np.ascontiguousarray(np.where(array > 0, 3 - array, 0)[1:4, 2:12, 2:11]).astype(np.uint8)
    named = lf.segments("prostate", "bladder")
    lf.write_nrrd(root / f"{name}.seg.nrrd", box, named, first_xyz=(2, 2, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One DICOM series, and two labels of it in every kind."""
    root = tmp_path_factory.mktemp("pair")
    place = bad.Place(root=root, name="scan", seed=1)
    ph.write_classic(root / "scan", ph.Phantom(voxels=place.voxels()))
    make(root, "a", 0)
    make(root, "b", 1)
    return root


def score(*args: object) -> Result:
    return CliRunner().invoke(app, ["score", *map(str, args), "--organs", ORGANS, "--json"])


def expected(one: Mask, other: Mask) -> dict[str, object]:
    distances = compute_surface_distances(other, one, (3.0, 0.7, 0.5))
    to_one, to_other = compute_average_surface_distance(distances)
    areas = distances["surfel_areas_gt"].sum(), distances["surfel_areas_pred"].sum()
    asd_mm = (to_one * areas[0] + to_other * areas[1]) / sum(areas)
    return {
        "dsc": pytest.approx(compute_dice_coefficient(other, one)),
        "asd_mm": pytest.approx(asd_mm),
        "hd95_mm": pytest.approx(compute_robust_hausdorff(distances, 95)),
        "nsd": pytest.approx(compute_surface_dice_at_tolerance(distances, 2.0)),
        "failure": None,
    }


def all_scores() -> dict[str, object]:
    return {o: expected(drawn(0) == v, drawn(1) == v) for o, v in bad.ORGANS.items()}


@pytest.mark.parametrize(("one", "other"), itertools.product(KINDS, KINDS))
def test_every_kind_against_every_other(folder: Path, one: str, other: str) -> None:
    """With the scan's grid, and without it where one of the two has a grid of its own."""
    result = score(folder / f"a{one}", folder / f"b{other}", "--scan", folder / "scan")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == all_scores()
    result = score(folder / f"a{one}", folder / f"b{other}")
    if ".dcm" in (one, other) and ".mha" not in (one, other):
        assert result.exit_code == 2
        assert "needs the grid of the scan that it was drawn on; give it by --scan" in result.stderr
        assert result.stdout == ""
    else:
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout) == all_scores()
        assert ("note: " in result.stderr) == (".seg.nrrd" in (one, other))


def test_contours_beside_the_slices_of_a_case(folder: Path, tmp_path: Path) -> None:
    """A folder as a planning system exports it."""
    case = tmp_path / "case"
    case.mkdir()
    for file in [*(folder / "scan").iterdir(), folder / "a.dcm"]:
        (case / file.name).write_bytes(file.read_bytes())
    result = score(case, folder / "b.mha")
    assert json.loads(result.stdout) == all_scores()


def renamed(path: Path, to: Path) -> Path:
    found = dcmread(path)
    found.StructureSetROISequence[0].ROIName = "Blase"
    found.save_as(to)
    return to


def test_names_of_the_references_site(folder: Path, tmp_path: Path) -> None:
    reference = renamed(folder / "b.dcm", tmp_path / "b.dcm")
    (tmp_path / "A.yaml").write_text(
        "site: A\ndata: d\ncache: c\nstate: s\nlabels: {bladder: [Blase], prostate: []}\n"
    )
    site = ("--site", "A", "--configs", tmp_path)
    result = score(folder / "a.mha", reference, *site)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == all_scores()


def of_another_scan(folder: Path, into: Path) -> Path:
    place = bad.Place(root=into, name="other", seed=2)
    ph.write_classic(into / "other", ph.Phantom(voxels=place.voxels()))
    return into / "other"


@pytest.mark.parametrize("kind", ["a.dcm", "aseg.dcm"])
def test_a_label_of_another_scan_is_refused(folder: Path, kind: str, tmp_path: Path) -> None:
    other = of_another_scan(folder, tmp_path)
    result = score(folder / kind, folder / "b.mha", "--scan", other)
    assert result.exit_code == 2
    assert f"case prediction: label {kind} was drawn on another" in result.stderr
    result = score(folder / "b.mha", folder / kind, "--scan", other)
    assert f"case reference: label {kind} was drawn on another" in result.stderr


def test_segments_of_two_scans_say_so_without_the_scan(folder: Path, tmp_path: Path) -> None:
    of_another_scan(folder, tmp_path)
    (tmp_path / "other").rename(tmp_path / "scan")
    make(tmp_path, "a", 0)
    result = score(folder / "aseg.dcm", tmp_path / "aseg.dcm")
    assert result.exit_code == 2
    assert "was drawn on another frame of reference" in result.stderr


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:900])


def as_report(path: Path) -> None:
    found = dcmread(path)
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    found.save_as(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "case prediction: label a.dcm: 1 of its DICOM files cannot be read"),
        (as_report, "case prediction: label a.dcm holds 1 DICOM objects, must be one RTSTRUCT or"),
        (Path.unlink, "case prediction: label map a.dcm does not exist"),
        (
            lambda path: renamed(path, path),
            "case prediction: label a.dcm holds no structure for bladder",
        ),
    ],
)
def test_mistakes_give_status_2_and_name_the_file(
    folder: Path, spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes((folder / "a.dcm").read_bytes())
    spoil(path)
    for scan in ((), ("--scan", folder / "scan")):
        result = score(path, folder / "b.mha", *scan)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
    swapped = score(folder / "b.mha", path)
    assert message.replace("prediction", "reference") in swapped.stderr


def test_an_organ_that_a_side_lacks_is_left_out_by_organs(folder: Path, tmp_path: Path) -> None:
    path = renamed(folder / "a.dcm", tmp_path / "a.dcm")
    result = score(path, folder / "b.mha")
    assert "--organs may leave it out" in result.stderr
    result = CliRunner().invoke(
        app, ["score", str(path), str(folder / "bseg.dcm"), "--organs", "prostate=2"]
    )
    assert result.exit_code == 2 and "give it by --scan" in result.stderr
    args = ["--organs", "prostate=2", "--json", "--scan", str(folder / "scan")]
    result = CliRunner().invoke(app, ["score", str(path), str(folder / "bseg.dcm"), *args])
    assert json.loads(result.stdout) == {"prostate": all_scores()["prostate"]}


def test_a_scan_that_is_not_the_labels_is_named(folder: Path, tmp_path: Path) -> None:
    scan = bad.on_grid(np.arange(4 * 14 * 18, dtype=np.uint16).reshape(4, 14, 18))
    bad.save(scan, tmp_path / "scan.mha")
    result = score(folder / "a.mha", folder / "b.mha", "--scan", tmp_path / "scan.mha")
    assert result.exit_code == 2
    assert "label map b.mha is not on the scan's grid: size (18, 14, 5) against" in result.stderr
    result = score(folder / "a.mha", folder / "b.mha", "--scan", tmp_path / "none")
    assert "case scan: image none does not exist" in result.stderr


def test_two_boxes_of_one_scan_have_one_grid(tmp_path: Path) -> None:
    """Two people's segmentations, cropped by the program that drew them."""
    one, other = drawn(0), drawn(1)
    named = lf.segments("bladder", "prostate")
    for name, array, first in (("a", one, (3, 2, 1)), ("b", other, (1, 0, 0))):
        x, y, z = first
        box = np.ascontiguousarray(array[z:4, y:12, x:9])
        lf.write_nrrd(tmp_path / f"{name}.seg.nrrd", box, named, first_xyz=first)
    result = score(tmp_path / "a.seg.nrrd", tmp_path / "b.seg.nrrd")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == all_scores()
    moved = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
    moved.SetOrigin((-10.0, 20.2, 5.0))
    sitk.WriteImage(moved, str(tmp_path / "c.seg.nrrd"))
    result = score(tmp_path / "a.seg.nrrd", tmp_path / "c.seg.nrrd")
    assert result.exit_code == 2
    assert "is not on the image grid" in result.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("link.mha", "is a link to what is not there"),
        ("packed.zip", "is an archive; unpack it"),
        ("caf\udce9.mha", r"label map caf\xe9.mha has a name that is not UTF-8"),
        ("pipe.nii.gz", "is a pipe, socket or device"),
        ("hollow", "is an empty folder"),
        ("none.mha", "does not exist"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_what_is_no_label_is_one_line(tmp_path: Path, name: str, said: str, turned: bool) -> None:
    path = tmp_path / name
    {
        "link.mha": lambda: os.symlink("nowhere", path),
        "pipe.nii.gz": lambda: os.mkfifo(path),
        "hollow": path.mkdir,
        "none.mha": lambda: None,
    }.get(name, path.touch)()
    good = tmp_path / "good.mha"
    bad.save(bad.on_grid(bad.organs()), good)
    given = [str(good), str(path)] if turned else [str(path), str(good)]
    ran = CliRunner().invoke(app, ["score", *given, "--organs", "bladder=1,prostate=2"])
    assert ran.exit_code == 2
    assert len(ran.stderr.splitlines()) == 1 and said in ran.stderr
