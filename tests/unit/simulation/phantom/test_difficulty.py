"""Intensity and position alone must not find the rectum: shape has to be learnt."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from simulation.phantom.cohort import make_cohort

Array = NDArray[np.float64]
Labels = NDArray[np.uint8]
Classifier = Callable[[Array], Labels]
COUNTS = {"A": (15, 0), "B": (12, 0), "C": (10, 0), "D": (8, 0)}  # 35 to train, 10 to test
VOXEL_MM = 4.0
CLASSES = 4
BINS = 14
LEVELS = 12


def load(folder: Path, name: str) -> tuple[Array, Labels]:
    """Rows (z-scored intensity, position from 0 to 1 by axis), in patient order; and labels."""
    image, label = (
        sitk.GetArrayFromImage(
            sitk.DICOMOrient(sitk.ReadImage(str(folder / part / f"{name}.nii.gz")), "LPS")
        )
        for part in ("imagesTr", "labelsRef")
    )
    place = np.meshgrid(*(np.linspace(0, 1, n) for n in image.shape), indexing="ij")
    score = (image - image.mean()) / image.std()
    return np.stack([score, *place], -1).reshape(-1, 4), label.ravel()


def gaussian(x: Array, y: Labels) -> Classifier:
    """Gaussian naive Bayes."""
    stats = [(x[y == k].mean(0), x[y == k].std(0), np.mean(y == k)) for k in range(CLASSES)]

    def classify(points: Array) -> Labels:
        scores = [
            np.log(prior) - (((points - mean) / sd) ** 2).sum(1) / 2 - np.log(sd).sum()
            for mean, sd, prior in stats
        ]
        return np.argmax(scores, 0).astype(np.uint8)

    return classify


def histogram(x: Array, y: Labels) -> Classifier:
    """Smoothed counts over intensity and place: about the best that these features can do."""
    edges = np.quantile(x[:, 0], np.linspace(0, 1, LEVELS + 1)[1:-1])

    def cells(points: Array) -> tuple[NDArray[np.intp], ...]:
        places = np.minimum((points[:, 1:] * BINS).astype(np.intp), BINS - 1)
        return np.searchsorted(edges, points[:, 0]), *places.T

    counts = np.zeros((CLASSES, LEVELS, BINS, BINS, BINS))
    np.add.at(counts, (y, *cells(x)), 1)
    counts = gaussian_filter(counts, (0, 0.7, 0.8, 0.8, 0.8))

    def classify(points: Array) -> Labels:
        return counts[(slice(None), *cells(points))].argmax(0).astype(np.uint8)

    return classify


def mean_dsc(classify: Classifier, cases: Sequence[tuple[Array, Labels]], organ: int) -> float:
    scores = []
    for x, y in cases:
        found, true = classify(x) == organ, y == organ
        scores.append(2 * np.sum(found & true) / (found.sum() + true.sum()))
    return float(np.mean(scores))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Array, Labels]]:
    folder = tmp_path_factory.mktemp("difficulty") / "cohort"
    manifest = make_cohort(folder, voxel_mm=VOXEL_MM, counts=COUNTS, workers=2)
    return [load(folder, case.name) for case in manifest.cases]


def test_intensity_and_position_do_not_find_the_rectum(cases: list[tuple[Array, Labels]]) -> None:
    held_out = set(range(2, 45, 9)) | set(range(6, 45, 9))  # ten, of all sites
    train = [case for i, case in enumerate(cases) if i not in held_out]
    test = [case for i, case in enumerate(cases) if i in held_out]
    assert (len(train), len(test)) == (35, 10)
    x, y = np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train])
    best = 0.0
    for fit in (gaussian, histogram):
        classify = fit(x, y)
        # A working classifier: the bladder is bright and on top.
        assert mean_dsc(classify, test, organ=1) > 0.3
        best = max(best, mean_dsc(classify, test, organ=3))
    # Well above zero: it looks at the rectum, and would notice if that became easy.
    assert 0.1 < best < 0.6
