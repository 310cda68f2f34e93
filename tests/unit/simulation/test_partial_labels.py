"""Hidden organs and sites that are left out: what is valid, and that nothing leaks."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from bad_cases import Place, labelled_dicom

from client.data.files.image_io import read_image
from client.data.folder.layout import find_cases
from client.data.labels.label_file import read_label_map
from simulation.errors import SplitError
from simulation.layouts import StudyCase
from simulation.partial_labels import check_choice, parse_hidden
from simulation.split import write_sites

ORGANS = {"bladder": 1, "prostate": 2, "rectum": 7}
SPACING = (0.7, 0.8, 3.3)


def test_hidden_organs_by_site() -> None:
    assert parse_hidden(["A=bladder,rectum", " B = prostate "]) == {
        "A": {"bladder", "rectum"},
        "B": {"prostate"},
    }
    assert parse_hidden([]) == {}


def test_every_unreadable_text_is_reported() -> None:
    with pytest.raises(SplitError) as caught:
        parse_hidden(["A", "=bladder", "B=", "C=rectum", "C=bladder"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert all("is not SITE=ORGAN,ORGAN" in line for line in lines[:3])
    assert "site C is named twice" in lines[3]


def test_every_invalid_choice_is_reported() -> None:
    hidden = parse_hidden(["A=bladder,liver", "B=bladder,prostate,rectum", "Z=rectum", "C=rectum"])
    with pytest.raises(SplitError) as caught:
        check_choice(hidden, {"C", "Y"}, {"A", "B", "C"}, tuple(ORGANS))
    text = str(caught.value)
    for words in (
        "--hide Z: is no site; the sites are A, B, C",
        "--leave-out Y: is no site",
        "--hide A: liver is no organ",
        "--hide B: leaves no organ",
        "--hide C: is also left out",
    ):
        assert words in text
    assert len(text.splitlines()) == 5
    with pytest.raises(SplitError, match="leaves no site"):
        check_choice({}, {"A", "B"}, {"A", "B"}, tuple(ORGANS))
    check_choice(parse_hidden(["A=bladder"]), {"B"}, {"A", "B"}, tuple(ORGANS))


def save(array: np.ndarray, path: Path) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin((-23.123456789, -21.0, 5.0))
    sitk.WriteImage(image, str(path))
    return path


def made_cases(folder: Path) -> list[StudyCase]:
    rng = np.random.default_rng(1)
    cases = []
    for number, (site, part) in enumerate(
        [("A", "labelled"), ("A", "validation"), ("A", "test"), ("B", "labelled")]
    ):
        label = rng.choice([0, 1, 2, 7], (6, 8, 10)).astype(np.uint8)
        image = rng.normal(size=label.shape).astype(np.float32)
        path = save(label, folder / f"{number}-label.nii.gz")
        cases.append(
            StudyCase(
                name=f"case-{number}",
                image=save(image, folder / f"{number}.mha"),
                label=path,
                reference=path,
                site=site,
                part=part,  # type: ignore[arg-type]
            )
        )
    return cases


def test_a_site_gets_nothing_of_what_it_has_not_drawn(tmp_path: Path) -> None:
    cases = made_cases(tmp_path)
    configs = write_sites(
        cases,
        tmp_path / "sites",
        tmp_path / "cache",
        device="cpu",
        threads=1,
        hidden={"A": frozenset({"bladder", "rectum"})},
        organs=ORGANS,
    )
    assert configs["A"].not_annotated == ("bladder", "rectum")
    assert configs["B"].not_annotated == ()
    known = {case.name: case for case in cases}
    for site, config in configs.items():
        for case in find_cases(config.data):
            assert case.label is not None
            # The site's own check: the label is on the scan's grid.
            scan = read_image(case.image, case=case.name)
            found = sitk.GetArrayFromImage(read_label_map(case.label, scan, ORGANS, case=case.name))
            whole = sitk.GetArrayFromImage(sitk.ReadImage(str(known[case.name].label)))
            if site == "B":
                assert case.label.is_symlink()
                np.testing.assert_array_equal(found, whole)
                continue
            assert not case.label.is_symlink()
            np.testing.assert_array_equal(found, np.where(whole == 2, 2, 0))
    # What the study scores against is as it was.
    assert {*np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(cases[0].reference))))} == {
        0, 1, 2, 7,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["contours", "segments"])
def test_hidden_organs_of_a_dicom_label(tmp_path: Path, kind: str) -> None:
    """A label of any format loses them: a site that hides an organ never has the full one."""
    place = Place(root=tmp_path / "data", name="case", seed=1)
    place.root.mkdir()
    labelled_dicom(kind, lambda *_: None)(place)
    [whole] = find_cases(place.root)
    case = StudyCase(
        name="case", image=whole.image, label=whole.label, reference=whole.label, site="A"
    )
    organs = {"bladder": 1, "prostate": 2}
    configs = write_sites(
        [case], tmp_path / "sites", tmp_path / "cache", device="cpu", threads=1,
        hidden={"A": frozenset({"bladder"})}, organs=organs,
    )  # fmt: skip
    [partly] = find_cases(configs["A"].data, configs["A"])
    scan = partly.read_scan()
    label = sitk.GetArrayFromImage(partly.read_label(scan, organs))
    full = sitk.GetArrayFromImage(whole.read_label(scan, organs))
    assert {*np.unique(full)} == {0, 1, 2}
    assert np.array_equal(label, np.where(full == 1, 0, full))
    assert not [*configs["A"].data.glob("labels*/*.dcm")]
