"""What a site's label numbers and names mean: nothing is guessed, every mistake is reported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.errors import ScanError
from client.data.labels.label_map import (
    LabelMapping,
    site_mapping,
    study_mapping,
)
from protocol.config.site import SiteConfig
from protocol.config.study import ProtocolError

ORGANS = {"bladder": 1, "prostate": 2, "rectum": 3}
SHAPE = (3, 4, 5)


def mapping(**facts: Any) -> LabelMapping:
    folder = Path("nowhere")
    config = SiteConfig(site="A", data=folder, cache=folder, state=folder, **facts)
    return site_mapping(config, ORGANS)


def label_map(*values: int) -> sitk.Image:
    array = np.zeros(SHAPE, np.int16)
    array.ravel()[: len(values)] = values
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.6, 3.0))
    return image


def translated(found: LabelMapping, *values: int) -> list[int]:
    image = found.translate(label_map(*values), case="c", location="case c: label")
    assert image.GetPixelID() == sitk.sitkUInt8
    assert image.GetSpacing() == (0.5, 0.6, 3.0)
    return [int(v) for v in sitk.GetArrayFromImage(image).ravel()[: len(values)]]


def mask(*places: int) -> NDArray[np.bool_]:
    found = np.zeros(SHAPE, bool)
    found.ravel()[list(places)] = True
    return found


def combined(found: LabelMapping, **masks: NDArray[np.bool_]) -> list[int]:
    named = {name.replace("_", " "): drawn for name, drawn in masks.items()}
    image = found.combine(named, label_map(), case="c", location="case c: label")
    return [int(v) for v in sitk.GetArrayFromImage(image).ravel()[:6]]


def refused(call: Any, *args: Any, **masks: Any) -> str:
    with pytest.raises(ScanError) as caught:
        call(*args, **masks)
    return f"{caught.value.problem.rule}: {caught.value}"


def test_a_site_without_labels_speaks_the_studys_numbers() -> None:
    for found in (mapping(), study_mapping(ORGANS)):
        assert translated(found, 0, 1, 2, 3) == [0, 1, 2, 3]
        assert found.annotated_in("c") == set(ORGANS)


def test_a_sites_own_numbers_are_mapped() -> None:
    found = mapping(
        labels={"bladder": (7,), "prostate": ("PROSTATA", 3, 4), "rectum": (1,)},
        ignored_labels=(9,),
    )
    assert translated(found, 7, 3, 4, 1, 9, 0) == [1, 2, 2, 3, 0, 0]
    # The study's own number of the prostate is not the site's.
    message = refused(translated, found, 2)
    assert message.startswith(
        "values: case c: label holds the values 2, allowed are 0 and bladder=7"
    )
    assert "(a site's file has `labels` and" in message


def test_without_a_sites_file_the_organs_are_to_be_mended() -> None:
    assert refused(translated, study_mapping(ORGANS), 7) == (
        "values: case c: label holds the values 7, allowed are 0 and bladder=1, prostate=2, "
        "rectum=3; name every value by --organs, or in the study or dataset.json"
    )


def test_names_alone_leave_the_studys_numbers() -> None:
    found = mapping(labels={organ: (organ.upper(),) for organ in ORGANS})
    assert translated(found, 1, 2, 3) == [1, 2, 3]


def test_unannotated_organs_may_not_appear() -> None:
    found = mapping(not_annotated=("rectum",), undrawn={"c": ("bladder",)})
    assert found.annotated_in("c") == {"prostate"}
    assert found.annotated_in("d") == {"prostate", "bladder"}
    assert translated(found, 2) == [2]
    assert refused(translated, found, 2, 3).startswith("organ: case c: label holds rectum, which")


def test_an_organ_of_another_study_is_no_organ_here() -> None:
    found = mapping(
        labels={"bladder": (1,), "prostate": (2,), "rectum": (3,), "vesicles": (4, "Vesicles")}
    )
    assert translated(found, 1, 4) == [1, 0]
    assert combined(found, bladder=mask(0), prostate=mask(1), rectum=mask(2), Vesicles=mask(3)) == [
        *(1, 2, 3, 0, 0, 0)
    ]


def test_structures_go_by_name_in_either_case() -> None:
    found = mapping(
        labels={"bladder": ("Blase",), "prostate": ("Prostata CTV",), "rectum": ("Rektum",)},
        ignored_labels=("PTV*",),
    )
    masks = {"BLASE": mask(0), "prostata_ctv": mask(1), "Rektum": mask(2), "BODY": mask(0, 1, 2, 3)}
    assert combined(found, **masks) == [1, 2, 3, 0, 0, 0]
    assert found.unused(["BLASE", "BODY", "PTV 60"]) == ["BODY"]


def test_a_missing_structure_is_refused_unless_declared() -> None:
    masks = {"bladder": mask(0), "prostate": mask(1)}
    message = refused(combined, mapping(), **masks)
    assert message.startswith("organ: case c: label holds no structure for rectum; draw it")
    assert "(it holds bladder, prostate)" in message
    assert combined(mapping(not_annotated=("rectum",)), **masks) == [1, 2, 0, 0, 0, 0]


def test_what_an_empty_structure_means_is_said_by_the_sites_file() -> None:
    masks = {"bladder": mask(0), "prostate": mask(1), "rectum": mask()}
    message = refused(combined, mapping(), **masks)
    assert message.startswith("organ: case c: label holds an empty structure for rectum, which")
    assert combined(mapping(empty_structures="absent"), **masks) == [1, 2, 0, 0, 0, 0]
    assert combined(mapping(undrawn={"c": ("rectum",)}), **masks) == [1, 2, 0, 0, 0, 0]

    found = mapping(empty_structures="undrawn", labels={o: (f"{o} 2",) for o in ORGANS})
    drawn = {"bladder": True, "prostate": True, "rectum": False, "BODY": True}
    assert found.annotated_in("c", drawn) == {"bladder", "prostate"}
    assert found.annotated_in("c", drawn | {"RECTUM 2": True}) == set(ORGANS)
    assert found.annotated_in("c") == mapping().annotated_in("c", drawn) == set(ORGANS)
    notes: list[str] = []
    image = found.combine(
        masks, label_map(), case="c", location="case c", drawn=drawn, note=notes.append
    )
    assert sitk.GetArrayFromImage(image).ravel()[:3].tolist() == [1, 2, 0]
    assert notes == ["rectum: its structure is empty, so it counts as not drawn in this case"]
    # Contours around no voxel's centre are no empty structure, and no organ either.
    message = refused(combined, found, **masks)
    assert message.startswith("organ: case c: label holds an empty structure for rectum, which")
    # Nothing is left of the label.
    with pytest.raises(ScanError, match="holds no organ at all; move its image to imagesUn"):
        found.combine(
            {}, label_map(), case="c", location="case c", drawn=dict.fromkeys(ORGANS, False)
        )


def test_two_structures_for_one_organ_are_refused() -> None:
    found = mapping(labels={"bladder": (), "prostate": ("Prostata",), "rectum": ()})
    names = ("bladder", "prostate", "Prostata", "rectum")
    masks = {name: mask(place) for place, name in enumerate(names)}
    message = refused(combined, found, **masks)
    assert message.startswith("values: case c: label holds 2 structures for prostate; keep one")
    # An empty one beside it, as templates of planning systems leave, says nothing.
    assert combined(found, **masks | {"prostate": mask()}) == [1, 0, 2, 3, 0, 0]


def test_a_shared_rim_goes_to_the_smaller_organ_and_more_is_refused() -> None:
    large, small = mask(*range(40)), mask(*range(39, 60))
    found = mapping(not_annotated=("rectum",))
    image = found.combine(
        {"bladder": large, "prostate": small}, label_map(), case="c", location="case c"
    )
    array = sitk.GetArrayFromImage(image).ravel()
    assert (array[38], array[39], array[59]) == (1, 2, 2)
    message = refused(combined, found, bladder=large, prostate=mask(*range(36, 57)))
    assert message.startswith(
        "overlap: case c: label: prostate and bladder share 4 voxels, more than"
    )


def test_every_mistake_of_the_file_at_once() -> None:
    with pytest.raises(ProtocolError) as caught:
        mapping(
            labels={"bladder": (1, "Blase"), "prostat": (1, 2), "rectum": ("blase", 9)},
            ignored_labels=(9,),
            not_annotated=("colon",),
            undrawn={"c": ("uterus",)},
        )
    message = str(caught.value).splitlines()
    assert all(line.startswith("A.yaml: ") for line in message)
    for words in (
        "'colon' is no organ",
        "'uterus' is no organ",
        "1 is both bladder and prostat",
        "'blase' is both bladder and rectum",
        "9 is rectum and in ignored_labels",
        "does not name prostate",
    ):
        assert any(words in line for line in message), words
    assert len(message) == 6
