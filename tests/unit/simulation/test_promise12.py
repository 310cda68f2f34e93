"""PROMISE12 as it is downloaded: all scans and segmentations in one folder."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.files.image_io import read_image
from client.data.folder.layout import find_cases
from client.data.labels.label_file import read_label_map
from protocol.config.study import ProtocolError
from simulation.commands.organs import organs_of
from simulation.errors import SplitError
from simulation.folds import choose_fold
from simulation.layouts import read_cohort
from simulation.split import deal_to_sites, write_sites


@pytest.fixture
def promise12(tmp_path: Path) -> Path:
    folder = tmp_path / "TrainingData"
    folder.mkdir()
    rng = np.random.default_rng(12)
    for number in range(12):
        label = np.zeros((4, 5, 6), np.int8)
        label[1:3, 2:4, 2:4] = 1
        image = rng.integers(0, 900, label.shape).astype(np.int16)
        for array, ending in ((image, ""), (label, "_segmentation")):
            path = folder / f"Case{number:02d}{ending}.mhd"
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
            assert path.with_suffix(".raw").exists()
    return folder


def test_all_cases_are_labelled_by_default(promise12: Path) -> None:
    cases = read_cohort(promise12, None, None)
    assert [case.name for case in cases] == [f"Case{n:02d}" for n in range(12)]
    assert {case.part for case in cases} == {"labelled"}
    assert all(case.image.name == f"{case.name}.mhd" for case in cases)
    assert all(case.label == case.reference for case in cases)


def test_counts_may_be_given(promise12: Path) -> None:
    cases = read_cohort(promise12, 7, 3)
    assert Counter(case.part for case in cases) == {"labelled": 7, "unlabelled": 3}
    assert Counter(c.part for c in read_cohort(promise12, None, 3)) == {
        "labelled": 9,
        "unlabelled": 3,
    }
    with pytest.raises(SplitError, match="lower --labelled"):
        read_cohort(promise12, 13, None)


def test_every_site_gets_labelled_cases(promise12: Path) -> None:
    dealt = deal_to_sites(read_cohort(promise12, None, None), 6, 1)
    assert sorted({case.site for case in dealt}) == list("ABCDEF")
    assert sum(case.part == "labelled" for case in dealt) == 12


def test_sites_read_the_linked_files(promise12: Path, tmp_path: Path) -> None:
    cases = choose_fold(deal_to_sites(read_cohort(promise12, None, None), 2, 1), 1, 1)
    configs = write_sites(cases, tmp_path / "sites", tmp_path / "cache", device="cpu", threads=1)
    found = [case for config in configs.values() for case in find_cases(config.data)]
    assert sorted(case.name for case in found) == [f"Case{n:02d}" for n in range(12)]
    for case in found:
        scan = read_image(case.image, case=case.name)
        assert case.label is not None
        label = read_label_map(case.label, scan, {"prostate": 1}, case=case.name)
        assert sitk.GetArrayViewFromImage(label).sum() == 8


def test_its_organ_is_known(promise12: Path, tmp_path: Path) -> None:
    assert organs_of(promise12, None, "--cohort") == {"prostate": 1}
    assert organs_of(promise12, "gland=1", "--cohort") == {"gland": 1}
    with pytest.raises(ProtocolError, match="--cohort: needs --organs"):
        organs_of(tmp_path, None, "--cohort")


def test_everything_that_is_missing_is_reported_at_once(promise12: Path) -> None:
    (promise12 / "Case03_segmentation.mhd").unlink()
    (promise12 / "Case05.mhd").unlink()
    (promise12 / "Case07.raw").unlink()
    with pytest.raises(SplitError) as caught:
        read_cohort(promise12, None, None)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("case Case03 has no Case03_segmentation.mhd" in line for line in lines)
    assert any("case Case05 has no Case05.mhd" in line for line in lines)
    assert any("is missing" in line and "(Case07.raw)" in line for line in lines)
