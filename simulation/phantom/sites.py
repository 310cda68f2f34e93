"""The six hospitals of the made cohort: how many cases each has, and its scanner."""

from collections.abc import Mapping
from dataclasses import dataclass

from simulation.phantom.acquisition import Scanner


@dataclass(frozen=True, kw_only=True)
class Site:
    """One hospital of the cohort."""

    labelled: int
    unlabelled: int
    scanner: Scanner


SITES: Mapping[str, Site] = {
    "A": Site(
        labelled=15,
        unlabelled=0,
        scanner=Scanner(
            pixel_mm=1.0, slice_mm=3.0, field_mm=(200, 176, 114), gamma=1.0, level_shift=0.03,
            bias=0.15, bias_kind="linear", snr=32, scale=600,
        ),
    ),
    "B": Site(
        labelled=12,
        unlabelled=0,
        scanner=Scanner(
            pixel_mm=1.0, slice_mm=3.0, field_mm=(188, 168, 114), gamma=0.85, level_shift=0.06,
            bias=0.30, bias_kind="surface", snr=22, scale=900, bladder_factor=1.3,
        ),
    ),
    "C": Site(
        labelled=10,
        unlabelled=0,
        scanner=Scanner(
            pixel_mm=0.9, slice_mm=2.0, field_mm=(180, 166, 110), gamma=1.15, level_shift=0.06,
            bias=0.20, bias_kind="linear", snr=26, scale=350, flipped=True,
        ),
    ),
    "D": Site(
        labelled=8,
        unlabelled=5,
        scanner=Scanner(
            pixel_mm=1.1, slice_mm=3.0, field_mm=(210, 182, 117), gamma=0.95, level_shift=0.05,
            bias=0.25, bias_kind="linear", snr=18, scale=1100, bladder_factor=0.8,
        ),
    ),
    "E": Site(
        labelled=5,
        unlabelled=0,
        scanner=Scanner(
            pixel_mm=1.0, slice_mm=1.0, field_mm=(184, 168, 108), gamma=1.1, level_shift=0.08,
            bias=0.40, bias_kind="surface", snr=14, scale=500, tilt_deg=6.0,
        ),
    ),
    "F": Site(
        labelled=0,
        unlabelled=15,
        scanner=Scanner(
            pixel_mm=1.05, slice_mm=2.0, field_mm=(196, 174, 112), gamma=0.9, level_shift=0.07,
            bias=0.30, bias_kind="linear", snr=20, scale=750, bladder_factor=1.1,
        ),
    ),
}  # fmt: skip
