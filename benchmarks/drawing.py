"""Scans of noise, and one batch of them: as a round draws it, and as MONAI's data sets do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from monai.data import list_data_collate
from monai.transforms import (
    ClassesToIndicesd,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandCropByLabelClassesd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
)

from client.data.cache import CachedCase
from client.data.case import Case
from client.data.dataset import PatchSampler
from client.training.augmentation import RandomViews
from client.training.strong_views import turned_about
from protocol.config.study import StudyProtocol

KEYS = ("image", "label")

Job = Callable[[], object]


def write_scans(folder: Path, count: int, voxels: tuple[int, int, int]) -> list[CachedCase]:
    """Entries as client/data/cache.py writes them, of noise with three boxes in it."""
    cases = []
    for number in range(count):
        entry = folder / f"{number:03d}"
        entry.mkdir(parents=True)
        rng = np.random.default_rng(number)
        label = np.zeros(voxels, np.uint8)
        places = {}
        for organ in (1, 2, 3):
            label[20 * organ : 20 * organ + 20, 30:60, 10:40] = organ
            positions = np.argwhere(label == organ).astype(np.int32)
            places[str(organ)] = positions[np.linspace(0, len(positions) - 1, 4096).astype(int)]
        np.save(entry / "image.npy", rng.standard_normal(voxels, np.float32))
        np.save(entry / "label.npy", label)
        np.save(entry / "places.npy", np.concatenate(list(places.values())))
        facts = {
            "annotated": ["bladder", "prostate", "rectum"],
            "lowest": 0.0,
            "organ_box": None,
            "organ_places": {organ: len(voxels) for organ, voxels in places.items()},
        }
        (entry / "facts.json").write_text(json.dumps(facts))
        cases.append(cached_entry(entry))
    return cases


def cached_entry(entry: Path) -> CachedCase:
    """A case for the sampler, which asks it for its cache entry alone."""
    return CachedCase(cast(Case, None), entry)


def our_draw(cases: Sequence[CachedCase], protocol: StudyProtocol) -> Job:
    """One batch as a round draws it, with the study's views."""
    rng = np.random.default_rng(protocol.seed)
    sampler = PatchSampler(protocol, rng, None)
    count = protocol.training.batch_size

    def draw() -> object:
        views = RandomViews(protocol, count, rng)
        batch = sampler.labelled(cases, count, views.edges)
        return views.of(batch.image, batch.label)

    return draw


def monai_draw(dataset: Any, count: int) -> Job:
    """One batch of a MONAI data set, its cases drawn likewise."""
    rng = np.random.default_rng(1)

    def draw() -> object:
        return list_data_collate([dataset[int(rng.integers(len(dataset)))] for _ in range(count)])

    return draw


def monai_steps(protocol: StudyProtocol) -> Compose:
    """Reading and the classes' places are kept by the data set; cropping and views are not."""
    classes = protocol.classes
    steps: list[Any] = [
        LoadImaged(keys=KEYS, reader="NumpyReader"),
        EnsureChannelFirstd(keys=KEYS, channel_dim="no_channel"),
        ClassesToIndicesd(keys="label", num_classes=classes),
        RandCropByLabelClassesd(
            keys=KEYS,
            label_key="label",
            indices_key="label_cls_indices",
            spatial_size=protocol.patch_voxels,
            ratios=[1 / 3, *[2 / 3 / (classes - 1)] * (classes - 1)],
            num_classes=classes,
        ),
    ]
    if protocol.training.views == "weak":
        steps += _weak_steps()
    elif protocol.training.views == "strong":
        steps += _strong_steps(protocol)
    return Compose(steps)


def _weak_steps() -> list[Any]:
    return [
        RandFlipd(keys=KEYS, prob=0.5, spatial_axis=0),
        RandAffined(
            keys=KEYS,
            prob=1.0,
            rotate_range=(0.0, 0.0, 0.1745),
            scale_range=(0.1, 0.1, 0.1),
            mode=("bilinear", "nearest"),
            padding_mode=("border", "zeros"),
        ),
        RandAdjustContrastd(keys="image", prob=1.0, gamma=(0.74, 1.35)),
        RandGaussianNoised(keys="image", prob=1.0, std=0.1),
    ]


def _strong_steps(protocol: StudyProtocol) -> list[Any]:
    """As `client/training/strong_views.py`, but that MONAI turns the patch as it was cropped."""
    turned = turned_about(protocol)
    sd = ((0.5, 1.0), (0.5, 1.0), (0.5, 1.0))
    return [
        RandFlipd(keys=KEYS, prob=0.5, spatial_axis=0),
        RandAffined(
            keys=KEYS,
            prob=1 - 0.8**2,
            rotate_range=[0.5236 if axis in turned else 0.0 for axis in range(3)],
            scale_range=[(-0.3, 0.4)] * 3,
            mode=("bilinear", "nearest"),
            padding_mode=("border", "zeros"),
        ),
        RandBiasFieldd(keys="image", degree=3, coeff_range=(-0.5, 0.5), prob=0.5),
        RandGaussianNoised(keys="image", prob=0.1, std=0.1),
        RandGaussianSmoothd("image", *sd, prob=0.2),
        RandScaleIntensityd(keys="image", prob=0.15, factors=0.25),
        RandScaleIntensityFixedMeand(keys="image", prob=0.15, factors=0.25, preserve_range=True),
        RandSimulateLowResolutiond(keys="image", prob=0.25, zoom_range=(0.5, 1.0)),
        RandAdjustContrastd("image", 0.1, (0.7, 1.5), invert_image=True, retain_stats=True),
        RandAdjustContrastd("image", 0.3, (0.7, 1.5), retain_stats=True),
    ]


def files_of(cases: Sequence[CachedCase]) -> list[dict[str, str]]:
    """The cases as MONAI's data sets take them."""
    return [{key: str(case.folder / f"{key}.npy") for key in KEYS} for case in cases]
