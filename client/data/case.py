"""A case as its site's file has it read: which series, and what its labels mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import SimpleITK as sitk

from client.data.dicom.contours import read_structures
from client.data.dicom.segments import read_segments
from client.data.dicom.series import DicomSeries, dicom_files, find_series, is_dicom, label_kind
from client.data.geometry import put_on_grid
from client.data.image_io import load_numbers, read_image
from client.data.label_map import LabelDictionary, site_dictionary, study_dictionary
from protocol.config.site import SiteConfig

Part = Literal["labelled", "unlabelled", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One subject's scan, and its label where it has one.

    Attributes:
        name: At the site.
        part: What it is for.
        image: A file, or the folder of a DICOM series.
        label: A label map, RTSTRUCT or DICOM-SEG.
        site: The file that says how it is read; None: labels are in the study's own numbers.
    """

    name: str
    part: Part
    image: Path
    label: Path | None
    site: SiteConfig | None = None

    def dictionary(self, organs: Mapping[str, int]) -> LabelDictionary:
        """What its label's numbers and names mean in a study of these organs."""
        return site_dictionary(self.site, organs) if self.site else study_dictionary(organs)

    def annotated(self, organs: Mapping[str, int]) -> frozenset[str]:
        """The study's organs that were drawn in it; of the others its label says nothing."""
        return self.dictionary(organs).drawn_in(self.name) if self.label else frozenset()

    def how_it_is_read(self, organs: Mapping[str, int]) -> dict[str, Any]:
        """What decides how its files are understood, for a key; equal where nothing differs."""
        dictionary = self.dictionary(organs)
        return {
            "organs": dict(organs),
            "values": {v: organ for v, organ in dictionary.values.items() if organ in organs},
            "names": {n: organ for n, organ in dictionary.names.items() if organ in organs},
            "ignored": [str(entry) for entry in dictionary.ignored],
            "annotated": sorted(self.annotated(organs)),
            "series": self._patterns,
        }

    @cached_property
    def series(self) -> DicomSeries | None:
        """What its DICOM headers say, parsed when first asked for; None of other formats.

        Raises:
            ScanError: It is not one series.
        """
        if not is_dicom(self.image):
            return None
        return find_series(self.image, place=f"case {self.name}: image", patterns=self._patterns)

    def read_scan(self) -> sitk.Image:
        """The scan, 32-bit floats.

        Raises:
            ScanError: It cannot be used.
        """
        return read_image(self.image, case=self.name, series_patterns=self._patterns)

    def read_label(self, scan: sitk.Image, organs: Mapping[str, int]) -> sitk.Image:
        """The label map in the study's numbers, 8-bit, exactly on the scan's grid.

        Args:
            scan: As `read_scan` gives it.
            organs: The study's values.

        Raises:
            ScanError: It cannot be read, is of another scan, or says what nobody can know.
            ValueError: The case has no label.
        """
        if self.label is None:
            raise ValueError(f"case {self.name}: has no label")
        dictionary = self.dictionary(organs)
        place = f"case {self.name}: label {self.label.name}"
        kind = label_kind(self.label, place=place)
        if kind is None:
            numbers = load_numbers(self.label, place)
            put_on_grid(numbers, scan, place=place)
            return dictionary.translate(numbers, case=self.name, place=place)
        read = read_structures if kind == "structures" else read_segments
        file = dicom_files(self.label)[0]
        masks = read(file, scan, place=place, series=self.series)
        return dictionary.combine(masks, scan, case=self.name, place=place)

    @property
    def _patterns(self) -> tuple[str, ...]:
        return self.site.series if self.site else ()
