"""One site's cases, ready for the networks: layout, cache, and patches drawn from them."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from client.data.cache import CachedCase, cached_cases
from client.data.case import Part
from client.data.declaration import declare
from client.data.errors import (
    Problem,
    ScanError,
)
from client.data.folder.layout import LayoutError, survey_folder
from client.data.folder.survey import Refusal
from client.data.labels.label_map import site_mapping
from client.data.leakage import LeakageCheck
from protocol.config.schedule import OrganBox
from protocol.config.site import SiteConfig
from protocol.config.study import DataRequirements, StudyProtocol
from protocol.wire.reports import SiteFacts

log = logging.getLogger(__name__)

# By cache key: the site's own labels of its unlabelled scans, (X, Y, Z) on the study's grid.
PseudoLabels = Mapping[str, NDArray[np.uint8]]


# The sum of organ boxes, the DSC that are expected of unlabelled scans, and how a round compares
# with its supervised twin, among the quantities that are organs by name.
BOX, EXPECTED, TWIN = "", ".expected", ".twin"


@dataclass(frozen=True, kw_only=True)
class SiteData:
    """A site's cases by part, all of them readable and on the study's grid.

    Attributes:
        refused: What is not used, and why; the site's own affair but for how many by rule.
        excluded: How many cases the site's file leaves out.
        released: By quantity (an organ, BOX, EXPECTED or TWIN), cache keys of the cases that may
            stand behind what leaves, in blocks that leave whole or not at all (`blocks.py`); None:
            all, as one block, but no unlabelled scans.
    """

    labelled: tuple[CachedCase, ...]
    unlabelled: tuple[CachedCase, ...]
    validation: tuple[CachedCase, ...]
    test: tuple[CachedCase, ...]
    refused: tuple[Refusal, ...] = ()
    excluded: int = 0
    released: Mapping[str, tuple[frozenset[str], ...]] | None = None

    def declared(self, config: SiteConfig, organs: Collection[str]) -> SiteFacts:
        """What a site of these cases declares, where nothing has left before: in no federation."""
        return declare(
            config,
            organs,
            labelled=self.labelled,
            unlabelled=len(self.unlabelled),
            validation=len(self.validation),
            test=len(self.test),
            refused={},
            excluded=self.excluded,
        )

    def standing_in(self) -> list[list[CachedCase]]:
        """Unlabelled scans whose expected DSC stand in for scores, block by block."""
        if self.released is None:
            return []
        return self.blocks(EXPECTED, self.unlabelled)

    def blocks(self, quantity: str, cases: Sequence[CachedCase]) -> list[list[CachedCase]]:
        """Those of a part's cases that may stand behind a quantity, block by block."""
        if self.released is None:
            return [list(cases)]
        keys = {case.key for case in cases}
        return [
            [case for case in cases if case.key in block]
            for block in self.released.get(quantity, ())
            if block <= keys
        ]


def prepare_site(config: SiteConfig, protocol: StudyProtocol, *, strict: bool = True) -> SiteData:
    """Every case of the site, checked and cached.

    Args:
        config: The site.
        protocol: The study; its requirements say which share of the cases may be refused.
        strict: False: give what can be used, however much is refused.

    Raises:
        LayoutError: With every mistake of every case, where more is refused than the study's
            requirements allow; no case is dropped in silence.
        ProtocolError: The site's file does not fit the study.
        CacheError: If the cache cannot be written, or has no room for the study by the site's
            limits; then nothing was resampled.
    """
    site_mapping(config, protocol.organs)
    survey = survey_folder(config.data, config)
    leakage = LeakageCheck(config, survey.cases, survey.unused)
    parts: dict[Part, list[CachedCase]] = {part: [] for part in get_args(Part)}
    for case, cached in cached_cases(survey.cases, config, protocol):
        if isinstance(cached, ScanError):
            problem: Problem | None = cached.problem
        else:
            problem = leakage.problem(case, cached.facts["voxel_hash"])
            if problem is None:
                parts[case.part].append(cached)
        if problem is not None:
            survey.refused.append(Refusal(case=case.name, part=case.part, problem=problem))
    used = sum(len(cases) for cases in parts.values())
    if strict and not tolerable(survey.refused, used, protocol.contract):
        raise LayoutError(str(refusal.problem) for refusal in survey.refused)
    for refusal in survey.refused:
        log.warning("not used: %s", refusal.problem)
    return SiteData(
        labelled=tuple(parts["labelled"]),
        unlabelled=tuple(parts["unlabelled"]),
        validation=tuple(parts["validation"]),
        test=tuple(parts["test"]),
        refused=tuple(survey.refused),
        excluded=len(survey.excluded),
    )


def tolerable(refused: Sequence[Refusal], used: int, requirements: DataRequirements) -> bool:
    """Whether a site may take part although some of its cases are refused."""
    about_cases = [refusal for refusal in refused if refusal.case]
    if len(about_cases) < len(refused):
        return False
    return requirements.tolerates(len(refused), used)


class PatchSampler:
    """Draws patches; the same generator state gives the same patches.

    Args:
        protocol: Patch size and the share of organ-centred patches.
        rng: The only source of randomness.
        organ_box: Where organs lie in scans without labels, as fractions of the scan.

    Attributes:
        drawn: Cache keys of the cases that labelled and unlabelled patches are from, in order.
    """

    def __init__(
        self, protocol: StudyProtocol, rng: np.random.Generator, organ_box: OrganBox | None
    ) -> None:
        self.drawn: dict[str, list[str]] = {"labelled": [], "unlabelled": []}
        self._patch = np.array(protocol.patch_voxels)
        self._organs = protocol.organ_names
        self._organ_fraction = protocol.training.organ_patch_fraction
        self._rng = rng
        self._box = organ_box

    def labelled(
        self, cases: Sequence[CachedCase], count: int, edges: NDArray[np.int_] | None = None
    ) -> LabelledBatch:
        """Two thirds centred on an organ drawn uniformly from those present, the rest anywhere.

        Args:
            cases: To draw from.
            count: Patches.
            edges: Voxels of the cuts, where more of the scan is wanted around each patch.
        """
        images, labels, drawn = [], [], []
        for _ in range(count):
            case = cases[int(self._rng.integers(len(cases)))]
            self.drawn["labelled"].append(case.key)
            centre = self._organ_centre(case)
            drawn.append(case.annotated)
            images.append(self._cut(case.image, centre, case.lowest, edges))
            assert case.label is not None
            labels.append(self._cut(case.label, centre, 0, edges))
        return LabelledBatch(
            image=_stack(images), label=_stack(labels), unannotated=self._unannotated(drawn)
        )

    def unlabelled(
        self,
        cases: Sequence[CachedCase],
        count: int,
        pseudo: PseudoLabels | None = None,
        edges: NDArray[np.int_] | None = None,
    ) -> UnlabelledBatch:
        """The same proportions, the organ's place taken from the labelled sites' mean box.

        Without it the classes' prevalence would differ between the two kinds of patch.  Where
        pseudo-labels are given, each is cut from the image's place; which place, they don't say.
        """
        images, labels = [], []
        for _ in range(count):
            case = cases[int(self._rng.integers(len(cases)))]
            self.drawn["unlabelled"].append(case.key)
            shape = np.array(case.image.shape)
            if self._box is not None and self._rng.random() < self._organ_fraction:
                low, high = np.array(self._box[:3]), np.array(self._box[3:])
                centre = ((low + self._rng.random(3) * (high - low)) * shape).astype(int)
            else:
                centre = self._rng.integers(shape)
            images.append(self._cut(case.image, centre, case.lowest, edges))
            if pseudo is not None:
                labels.append(self._cut(pseudo[case.key], centre, 0, edges))
        return UnlabelledBatch(
            image=_stack(images), pseudo_label=_stack(labels) if pseudo is not None else None
        )

    def _unannotated(self, drawn: Sequence[frozenset[str]]) -> Tensor | None:
        """(B, C), True for the organs that are not drawn; None where all are."""
        missing = torch.tensor([[False, *(o not in of for o in self._organs)] for of in drawn])
        return missing if missing.any() else None

    def _organ_centre(self, case: CachedCase) -> NDArray[np.int_]:
        places = case.organ_places
        if places and self._rng.random() < self._organ_fraction:
            voxels = places[sorted(places)[self._rng.integers(len(places))]]
            chosen: NDArray[np.int_] = voxels[self._rng.integers(len(voxels))].astype(int)
            return chosen
        anywhere: NDArray[np.int_] = self._rng.integers(np.array(case.image.shape))
        return anywhere

    def _cut(
        self,
        array: NDArray[Any],
        centre: NDArray[np.int_],
        value: float,
        edges: NDArray[np.int_] | None,
    ) -> NDArray[Any]:
        """A patch around the centre, moved inside the scan, with as much around it as `edges` say.

        Beyond the scan is `value`; a scan shorter than the patch is in its middle.
        """
        edges = self._patch if edges is None else edges
        shape = np.array(array.shape)
        low = np.clip(centre - self._patch // 2, 0, np.maximum(shape - self._patch, 0))
        low = low - np.maximum(self._patch - shape, 0) // 2 - (edges - self._patch) // 2
        start, stop = np.maximum(low, 0), np.minimum(low + edges, shape)
        patch = np.asarray(array[_box(start, stop)])
        if patch.shape == tuple(edges):
            return patch
        padded = np.full(edges, value, array.dtype)
        padded[_box(start - low, stop - low)] = patch
        return padded


def _box(start: NDArray[np.int_], stop: NDArray[np.int_]) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in zip(start.tolist(), stop.tolist(), strict=True))


def _stack(patches: Sequence[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(patches)[:, None])
