"""A site's cases and the patches drawn from them."""

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from client.data.dataset import (
    PatchSampler,
    prepare_site,
)
from client.data.folder.layout import LayoutError
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]
# Every voxel holds its own index, so that a patch says where it was cut.
SHAPE = (40, 36, 20)


def indexed(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def case_of(
    shape: tuple[int, int, int],
    places: dict[int, list[list[int]]] | None = None,
    drawn: Collection[str] = ("ball", "rod"),
) -> Any:
    label = np.zeros(shape, np.uint8)
    for value, voxels in (places or {}).items():
        label[tuple(np.array(voxels).T)] = value
    return SimpleNamespace(
        key="case",
        image=indexed(shape),
        label=label,
        lowest=-7.0,
        annotated=frozenset(drawn),
        organ_places={
            value: np.array(voxels, np.int32) for value, voxels in (places or {}).items()
        },
    )


def corner(patch: torch.Tensor, shape: tuple[int, int, int]) -> NDArray[np.int_]:
    return np.array(np.unravel_index(int(patch[0, 0, 0, 0]), shape))


def sampler(protocol: StudyProtocol, seed: int = 0, box: Any = None) -> PatchSampler:
    return PatchSampler(protocol, np.random.default_rng(seed), box)


def test_the_same_seed_draws_the_same_patches(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    data = prepare_site(make_site(labelled=2, unlabelled=2), protocol)

    def drawn(seed: int) -> list[torch.Tensor]:
        source = sampler(protocol, seed, (0.2, 0.2, 0.2, 0.7, 0.7, 0.7))
        batch = source.labelled(data.labelled, 4)
        return [batch.image, batch.label, source.unlabelled(data.unlabelled, 4).image]

    assert all(torch.equal(a, b) for a, b in zip(drawn(1), drawn(1), strict=True))
    assert not torch.equal(drawn(1)[0], drawn(2)[0])
    assert [tuple(item.shape) for item in drawn(1)] == [(4, 1, 16, 16, 16)] * 3


def test_patches_lie_inside_and_image_and_label_match(make_protocol: MakeProtocol) -> None:
    case = case_of(SHAPE, {1: [[0, 0, 0]], 2: [[39, 35, 19]]})
    batch = sampler(make_protocol()).labelled([case], 60)
    for image, label in zip(batch.image, batch.label, strict=True):
        start = corner(image, SHAPE)
        assert (start + 16 <= SHAPE).all()
        cut = tuple(slice(a, a + 16) for a in start)
        np.testing.assert_array_equal(image[0].numpy(), case.image[cut])
        np.testing.assert_array_equal(label[0].numpy(), case.label[cut])


def test_small_scans_are_padded_evenly_with_air(make_protocol: MakeProtocol) -> None:
    case = case_of((10, 16, 5), {1: [[4, 4, 2]]})
    batch = sampler(make_protocol()).labelled([case], 3)
    image = batch.image[0, 0].numpy()
    np.testing.assert_array_equal(image[3:13, :, 5:10], case.image)
    assert (image[:3] == -7).all() and (image[13:] == -7).all()
    assert (image[:, :, :5] == -7).all() and (image[:, :, 10:] == -7).all()
    assert batch.label.sum() == 3


def test_two_thirds_of_the_patches_centre_on_an_organ(make_protocol: MakeProtocol) -> None:
    case = case_of(SHAPE, {1: [[20, 18, 10]], 2: [[10, 18, 10]]})
    batch = sampler(make_protocol()).labelled([case], 900)
    starts = np.array([corner(image, SHAPE) for image in batch.image])
    ball = (starts == (12, 10, 2)).all(1).mean()
    rod = (starts == (2, 10, 2)).all(1).mean()
    # A binomial of 900 at 1/3 has a standard deviation of .016.
    assert ball == pytest.approx(1 / 3, abs=0.06)
    assert rod == pytest.approx(1 / 3, abs=0.06)


def test_a_label_without_an_organ_is_drawn_from_anywhere(make_protocol: MakeProtocol) -> None:
    batch = sampler(make_protocol()).labelled([case_of(SHAPE)], 40)
    assert len({tuple(corner(image, SHAPE)) for image in batch.image}) > 20
    assert not batch.label.any()


def test_unlabelled_patches_come_from_the_organ_box(make_protocol: MakeProtocol) -> None:
    box = (0.5, 0.5, 0.4, 0.6, 0.7, 0.6)
    protocol = make_protocol(training={"organ_patch_fraction": 1.0})
    images = sampler(protocol, 0, box).unlabelled([case_of(SHAPE)], 200).image
    centres = np.array([corner(image, SHAPE) for image in images]) + 8
    low, high = np.array(box[:3]) * SHAPE, np.array(box[3:]) * SHAPE
    # The thin axis is clipped so that the patch stays inside.
    assert (centres[:, :2] >= np.floor(low[:2])).all()
    assert (centres[:, :2] <= high[:2]).all()
    assert centres[:, 0].min() < centres[:, 0].max()
    free = sampler(protocol, 0).unlabelled([case_of(SHAPE)], 200).image
    spread = np.array([corner(image, SHAPE) for image in free])[:, 0]
    assert spread.min() == 0 and spread.max() == SHAPE[0] - 16


def test_parts_are_kept_apart(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    data = prepare_site(make_site(labelled=3, unlabelled=2, validation=1, test=2), make_protocol())
    counts = [len(p) for p in (data.labelled, data.unlabelled, data.validation, data.test)]
    assert counts == [3, 2, 1, 2]
    assert all(case.label is None for case in data.unlabelled)
    assert all(case.label is not None for case in data.test)


def test_a_scan_that_is_there_twice_is_refused(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_site(labelled=1, test=1)
    source = config.data / "imagesTr" / "patient-labelled-0.nii.gz"
    copy = config.data / "imagesUn" / "copy.mha"
    copy.parent.mkdir()
    sitk.WriteImage(sitk.ReadImage(str(source)), str(copy))
    with pytest.raises(LayoutError) as caught:
        prepare_site(config, make_protocol())
    assert caught.value.mistakes == (
        "unlabelled case copy: the same scan as one of the labelled cases; keep one of the two"
        " (case patient-labelled-0)",
    )


def test_all_mistakes_of_all_cases_at_once(
    make_site: MakeSite, make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    config = make_site(labelled=3, unlabelled=2)
    images, labels = config.data / "imagesTr", config.data / "labelsTr"
    (images / "patient-labelled-0.nii.gz").write_bytes(b"not a scan")
    label = sitk.ReadImage(str(labels / "patient-labelled-1.nii.gz"))
    sitk.WriteImage(label * 4, str(labels / "patient-labelled-1.nii.gz"))
    unlabelled = config.data / "imagesUn"
    shutil.copy(unlabelled / "patient-unlabelled-0.nii.gz", unlabelled / "twin.nii.gz")
    with pytest.raises(LayoutError) as caught:
        prepare_site(config, make_protocol())
    mistakes = "\n".join(caught.value.mistakes)
    assert len(caught.value.mistakes) == 3
    for words in ("patient-labelled-0", "patient-labelled-1", "twin"):
        assert words in mistakes
    assert str(tmp_path) not in mistakes


def test_a_label_may_miss_an_organ(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config = make_site(labelled=1)
    path = config.data / "labelsTr" / "patient-labelled-0.nii.gz"
    label = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.Cast(label == 2, sitk.sitkUInt8) * 2, str(path))
    data = prepare_site(config, make_protocol())
    assert set(data.labelled[0].organ_places) == {1}
    batch = sampler(make_protocol()).labelled(data.labelled, 8)
    assert set(torch.unique(batch.label).tolist()) == {0, 1}


@pytest.mark.parametrize("shape", [SHAPE, (10, 16, 5)])
def test_a_pseudo_label_is_cut_where_its_image_is(
    make_protocol: MakeProtocol, shape: tuple[int, int, int]
) -> None:
    cases = [case_of(shape), case_of(shape)]
    cases[0].key, cases[1].key = "one", "two"
    cases[1].image = cases[1].image + 1e5
    # Of each voxel the label is told by its image, and so it must stay.
    pseudo = {case.key: (case.image % 251).astype(np.uint8) for case in cases}
    box = (0.2, 0.2, 0.2, 0.7, 0.7, 0.7)
    batch = sampler(make_protocol(), 0, box).unlabelled(cases, 40, pseudo)
    assert batch.pseudo_label is not None
    assert batch.pseudo_label.dtype == torch.uint8
    inside = batch.image >= 0
    expected = torch.where(inside, batch.image % 251, 0).to(torch.uint8)
    assert torch.equal(batch.pseudo_label, expected)
    assert {bool((image >= 1e5).any()) for image in batch.image} == {False, True}


def test_pseudo_labels_do_not_change_which_patches_are_drawn(make_protocol: MakeProtocol) -> None:
    case = case_of(SHAPE)
    case.key = "one"
    plain = sampler(make_protocol()).unlabelled([case], 20)
    with_labels = sampler(make_protocol()).unlabelled([case], 20, {"one": case.label})
    assert plain.pseudo_label is None
    assert torch.equal(plain.image, with_labels.image)
