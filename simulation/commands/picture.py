"""`asdnet-sim picture RESULT OUT.png`: a scan of each site with both contours.

The axial slice that shows most organs of one test case a site (an unlabelled case where the site
has none): reference solid, the model's prediction dashed.
"""

from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import numpy as np
import SimpleITK as sitk
import typer
from numpy.typing import NDArray

from client.data.cache import cached_case
from client.data.case import Case
from client.data.entries import scan_files
from client.data.image_io import (
    read_image,
    read_label_map,
)
from client.data.layout import find_cases
from client.training.evaluation import load_segmenter, predict_label_map
from protocol.config.site import SiteConfig, read_site
from protocol.config.study import StudyProtocol
from protocol.model_io import load_model

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

_COLOURS = ("#33bbee", "#eecc33", "#ee5599", "#44cc66", "#ff8844")


def picture(
    result: Annotated[Path, typer.Argument(help="Result folder of a simulation.")],
    out: Annotated[Path, typer.Argument(help="PNG to write.")],
    withheld: Annotated[
        Path | None, typer.Option(help="Labels of unlabelled cases, for sites without any.")
    ] = None,
) -> None:
    """Draw one slice a site with reference and predicted contours."""
    protocol, weights, _ = load_model(result / "model" / "best")
    configs = [read_site(path) for path in sorted((result / "sites").glob("*.yaml"))]
    figure, axes = plt.subplots(2, -(-len(configs) // 2), figsize=(11, 6.6), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, config in zip(axes.flat, configs, strict=False):
        segmenter = load_segmenter(config, protocol, weights)
        case = _case(config, withheld)
        scan = read_image(case.image, case=case.name)
        assert case.label is not None
        reference = read_label_map(case.label, scan, protocol.organs, case=case.name)
        cached = cached_case(case, config.cache, protocol)
        predicted = sitk.GetImageFromArray(predict_label_map(segmenter, protocol, cached, scan))
        predicted.CopyInformation(scan)
        _draw(axis, scan, reference, predicted, protocol)
        axis.set_title(f"site {config.site}", fontsize=11)
    handles = [
        Line2D([], [], color=colour, label=organ)
        for organ, colour in zip(protocol.organ_names, _COLOURS, strict=False)
    ]
    handles += [
        Line2D([], [], color="0.3", label="reference"),
        Line2D([], [], color="0.3", linestyle="--", label="federated ASDNet"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(out, dpi=90)


def _case(config: SiteConfig, withheld: Path | None) -> Case:
    cases = find_cases(config.data, config)
    for case in cases:
        if case.part == "test":
            return case
    if withheld is None:
        raise typer.BadParameter(f"site {config.site} has no test case; give --withheld")
    labels = scan_files(withheld)
    first = next(case for case in cases if case.part == "unlabelled" and case.name in labels)
    return Case(name=first.name, part="test", image=first.image, label=labels[first.name])


def _draw(
    axis: Axes,
    scan: sitk.Image,
    reference: sitk.Image,
    predicted: sitk.Image,
    protocol: StudyProtocol,
) -> None:
    image, truth, found = (
        sitk.GetArrayFromImage(sitk.DICOMOrient(item, "LPS"))
        for item in (scan, reference, predicted)
    )
    spacing = sitk.DICOMOrient(scan, "LPS").GetSpacing()
    level = _slice(truth, protocol)
    axis.imshow(
        image[level],
        cmap="gray",
        vmax=float(np.percentile(image, 99.7)),
        aspect=spacing[1] / spacing[0],
    )
    for organ, colour in zip(protocol.organ_names, _COLOURS, strict=False):
        value = protocol.organs[organ]
        for label, style in ((truth, "-"), (found, "--")):
            if (label[level] == value).any():
                axis.contour(
                    label[level] == value, [0.5], colors=colour, linestyles=style, linewidths=1.3
                )


def _slice(truth: NDArray[np.uint8], protocol: StudyProtocol) -> int:
    """The slice with most organs, and of those the one with most organ voxels."""
    counts = np.stack([(truth == v).sum((1, 2)) for v in protocol.organs.values()])
    return int(np.lexsort((counts.sum(0), (counts > 20).sum(0)))[-1])
