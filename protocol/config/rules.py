"""The rules that a site's cases must meet, by name; only their counts leave the site.

A site shows for each refused case, on its own screen, the rule, the value and what to do.  The
centre gets the rule's name and a count.
"""

from collections.abc import Mapping
from typing import Literal, get_args

Rule = Literal[
    "missing",
    "closed",
    "damaged",
    "format",
    "dimensions",
    "undefined",
    "constant",
    "pair",
    "name",
    "series",
    "slices",
    "modality",
    "grid",
    "values",
    "organ",
    "overlap",
    "reference",
    "duplicate",
    "patient",
    "spacing",
    "extent",
    "geometry",
    "unexpected",
]
RULES: tuple[Rule, ...] = get_args(Rule)

MEANING: Mapping[Rule, str] = {
    "missing": "every file that is named is there",
    "closed": "this user may read every file",
    "damaged": "files are whole, as their headers and checksums promise",
    "format": "NIfTI-1, MetaImage, NRRD, DICOM; labels also RTSTRUCT and DICOM-SEG",
    "dimensions": "scans are 3-D, of one channel, at least two voxels along each axis",
    "undefined": "every voxel has one finite value; the geometry leads from index to mm and back",
    "constant": "a scan shows something",
    "pair": "a labelled scan has one label, a label one scan",
    "name": "a case has a name of its own, in UTF-8",
    "series": "a case is one DICOM series",
    "slices": "the slices of a series are parallel, evenly spaced, none missing, none twice",
    "modality": "scans are of the study's modality",
    "grid": "a label map lies on its scan's grid",
    "values": "every value or name in a label is an organ of the study, or ignored on purpose",
    "organ": "every organ that the site annotates is drawn",
    "overlap": "no voxel is of two organs",
    "reference": "contours and segments belong to the scan",
    "duplicate": "no scan is there twice",
    "patient": "a patient is in one of training, validation and test",
    "spacing": "voxels are no larger than the study allows",
    "extent": "scans are no smaller than the study allows",
    "geometry": "a header says one geometry, the same to every reader, and that of a scan",
    "unexpected": "nothing about a file is such that reading it fails without a rule",
}
