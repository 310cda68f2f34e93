"""dataset.json of a site's folder says what the numbers in its label maps are."""

import json
from pathlib import Path

import bad_cases as bad
import numpy as np
import pytest
import SimpleITK as sitk
from faulty import label_files as lf

from client.data.case import Case
from client.data.errors import ScanError
from protocol.config.site import SiteConfig

SWAPPED = {"labels": {"background": 0, "Prostate": 1, "bladder": 2}}
DECATHLON = {
    "labels": {"0": "background", "1": "prostate", "2": "bladder"},
    "modality": {"0": "T2"},
}


def case(folder: Path, described: object, **facts: object) -> Case:
    place = bad.Place(root=folder, name="case_1", seed=1)
    bad.save(place.scan(), place.image())
    bad.save(bad.on_grid(lf.swapped()), place.label())
    if described is not None:
        text = described if isinstance(described, str) else json.dumps(described)
        (folder / "dataset.json").write_text(text)
    site = SiteConfig(site="A", data=folder, cache="c", state="s", **facts)
    paths = place.image(), place.label()
    return Case(name="case_1", part="labelled", image=paths[0], label=paths[1], site=site)


def read(case: Case) -> tuple[dict[str, int], list[str]]:
    """Voxels by organ, and the notes."""
    notes: list[str] = []
    label = case.read_label(case.read_scan(), bad.ORGANS, notes.append)
    array = sitk.GetArrayViewFromImage(label)
    return {o: int(np.count_nonzero(array == v)) for o, v in bad.ORGANS.items()}, notes


@pytest.mark.parametrize("described", [SWAPPED, DECATHLON])
def test_its_names_decide_against_the_studys_numbers(described: object, tmp_path: Path) -> None:
    voxels, notes = read(case(tmp_path, described))
    assert voxels == {"bladder": 60, "prostate": 24}
    assert notes == [
        "dataset.json decides, against the study's numbers: 1 is prostate, 2 is bladder"
    ]


def test_without_it_or_in_agreement_nothing_changes(tmp_path: Path) -> None:
    by_study = {"bladder": 24, "prostate": 60}
    assert read(case(tmp_path, None)) == (by_study, [])
    assert read(case(tmp_path, {"labels": {"bladder": 1, "prostate": 2}})) == (by_study, [])
    assert read(case(tmp_path, {"name": "no labels"})) == (by_study, [])


def test_numbers_of_the_sites_file_stand_and_a_contradiction_says_both(tmp_path: Path) -> None:
    right = {"bladder": [2], "prostate": [1]}
    assert read(case(tmp_path, SWAPPED, labels=right)) == ({"bladder": 60, "prostate": 24}, [])
    wrong = {"bladder": [1], "prostate": [2]}
    with pytest.raises(ScanError) as caught:
        read(case(tmp_path, SWAPPED, labels=wrong))
    assert caught.value.problem.rule == "values"
    assert "dataset.json has 1 as prostate, the site's file has 1 as bladder" in str(caught.value)
    foreign = {"labels": {"Blase": 2, "Prostata": 1}}
    voxels, notes = read(case(tmp_path, foreign, labels=right))
    assert voxels == {"bladder": 60, "prostate": 24}
    assert notes == [
        "dataset.json has names that the site's file does not know; its numbers decide:"
        " 1 is prostate, 2 is bladder"
    ]
    with pytest.raises(ScanError, match="has 2 as ignored, the site's file has 2 as bladder"):
        read(case(tmp_path, foreign, labels=right, ignored_labels=["bla*"]))


def test_the_sites_names_are_its_own(tmp_path: Path) -> None:
    german = {"labels": {"Blase": 2, "Prostata": 1}}
    named = {"bladder": ["Blase"], "prostate": ["Prostata"]}
    assert read(case(tmp_path, german, labels=named))[0] == {"bladder": 60, "prostate": 24}
    with pytest.raises(ScanError, match=r"names no value bladder; add .* \(Blase, Prostata\)"):
        read(case(tmp_path, german))


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ("{", "dataset.json: is no JSON"),
        ({"labels": {"bladder": [1, 2], "prostate": 1}}, "names no value bladder"),
    ],
)
def test_what_it_does_not_say_is_refused(described: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=said):
        read(case(tmp_path, described))


def test_the_key_of_the_cache_follows_it(tmp_path: Path) -> None:
    plain = case(tmp_path, None).how_it_is_read(bad.ORGANS)
    described = case(tmp_path, SWAPPED).how_it_is_read(bad.ORGANS)
    assert plain["values"] == {1: "bladder", 2: "prostate"}
    assert described["values"] == {1: "prostate", 2: "bladder"}


def test_names_in_the_file_itself_come_before_it(tmp_path: Path) -> None:
    described = case(tmp_path, {"labels": {"bladder": 1, "prostate": 2}})
    place = bad.Place(root=tmp_path, name="case_1", seed=1)
    place.label().unlink()
    lf.write_nrrd(place.label(".nrrd"), lf.swapped(), lf.segments("prostate", "bladder"))
    own = Case(
        name="case_1",
        part="labelled",
        image=described.image,
        label=place.label(".nrrd"),
        site=described.site,
    )
    assert read(own)[0] == {"bladder": 60, "prostate": 24}
