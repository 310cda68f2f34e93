"""A scan of each site with both contours: reference solid, the model's prediction dashed."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.cache import cached_case
from client.data.case import Case
from client.data.entries import scan_files
from client.data.image_io import read_image
from client.data.label_file import read_label_map
from client.data.layout import find_cases
from client.training.evaluation import load_segmenter, predict_label_map
from protocol.config.site import SiteConfig, read_site
from protocol.config.study import StudyProtocol
from protocol.model_io import load_model
from reporting.figure_layout import side_by_side, stacked
from reporting.overlay import Contours, organ_centre, three_planes

_HEIGHT_PX, _COLUMNS = 220, 2


def draw_sites(result: Path, out: Path, withheld: Path | None) -> None:
    """Three planes a site with reference and predicted contours.

    Raises:
        ValueError: If a site has neither a test case nor an unlabelled one with a label.
    """
    protocol, weights, _ = load_model(result / "model" / "best")
    configs = [read_site(path) for path in sorted((result / "sites").glob("*.yaml"))]
    pictures = []
    for number, config in enumerate(configs):
        segmenter = load_segmenter(config, protocol, weights)
        case = _case(config, withheld)
        scan = read_image(case.image, case=case.name)
        assert case.label is not None
        reference = read_label_map(case.label, scan, protocol.organs, case=case.name)
        cached = cached_case(case, config.cache, protocol)
        predicted = sitk.GetImageFromArray(predict_label_map(segmenter, protocol, cached, scan))
        predicted.CopyInformation(scan)
        image, truth, prediction = (
            sitk.GetArrayFromImage(sitk.DICOMOrient(item, "LPS"))
            for item in (scan, reference, predicted)
        )
        _, y, x = organ_centre(truth)
        pictures.append(
            three_planes(
                image,
                sitk.DICOMOrient(scan, "LPS").GetSpacing(),
                [
                    Contours(label_zyx=truth, name="reference"),
                    Contours(label_zyx=prediction, style="dashed", name="federated ASDNet"),
                ],
                protocol.organs,
                height_px=_HEIGHT_PX,
                title=f"site {config.site}",
                centre_zyx=(_slice(truth, protocol), y, x),
                legend=number >= len(configs) - _COLUMNS,
            )
        )
    lines = [pictures[start : start + _COLUMNS] for start in range(0, len(pictures), _COLUMNS)]
    heights = [max(picture.height for picture in line) for line in lines]
    rows = [side_by_side(*pair, "", []) for pair in zip(lines, heights, strict=True)]
    stacked(rows).save(out, optimize=True)


def _case(config: SiteConfig, withheld: Path | None) -> Case:
    cases = find_cases(config.data, config)
    for case in cases:
        if case.part == "test":
            return case
    if withheld is None:
        raise ValueError(f"site {config.site} has no test case; give --withheld")
    labels = scan_files(withheld)
    for case in cases:
        if case.part == "unlabelled" and case.name in labels:
            return Case(name=case.name, part="test", image=case.image, label=labels[case.name])
    raise ValueError(
        f"site {config.site} has neither a test case nor an unlabelled one whose label is in"
        f" {withheld}; give --withheld the folder of such labels, or a result with test cases"
    )


def _slice(truth: NDArray[np.uint8], protocol: StudyProtocol) -> int:
    """The slice with most organs, and of those the one with most organ voxels."""
    counts = np.stack([(truth == v).sum((1, 2)) for v in protocol.organs.values()])
    return int(np.lexsort((counts.sum(0), (counts > 20).sum(0)))[-1])
