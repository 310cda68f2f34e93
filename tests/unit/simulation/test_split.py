"""A folder of cases into sites and folds, and each site's folder."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.files.image_io import read_image
from client.data.folder.layout import find_cases
from simulation.errors import SplitError
from simulation.folds import FOLDS, choose_fold, refuse_unscored
from simulation.layouts import StudyCase, read_cohort
from simulation.split import (
    SIX_SITES,
    deal_to_sites,
    write_sites,
)


def empty_files(folder: Path, count: int, *places: str) -> None:
    """The split pairs by name and opens nothing."""
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (folder / place / f"case_{number:03d}.nii.gz").touch()


def scan(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(size=(4, 5, 6)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    empty_files(tmp_path / "task", 75, "imagesTr", "labelsTr")
    return tmp_path / "task"


def counts(cases: Sequence[StudyCase]) -> dict[str, tuple[int, int]]:
    found = Counter((case.site, case.part == "unlabelled") for case in cases)
    sites = sorted({case.site for case in cases})
    return {site: (found[site, False], found[site, True]) for site in sites}


def test_the_decathlons_layout_becomes_the_six_sites(decathlon: Path) -> None:
    cases = read_cohort(decathlon, 50, 20)
    assert len({case.name for case in cases}) == 70
    withheld = [case for case in cases if case.part == "unlabelled"]
    assert [case.name for case in withheld] == [f"case_{n:03d}" for n in range(55, 75)]
    assert all(case.label is None and case.reference is not None for case in withheld)
    assert counts(deal_to_sites(cases, 6, 1)) == dict(SIX_SITES)


@pytest.mark.parametrize("sites", [1, 2, 3, 5, 9])
def test_other_numbers_of_sites(decathlon: Path, sites: int) -> None:
    cases = read_cohort(decathlon, 50, 20)
    dealt = deal_to_sites(cases, sites, 1)
    found = counts(dealt)
    assert len(found) == sites
    assert sorted(case.name for case in dealt) == sorted(case.name for case in cases)
    assert sum(n for n, _ in found.values()) == 50
    if sites > 2:
        assert list(found.values())[-1][0] == 0  # one site without any label


def test_unasked_every_case_keeps_its_label(decathlon: Path) -> None:
    cases = read_cohort(decathlon, None, None)
    assert [case.part for case in cases] == ["labelled"] * 75
    assert [case.part for case in read_cohort(decathlon, 50, None)] == ["labelled"] * 50
    withheld = read_cohort(decathlon, None, 20)
    assert Counter(case.part for case in withheld) == {"labelled": 55, "unlabelled": 20}
    # Nobody's labels are withheld where there are scans without.
    empty_files(decathlon, 9, "imagesUn")
    for number in range(9):
        (decathlon / "imagesUn" / f"case_{number:03d}.nii.gz").rename(
            decathlon / "imagesUn" / f"pool_{number}.nii.gz"
        )
    pooled = read_cohort(decathlon, None, None)
    assert Counter(case.part for case in pooled) == {"labelled": 75, "unlabelled": 9}


@pytest.mark.parametrize(
    ("labelled", "sites"), [(1, 1), (2, 2), (8, 2), (15, 3), (29, 5), (30, 6), (75, 6)]
)
def test_a_folder_of_any_size_is_dealt(decathlon: Path, labelled: int, sites: int) -> None:
    dealt = deal_to_sites(read_cohort(decathlon, labelled, None), None, 1)
    assert len({case.site for case in dealt}) == sites
    assert len(dealt) == labelled


@pytest.mark.parametrize("labelled", [5, 6, 7, 8, 10, 15, 40])
def test_a_few_cases_are_trained_tested_and_validated_on(decathlon: Path, labelled: int) -> None:
    dealt = deal_to_sites(read_cohort(decathlon, labelled, None), None, 1)
    refuse_unscored(choose_fold(dealt, 1, 1))


def test_nothing_to_score_is_refused() -> None:
    here = Path("x")
    one_each = [
        StudyCase(name=site, image=here, label=here, reference=here, site=site) for site in "ABCDEF"
    ]
    with pytest.raises(SplitError) as caught:
        refuse_unscored(choose_fold(one_each, 1, 1))
    tested, validated = str(caught.value).splitlines()
    assert "no case is tested on: 6 labelled cases at 6 sites, and a site keeps one" in tested
    assert "no case is validated on" in validated
    assert "lower --sites" in tested
    assert "split of one in --sites-file" in tested
    # What is tested on at a site that takes no part is scored; what is validated on there is not.
    cases = [
        StudyCase(name=name, image=here, label=here, reference=here, site=name[0], part=part)
        for name, part in {"A1": "labelled", "B1": "test", "B2": "validation"}.items()
    ]
    refuse_unscored(cases)
    with pytest.raises(SplitError, match=r"^no case is validated on: 1 labelled case at 1 site,"):
        refuse_unscored(cases, {"B"})


def test_dealing_depends_on_the_seed_alone(decathlon: Path) -> None:
    cases = read_cohort(decathlon, 50, 20)
    assert deal_to_sites(cases, 6, 1) == deal_to_sites(cases, 6, 1)
    assert deal_to_sites(cases, 6, 1) != deal_to_sites(cases, 6, 2)


def test_folds_are_disjoint_stratified_and_cover_all(decathlon: Path) -> None:
    dealt = deal_to_sites(read_cohort(decathlon, 50, 20), 6, 1)
    tested: list[str] = []
    for fold in range(1, FOLDS + 1):
        chosen = choose_fold(dealt, fold, 1)
        assert chosen == choose_fold(dealt, fold, 1)
        sizes = Counter(case.part for case in chosen)
        assert sizes == {"labelled": 35, "validation": 5, "test": 10, "unlabelled": 20}
        of_sites = Counter(case.site for case in chosen if case.part == "test")
        for site, (labelled, _) in SIX_SITES.items():
            assert labelled // 5 <= of_sites[site] <= -(-labelled // 5)
        tested += [case.name for case in chosen if case.part == "test"]
    assert len(set(tested)) == len(tested) == 50
    other = choose_fold(dealt, 1, 2)
    assert other != choose_fold(dealt, 1, 1)


def test_every_labelled_site_keeps_a_training_case() -> None:
    here = Path("x")
    cases = [
        StudyCase(name=f"{site}{n}", image=here, label=here, reference=here, site=site)
        for site, count in {"A": 4, "B": 3, "C": 2, "D": 2}.items()
        for n in range(count)
    ]
    for fold in range(1, FOLDS + 1):
        chosen = choose_fold(cases, fold, 1)
        assert {case.site for case in chosen if case.part == "labelled"} == set("ABCD"), fold


@pytest.mark.parametrize("fold", [0, 6])
def test_there_are_five_folds(fold: int) -> None:
    with pytest.raises(SplitError, match="must be 1 to 5"):
        choose_fold([], fold, 1)


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "words"),
    [(60, 20, "holds 75 cases, 60 labelled and 20"), (80, 0, "holds 75 labelled cases, 80")],
)
def test_too_few_cases(decathlon: Path, labelled: int, unlabelled: int, words: str) -> None:
    with pytest.raises(SplitError, match=words):
        read_cohort(decathlon, labelled, unlabelled)


def test_fewer_cases_than_sites(decathlon: Path) -> None:
    with pytest.raises(SplitError, match="4 cases for 6 sites: none is left for site"):
        deal_to_sites(read_cohort(decathlon, 3, 1), 6, 1)
    with pytest.raises(SplitError, match="--sites must be"):
        deal_to_sites(read_cohort(decathlon, 50, 20), 27, 1)


def test_unpaired_files_are_all_named(decathlon: Path) -> None:
    (decathlon / "imagesTr" / "case_001.nii.gz").unlink()
    (decathlon / "labelsTr" / "case_004.nii.gz").unlink()
    with pytest.raises(SplitError) as caught:
        read_cohort(decathlon, 10, 0)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    # In the words of the data check.
    assert "case case_001: labelsTr holds its label map, imagesTr no image" in lines[0]
    assert "case case_004: imagesTr holds its image, labelsTr no label map" in lines[1]


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="no such folder"):
        read_cohort(tmp_path / "nowhere", 1, 0)
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    with pytest.raises(SplitError, match="holds no scan"):
        read_cohort(tmp_path, 1, 0)


def test_a_made_cohort_knows_its_sites(tmp_path: Path) -> None:
    empty_files(tmp_path, 6, "imagesTr", "labelsTr", "labelsRef")
    sites = ["A", "A", "A", "B", "B", "B"]
    entries = [{"name": f"case_{n:03d}", "site": site} for n, site in enumerate(sites)]
    (tmp_path / "cohort.json").write_text(json.dumps({"cases": entries}))
    cases = read_cohort(tmp_path, 6, 0)
    assert cases[0].reference == tmp_path / "labelsRef" / "case_000.nii.gz"
    assert cases[0].label == tmp_path / "labelsTr" / "case_000.nii.gz"
    assert [case.site for case in deal_to_sites(cases, 2, 1)] == sites
    with pytest.raises(SplitError, match="2 sites of its own, --sites is 6"):
        deal_to_sites(cases, 6, 1)


def made_sites(tmp_path: Path, suffix: str) -> dict[str, list[tuple[str, str]]]:
    source = tmp_path / "source"
    for number in range(10):
        for place in ("imagesTr", "labelsTr", "labelsRef"):
            scan(source / place / f"case_{number:03d}{suffix}", number)
    cases = choose_fold(deal_to_sites(read_cohort(source, 8, 2), 2, 1), 1, 1)
    configs = write_sites(cases, tmp_path / "sites", tmp_path / "cache", device="cpu", threads=1)
    found = {}
    for site, config in configs.items():
        assert (config.site, config.threads) == (site, 1)
        of_site = find_cases(config.data)
        for case in of_site:
            read_image(case.image, case=case.name)
            if case.label is not None:
                where = "labelsRef" if case.part == "test" else "labelsTr"
                assert case.label.resolve().parent.name == where
        found[site] = [(case.part, case.name) for case in of_site]
    expected = {site: sorted((c.part, c.name) for c in cases if c.site == site) for site in configs}
    assert {site: sorted(of) for site, of in found.items()} == expected
    return found


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_the_sites_folders_are_read_like_a_hospitals(tmp_path: Path, suffix: str) -> None:
    found = made_sites(tmp_path, suffix)
    assert set(found) == {"A", "B"}
    assert sum(part == "unlabelled" for of in found.values() for part, _ in of) == 2


def test_detached_headers_are_linked_with_their_voxels(tmp_path: Path) -> None:
    assert set(made_sites(tmp_path, ".mhd")) == {"A", "B"}
