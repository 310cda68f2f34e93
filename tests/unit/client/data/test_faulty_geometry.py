"""Every faulty geometry of the table, image and label, by each door."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from bad_cases import ORGANS, Place
from faulty.geometry import INPUTS

from client.data.case import Case
from client.data.errors import ScanError
from client.data.files.image_io import load_numbers, read_grid
from client.data.folder.entries import scan_files


@pytest.mark.parametrize("name", INPUTS)
def test_faulty(tmp_path: Path, name: str) -> None:
    made = INPUTS[name]
    made.make(Place(root=tmp_path, name="014", seed=3))
    assert made.truth(Place(root=tmp_path, name="014", seed=3))
    image, label = (scan_files(tmp_path / folder)["014"] for folder in ("imagesTr", "labelsTr"))
    case = Case(name="014", part="labelled", image=image, label=label)
    notes: list[str] = []
    if made.rule:
        for read in (case.read_scan, lambda: read_grid(image, case="014")):
            with pytest.raises(ScanError) as caught:
                read()
            assert caught.value.problem.rule == made.rule
            assert made.said in caught.value.problem.message
            assert str(tmp_path) not in str(caught.value)
        if made.kind == "1":
            with pytest.raises(ScanError) as caught:
                load_numbers(label, "case 014: label")
            assert made.said in caught.value.problem.message
        return
    scan = case.read_scan(notes.append)
    numbers = case.read_label(scan, ORGANS, notes.append)
    assert bool(notes) == bool(made.said)
    assert made.said in "; ".join(notes)
    voxels, ml = sitk.GetArrayFromImage(numbers), np.prod(scan.GetSpacing()) / 1000
    assert made.volumes_ml is not None
    for organ, value in ORGANS.items():
        assert (voxels == value).sum() * ml == pytest.approx(made.volumes_ml[organ], rel=0.01)
    assert read_grid(image, case="014").direction == scan.GetDirection()
