"""One site's cases, ready for the networks: contract, cache, and patches drawn from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asdnet_models.methods.common import LabelledBatch, UnlabelledBatch
from client.cache import CachedCase, cached_case
from client.contract import ContractError, Part, find_cases
from client.intact import ScanError
from protocol.schedule import OrganBox
from protocol.sites import SiteConfig
from protocol.study import StudyProtocol

# By cache key: the site's own labels of its unlabelled scans, (X, Y, Z) on the study's grid.
PseudoLabels = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class SiteData:
    """A site's cases by part, all of them readable and on the study's grid."""

    labelled: tuple[CachedCase, ...]
    unlabelled: tuple[CachedCase, ...]
    validation: tuple[CachedCase, ...]
    test: tuple[CachedCase, ...]


def prepare_site(config: SiteConfig, protocol: StudyProtocol) -> SiteData:
    """Every case of the site, checked and cached.

    Raises:
        ContractError: With every mistake of every case; no case is dropped in silence.
        CacheError: If the cache cannot be written.
    """
    parts: dict[Part, list[CachedCase]] = {
        "labelled": [],
        "unlabelled": [],
        "validation": [],
        "test": [],
    }
    mistakes: list[str] = []
    first_with: dict[str, str] = {}
    for case in find_cases(config.data):
        try:
            cached = cached_case(case, config.cache, protocol, not_annotated=config.not_annotated)
        except ScanError as error:
            mistakes.append(str(error))
            continue
        here = f"{case.part} case {case.name}"
        before = first_with.setdefault(cached.facts["voxel_hash"], here)
        if before != here:
            mistakes.append(f"{here}: the same scan as {before}; keep one of the two")
        parts[case.part].append(cached)
    if mistakes:
        raise ContractError(mistakes)
    return SiteData(**{part: tuple(cases) for part, cases in parts.items()})


def drawn_boxes(cases: Sequence[CachedCase], protocol: StudyProtocol) -> list[tuple[float, ...]]:
    """The organ boxes of the cases in which every organ is drawn: the others' are too small."""
    organs = set(protocol.organ_names)
    return [case.organ_box for case in cases if case.organ_box and case.annotated >= organs]


def count_drawn(cases: Sequence[CachedCase], organs: Iterable[str]) -> dict[str, int]:
    """In how many of the cases each organ is drawn."""
    return {organ: sum(organ in case.annotated for case in cases) for organ in organs}


class PatchSampler:
    """Draws patches; the same generator state gives the same patches.

    Args:
        protocol: Patch size and the share of organ-centred patches.
        rng: The only source of randomness.
        organ_box: Where organs lie in scans without labels, as fractions of the scan.
    """

    def __init__(
        self, protocol: StudyProtocol, rng: np.random.Generator, organ_box: OrganBox | None
    ) -> None:
        self._patch = np.array(protocol.patch_voxels)
        self._organs = protocol.organ_names
        self._organ_fraction = protocol.training.organ_patch_fraction
        self._rng = rng
        self._box = organ_box

    def labelled(self, cases: Sequence[CachedCase], count: int) -> LabelledBatch:
        """Two thirds centred on an organ drawn uniformly from those present, the rest anywhere."""
        images, labels, drawn = [], [], []
        for _ in range(count):
            case = cases[int(self._rng.integers(len(cases)))]
            centre = self._organ_centre(case)
            drawn.append(case.annotated)
            images.append(self._cut(case.image, centre, case.lowest))
            assert case.label is not None
            labels.append(self._cut(case.label, centre, 0))
        return LabelledBatch(
            image=_stack(images), label=_stack(labels), undrawn=self._undrawn(drawn)
        )

    def unlabelled(
        self, cases: Sequence[CachedCase], count: int, pseudo: PseudoLabels | None = None
    ) -> UnlabelledBatch:
        """The same proportions, the organ's place taken from the labelled sites' mean box.

        Without it the classes' prevalence would differ between the two kinds of patch.  Where
        pseudo-labels are given, each is cut from the image's place; which place, they don't say.
        """
        images, labels = [], []
        for _ in range(count):
            case = cases[int(self._rng.integers(len(cases)))]
            shape = np.array(case.image.shape)
            if self._box is not None and self._rng.random() < self._organ_fraction:
                low, high = np.array(self._box[:3]), np.array(self._box[3:])
                centre = ((low + self._rng.random(3) * (high - low)) * shape).astype(int)
            else:
                centre = self._rng.integers(shape)
            images.append(self._cut(case.image, centre, case.lowest))
            if pseudo is not None:
                labels.append(self._cut(pseudo[case.key], centre, 0))
        return UnlabelledBatch(
            image=_stack(images), pseudo_label=_stack(labels) if pseudo is not None else None
        )

    def _undrawn(self, drawn: Sequence[frozenset[str]]) -> Tensor | None:
        """(B, C), True for the organs that are not drawn; None where all are."""
        undrawn = torch.tensor([[False, *(o not in of for o in self._organs)] for of in drawn])
        return undrawn if undrawn.any() else None

    def _organ_centre(self, case: CachedCase) -> NDArray[np.int_]:
        places = case.organ_places
        if places and self._rng.random() < self._organ_fraction:
            voxels = places[sorted(places)[self._rng.integers(len(places))]]
            chosen: NDArray[np.int_] = voxels[self._rng.integers(len(voxels))].astype(int)
            return chosen
        anywhere: NDArray[np.int_] = self._rng.integers(np.array(case.image.shape))
        return anywhere

    def _cut(self, array: NDArray[Any], centre: NDArray[np.int_], pad: float) -> NDArray[Any]:
        """A patch around the centre, moved inside the scan; short edges are padded evenly."""
        shape = np.array(array.shape)
        start = np.clip(centre - self._patch // 2, 0, np.maximum(shape - self._patch, 0))
        stop = np.minimum(start + self._patch, shape)
        patch = np.asarray(array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))])
        missing = self._patch - (stop - start)
        if not missing.any():
            return patch
        widths = [(int(n) // 2, int(n) - int(n) // 2) for n in missing]
        padded: NDArray[Any] = np.pad(patch, widths, constant_values=pad)
        return padded


def _stack(patches: Sequence[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(patches)[:, None].copy())
