"""First preprocessing of a scan and the data check of a site, compared with MONAI's transforms."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from monai.transforms import (
    ClipIntensityPercentilesd,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Spacingd,
)

from asdnet_models import preprocessing
from asdnet_models.preprocessing import _filled, preprocess_image  # one step is measured alone
from benchmarks.common import Report, Row, Target, in_turn, replaced
from benchmarks.scans import SIZE_XYZ, Once, once, phantom
from client.data.files.image_io import read_image
from client.datacheck.site import check_site
from protocol.config.presets import preset
from protocol.config.site import SiteConfig

_TOPIC = "first preprocessing, .nii.gz at 1.5 mm to 256 x 256 x 144 at 1 mm"
_CHECK = "data check, cases of 256 x 256 x 144"
_MM = (1.0, 1.0, 1.0)
_FASTER, _MEMORY = 2.0, 0.5
_CASES, _OF, _SECONDS = 10, 70, 60.0
_MODULE = "benchmarks.preprocessing"
_OURS, _SAME, _MONAI = "ours", "ours, without the body mask", "MONAI, which has no body mask"
_WHO = (_OURS, _SAME, _MONAI)
_WHY = "the body mask, which MONAI is spared; the next line is of the same job"


def measure() -> Report:
    """Times in turn, peaks in children, and the costliest step before and after."""
    with tempfile.TemporaryDirectory() as folder:
        scan, label = phantom()
        path = _written(scan, Path(folder))
        rows = in_turn(_TOPIC, {who: prepare(who, str(path)) for who in _WHO}, ours=_OURS)
        taken = {who: once(_MODULE, who, str(path)) for who in _WHO}
        rows += _memory_rows(taken)
        text = _holes(preprocess_image(scan, _MM))
        checked = _check(scan, label, Path(folder))
    seconds_of = {row.who: row.value for row in rows[: len(_WHO)]}
    rows.append(Row(topic=_CHECK, who="ours", value=checked, unit="s a case", runs=1,
                    note=f"{_CASES} cases, two processes, no pictures"))  # fmt: skip
    targets = [
        target
        for who, why in ((_OURS, _WHY), (_SAME, "resampling and reading are most of it"))
        for target in _against_monai(who, seconds_of, taken, why)
    ]
    targets += [
        _target(_CHECK, f"{_OF} cases under {_SECONDS:g} s on two cores",
                f"{checked * _OF:.0f} s, from {_CASES}", checked * _OF < _SECONDS,
                "the machine was not idle, or inflating the files is all of it"),
    ]  # fmt: skip
    return Report(heading="Preprocessing", rows=rows, targets=targets, text=text)


def prepare(who: str, path: str) -> Callable[[], object]:
    """One implementation's job, for a child process."""
    return partial({_OURS: _ours, _SAME: _without_mask, _MONAI: _monai}[who], Path(path))


def _ours(path: Path) -> sitk.Image:
    return preprocess_image(read_image(path, case="1"), _MM)


def _without_mask(path: Path) -> sitk.Image:
    """The job that MONAI has transforms for: percentiles and SD are of all voxels."""
    with replaced(preprocessing, "body_mask", lambda array: np.ones(array.shape, bool)):
        return _ours(path)


def _monai(path: Path) -> object:
    keys = "image"
    return Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="LPS", labels=None),
            Spacingd(keys, pixdim=_MM, mode="bilinear"),
            ClipIntensityPercentilesd(keys, lower=1, upper=99.5),
            NormalizeIntensityd(keys),
        ]
    )({keys: path})


def _written(scan: sitk.Image, folder: Path) -> Path:
    """As a scanner might store it: 16-bit, 1.5 mm, oriented otherwise, compressed."""
    size = [round(n / 1.5) for n in SIZE_XYZ]
    grid = sitk.Image(size, sitk.sitkInt16)
    grid.SetSpacing((1.5, 1.5, 1.5))
    grid.SetOrigin(scan.GetOrigin())
    coarse = sitk.Resample(sitk.Cast(scan, sitk.sitkInt16), grid)
    path = folder / "scan.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(coarse, "RAS"), str(path), useCompression=True)
    return path


def _memory_rows(taken: Mapping[str, Once]) -> list[Row]:
    """Of one run each: the same job takes the same memory again."""
    figures: tuple[tuple[str, Callable[[Once], float]], ...] = (
        ("peak memory of a process, imports included", lambda run: run.peak_mib),
        ("of which the job adds", lambda run: run.added_mib),
    )
    return [
        Row(topic=topic, who=who, value=of(run), unit="MiB", runs=1,
            ratio=None if who == _OURS else of(run) / of(taken[_OURS]))
        for topic, of in figures
        for who, run in taken.items()
    ]  # fmt: skip


def _against_monai(
    who: str, seconds: Mapping[str, float], taken: Mapping[str, Once], why: str
) -> list[Target]:
    """Time and memory."""
    faster = seconds[_MONAI] / seconds[who]
    share = taken[who].added_mib / taken[_MONAI].added_mib
    whole = taken[who].peak_mib / taken[_MONAI].peak_mib
    return [
        _target(f"{_TOPIC}: {who}", f"{_FASTER:g} times as fast as MONAI", f"{faster:.2f} times",
                faster >= _FASTER, why),
        _target(f"{_TOPIC}: {who}", "half of MONAI's peak memory, of what the job adds",
                f"{share:.2f} of it (imports included {whole:.2f})", share <= _MEMORY,
                "images and arrays are held side by side"),
    ]  # fmt: skip


def _holes(image: sitk.Image) -> str:
    """What the largest cost was, and is: filling the holes of the body."""
    array = sitk.GetArrayViewFromImage(image)
    bright = (array > array.min() + 0.1 * (array.max() - array.min())).astype(np.uint8)
    rows = in_turn(
        "",
        {
            "ITK's BinaryFillhole (before)": lambda: sitk.BinaryFillhole(
                sitk.GetImageFromArray(bright)
            ),
            "components of the outside (now)": lambda: _filled(bright.astype(bool)),
        },
        ours="components of the outside (now)",
        runs=3,
    )
    return (
        "The costliest step, filling the body's holes: "
        + ", ".join(f"{row.who} {row.value:.2f} s" for row in rows)
        + "; the same voxels."
    )


def _check(scan: sitk.Image, label: sitk.Image, folder: Path) -> float:
    """Seconds a case.

    The site's cases are links to one: the check reads each, and refuses all but one as copies.
    """
    data = folder / "site"
    first: dict[str, Path] = {}
    for number in range(_CASES):
        for part, image in (("imagesTr", sitk.Cast(scan, sitk.sitkInt16)), ("labelsTr", label)):
            path = data / part / f"{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            if part in first:
                os.link(first[part], path)
            else:
                sitk.WriteImage(image, str(path), useCompression=True)
                first[part] = path
    config = SiteConfig(site="A", data=data, state=folder / "state", cache=folder / "cache")
    started = time.perf_counter()
    checked = check_site(config, preset("paper"), workers=2)
    seconds = time.perf_counter() - started
    assert len(checked.reports) == _CASES
    return seconds / _CASES


def _target(topic: str, target: str, reached: str, met: bool, why: str) -> Target:
    return Target(topic=topic, target=target, reached=reached, met=met, why="" if met else why)
