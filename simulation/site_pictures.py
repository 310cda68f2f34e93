"""A scan of each site with both contours: reference solid, the model's prediction dashed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL.Image import Image
from torch import nn

from client.data.cache import cached_case
from client.data.case import Case, Part
from client.data.errors import ScanError
from client.data.files.geometry import upright_view
from client.data.folder.entries import scan_files
from client.data.folder.layout import LayoutError, find_cases
from client.training.evaluation import load_segmenter, predict_label_map
from protocol.config.site import SiteConfig, read_site
from protocol.config.study import StudyProtocol
from protocol.files import atomic_file
from protocol.model_io import load_model
from reporting.figure_layout import side_by_side, stacked
from reporting.overlay import Contours, organ_centre, three_planes
from simulation.errors import StudyFolderError

_HEIGHT_PX, _COLUMNS = 220, 2
# What a site has the case for, where it is not a test case.
_WORDS: Mapping[Part, str] = {
    "test": "",
    "unlabelled": ", an unlabelled case",
    "validation": ", a validation case",
    "labelled": ", a training case",
}


def draw_sites(result: Path, out: Path, withheld: Path | None) -> list[str]:
    """Three planes a site with reference and predicted contours.

    Args:
        result: Folder of a simulated study.
        out: PNG to write.
        withheld: Labels of unlabelled cases, for sites without any label.

    Returns:
        Sites that are not drawn, because they have no label; a line each.

    Raises:
        StudyFolderError: If none can be drawn, or the folder is no result.
        LayoutError: If a scan or a label cannot be read; with all of them.
    """
    if not (result / "model" / "best").is_dir() or not (result / "sites").is_dir():
        raise StudyFolderError(f"{result}: is no result of a simulation (model/best, sites)")
    protocol, weights, _ = load_model(result / "model" / "best")
    configs = [read_site(path) for path in sorted((result / "sites").glob("*.yaml"))]
    drawn, mistakes = [], []
    for config in configs:
        try:
            if case := _case(config, withheld):
                drawn.append((config, case))
        except LayoutError as error:
            mistakes += [f"site {config.site}: {mistake}" for mistake in error.mistakes]
    if mistakes:
        raise LayoutError(mistakes)
    left = [
        f"site {config.site} has no case with a label; give --withheld the folder of labels of its"
        " unlabelled cases"
        for config in configs
        if config.site not in {of.site for of, _ in drawn}
    ]
    if not drawn:
        raise StudyFolderError("\n".join(left) or f"{result}: holds no site")
    pictures = []
    for number, (config, case) in enumerate(drawn):
        legend = number >= len(drawn) - _COLUMNS
        try:
            segmenter = load_segmenter(config, protocol, weights)
            pictures.append(_picture(config, case, segmenter, protocol, legend=legend))
        except ScanError as error:
            mistakes.append(f"site {config.site}: {error}")
    if mistakes:
        raise LayoutError(mistakes)
    lines = [pictures[start : start + _COLUMNS] for start in range(0, len(pictures), _COLUMNS)]
    heights = [max(picture.height for picture in line) for line in lines]
    rows = [side_by_side(*pair, "", []) for pair in zip(lines, heights, strict=True)]
    with atomic_file(out) as draft:
        stacked(rows).save(draft, "PNG", optimize=True)
    return left


def _picture(
    config: SiteConfig,
    case: Case,
    segmenter: nn.Module,
    protocol: StudyProtocol,
    *,
    legend: bool,
) -> Image:
    """Three planes of one case, titled with its site and what the site has it for."""
    scan = case.read_scan()
    reference = case.read_label(scan, protocol.organs)
    cached = cached_case(case, config.cache, protocol)
    predicted = sitk.GetImageFromArray(predict_label_map(segmenter, protocol, cached, scan))
    predicted.CopyInformation(scan)
    image, spacing_mm = upright_view(scan)
    truth, prediction = (upright_view(item)[0] for item in (reference, predicted))
    _, y, x = organ_centre(truth)
    return three_planes(
        image,
        spacing_mm,
        [
            Contours(label_zyx=truth, name="reference"),
            Contours(label_zyx=prediction, style="dashed", name="federated ASDNet"),
        ],
        protocol.organs,
        height_px=_HEIGHT_PX,
        title=f"site {config.site}{_WORDS[case.part]}",
        centre_zyx=(_slice(truth, protocol), y, x),
        legend=legend,
    )


def _case(config: SiteConfig, withheld: Path | None) -> Case | None:
    """A test case, else an unlabelled one with a withheld label, else one that is trained with."""
    cases = find_cases(config.data, config)
    of_part = {part: [case for case in cases if case.part == part] for part in get_args(Part)}
    if of_part["test"]:
        return of_part["test"][0]
    labels = scan_files(withheld) if withheld else {}
    for case in of_part["unlabelled"]:
        if case.name in labels:
            return replace(case, label=labels[case.name], site=None)
    others = [*of_part["validation"], *of_part["labelled"]]
    return others[0] if others else None


def _slice(truth: NDArray[np.uint8], protocol: StudyProtocol) -> int:
    """The slice with most organs, and of those the one with most organ voxels."""
    counts = np.stack([(truth == v).sum((1, 2)) for v in protocol.organs.values()])
    return int(np.lexsort((counts.sum(0), (counts > 20).sum(0)))[-1])
