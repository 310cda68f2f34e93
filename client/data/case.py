"""How a case is read by its site's file: which series, and what its labels mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import SimpleITK as sitk

from client.data.dicom.labels.contents import drawn_structures
from client.data.dicom.labels.contours import read_structures
from client.data.dicom.labels.segments import read_segments
from client.data.dicom.objects import dicom_files, is_dicom, label_kind, structure_names
from client.data.dicom.series import DicomSeries, find_series
from client.data.files.image_io import read_image
from client.data.hashing import organ_hashes
from client.data.labels.described_labels import as_described
from client.data.labels.label_file import drawn_segments, read_label_file, unused_segments
from client.data.labels.label_map import LabelMapping, site_mapping, study_mapping
from client.data.labels.segment_meaning import mapping_of, structures_of
from client.data.labels.sparse import check_sparse
from client.data.notes import Note, unheard
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
        site: The file with the rules for reading it; None: labels are in the study's own numbers.
    """

    name: str
    part: Part
    image: Path
    label: Path | None
    site: SiteConfig | None = None

    def label_mapping(self, organs: Mapping[str, int]) -> LabelMapping:
        """What its label's numbers and names mean in a study of these organs."""
        return site_mapping(self.site, organs) if self.site else study_mapping(organs)

    def annotated(self, organs: Mapping[str, int]) -> frozenset[str]:
        """The study's organs that are annotated in it; its label says nothing of the others.

        Raises:
            ScanError: Its label has to be asked, and cannot be read.
        """
        if self.label is None:
            return frozenset()
        mapping = self.label_mapping(organs)
        if self._drawn and not is_dicom(self.label):
            location = f"case {self.name}: label {self.label.name}"
            mapping = mapping_of(self.label, mapping, location=location)
        return mapping.annotated_in(self.name, self._drawn)

    def organ_hashes(self, label: sitk.Image | None, organs: Mapping[str, int]) -> dict[str, str]:
        """`hashing.organ_hashes` of those that are annotated; of no label there are none."""
        annotated = self.annotated(organs)
        drawn = {organ: value for organ, value in organs.items() if organ in annotated}
        return {} if label is None else organ_hashes(label, drawn)

    def how_it_is_read(self, organs: Mapping[str, int]) -> dict[str, Any]:
        """What decides how its files are understood, for a key; equal where nothing differs.

        Raises:
            ScanError: The folder's dataset.json cannot be read, or contradicts the site's file.
        """
        mapping = self._numbered(self.label_mapping(organs))
        return {
            "organs": dict(organs),
            "values": {v: organ for v, organ in mapping.values.items() if organ in organs},
            "names": {n: organ for n, organ in mapping.names.items() if organ in organs},
            # Numbers of the site's file contradict names within a label, or they decide nothing.
            "numbered": mapping.numbered and bool(self._names_in_map(mapping)),
            "ignored": [str(entry) for entry in mapping.ignored],
            # By the site's file alone: for what its label says of that, the label's hash stands.
            "annotated": sorted(mapping.annotated_in(self.name) if self.label else ()),
            "empty": mapping.empty,
            "series": self._patterns,
            "gaps": mapping.gaps,
        }

    @cached_property
    def series(self) -> DicomSeries | None:
        """What its DICOM headers say, parsed when first asked for; None of other formats.

        Raises:
            ScanError: It is not one series.
        """
        if not is_dicom(self.image):
            return None
        return find_series(
            self.image,
            location=f"case {self.name}: image",
            patterns=self._patterns,
            cut=self._is_cut,
        )

    def read_scan(self, note: Note = unheard) -> sitk.Image:
        """The scan, 32-bit floats; what is valid but seldom meant is told to `note`.

        Raises:
            ScanError: It cannot be used.
        """
        scan = read_image(
            self.image,
            case=self.name,
            series_patterns=self._patterns,
            note=note,
            cut=self._is_cut,
        )
        labels = self.series.labels if self.series else ()
        if aside := [label for label in labels if label != self.label]:
            note(f"{len(aside)} file(s) with contours or segments in its folder are not its label")
        return scan

    def read_label(
        self, scan: sitk.Image, organs: Mapping[str, int], note: Note = unheard
    ) -> sitk.Image:
        """The label map in the study's numbers, 8-bit, exactly on the scan's grid.

        Args:
            scan: As `read_scan` gives it.
            organs: The study's values.
            note: Called with what is valid but seldom meant, a line each.

        Raises:
            ScanError: It cannot be read, is of another scan, or contradicts the site's file.
            ValueError: The case has no label.
        """
        if self.label is None:
            raise ValueError(f"case {self.name}: has no label")
        mapping = self.label_mapping(organs)
        location = f"case {self.name}: label {self.label.name}"
        kind = label_kind(self.label, location=location)
        if kind is None:
            mapping = self._numbered(mapping, note)
            label = read_label_file(
                self.label, scan, mapping, case=self.name, location=location, note=note
            )
            check_sparse(label, organs, mapping.gaps, location=location, note=note)
            return label
        file = dicom_files(self.label)[0]
        read = (
            partial(read_structures, gaps=mapping.gaps) if kind == "structures" else read_segments
        )
        masks = read(
            file,
            scan,
            location=location,
            series=self.series,
            organ_of=mapping.organ_of,
            note=note,
        )
        drawn = self._drawn or dict.fromkeys(structure_names(file, location=location), True)
        label = mapping.combine(
            masks, scan, case=self.name, location=location, drawn=drawn, note=note
        )
        if kind == "segments":
            check_sparse(label, organs, mapping.gaps, location=location, note=note)
        return label

    def unused_structures(self, organs: Mapping[str, int]) -> list[str]:
        """Named structures of its label that are no organ of the study, nor ignored on purpose.

        In a label map's header are names of what is not in it: they are not counted.

        Raises:
            ScanError: The label cannot be read.
        """
        if self.label is None:
            return []
        mapping = self.label_mapping(organs)
        location = f"case {self.name}: label {self.label.name}"
        if not is_dicom(self.label):
            return unused_segments(self.label, mapping, location=location)
        return mapping.unused(structure_names(dicom_files(self.label)[0], location=location))

    @cached_property
    def _drawn(self) -> Mapping[str, bool]:
        """Whether the structures of its label hold anything, where that decides what is annotated.

        Raises:
            ScanError: The label cannot be read.
        """
        asked = self.site is not None and self.site.empty_structures == "undrawn"
        if not asked or self.label is None:
            return {}
        location = f"case {self.name}: label {self.label.name}"
        if not is_dicom(self.label):
            return drawn_segments(self.label, location=location)
        return drawn_structures(dicom_files(self.label)[0], location=location)

    def _names_in_map(self, mapping: LabelMapping) -> list[str]:
        """Those by which a label map is read; none of other labels, or where it has none."""
        if self.label is None or is_dicom(self.label):
            return []
        location = f"case {self.name}: label {self.label.name}"
        return structures_of(self.label, mapping, location=location)

    def _numbered(self, mapping: LabelMapping, note: Note = unheard) -> LabelMapping:
        """With what the dataset.json of the site's folder says of numbers, for a label map."""
        if self.site is None or self.label is None or is_dicom(self.label):
            return mapping
        location = f"case {self.name}: label {self.label.name}"
        return as_described(mapping, self.site.data, location=location, note=note)

    @property
    def _patterns(self) -> tuple[str, ...]:
        return self.site.series if self.site else ()

    @property
    def _is_cut(self) -> bool | None:
        return self.name in self.site.incomplete if self.site else None
