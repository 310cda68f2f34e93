"""Options of `asdnet-site predict`; imports no heavy library."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["nifti", "seg", "rtstruct"]
FORMATS: tuple[Format, ...] = ("nifti", "seg", "rtstruct")
NOTICE = "AI-made, not for clinical use"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is made of every case.

    Attributes:
        formats: Which kinds of file; the DICOM ones only for DICOM sources.
        largest_component: Keep one component an organ; None: as in the study.
        series: Patterns of SeriesDescription, where a case holds several series.
        series_setting: What the user gives them by, for messages.
        incomplete: Names of cases whose series were cut on purpose; None: no site's file says so.
    """

    formats: frozenset[Format] = frozenset(FORMATS)
    largest_component: bool | None = None
    series: tuple[str, ...] = ()
    series_setting: str = "--series"
    incomplete: tuple[str, ...] | None = None

    def is_cut(self, name: str) -> bool | None:
        """Whether the site's file declares that a case's series was cut; None: there is none."""
        return None if self.incomplete is None else name in self.incomplete
