"""Translates a site's label numbers and names to the study's.

Nothing is guessed: a number that is neither an organ of the study nor ignored on purpose is
refused, and an organ that is not annotated is unknown, not absent.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.errors import ScanError
from client.data.labels.organ_masks import merged
from client.data.notes import Note, unheard
from protocol.config.site import EmptyRule, GapRule, SiteConfig
from protocol.config.study import ProtocolError

# What helps against a number that means nothing.
AT_SITE = "map them to the study's organs (a site's file has `labels` and `ignored_labels` for it)"
WITHOUT_SITE = "name every value by --organs, or in the study or dataset.json"


@dataclass(frozen=True, kw_only=True)
class LabelMapping:
    """One site's labels in one study.

    Attributes:
        organs: The study's values by organ; what a translated label map holds.
        values: Organ by the site's number.
        remedy: What helps against a number that means nothing.
        numbered: Whether these numbers are the site's own, from its file, and not the study's.
        names: Organ by the site's name, as `folded` gives it.
        ignored: Numbers, and patterns of folded names, that are no organ of the study.
        annotated: The organs that the site draws.
        unannotated: By case, organs that are not annotated there.
        empty: What an empty structure says of its organ.
        gaps: What slices without a contour, between others, say of theirs.
    """

    organs: Mapping[str, int]
    values: Mapping[int, str]
    names: Mapping[str, str]
    ignored: tuple[str | int, ...] = ()
    annotated: frozenset[str] = frozenset()
    unannotated: Mapping[str, tuple[str, ...]]
    remedy: str = WITHOUT_SITE
    numbered: bool = False
    empty: EmptyRule = "refuse"
    gaps: GapRule = "interpolate"

    def annotated_in(self, case: str, drawn: Mapping[str, bool] | None = None) -> frozenset[str]:
        """The organs that are annotated in this case.

        Args:
            case: The case's name.
            drawn: Whether the structures of its label, by name, hold anything: where an empty one
                counts as undrawn, its organ is not annotated.
        """
        organs = self.annotated - set(self.unannotated.get(case, ()))
        if self.empty != "undrawn" or not drawn:
            return organs
        full = {self.organ_of(name) for name, holds in drawn.items() if holds}
        return organs - ({self.organ_of(name) for name in drawn} - full)

    def translate(self, label: sitk.Image, *, case: str, location: str) -> sitk.Image:
        """A label map in the site's numbers to one in the study's, 8-bit, on the same grid.

        Raises:
            ScanError: A number that means nothing here, or an organ that is declared unannotated.
        """
        array = sitk.GetArrayViewFromImage(label)
        numbers = occurring_values(array)
        foreign = [v for v in numbers if v and v not in self.values and v not in self.ignored]
        if foreign:
            allowed = f"allowed are 0 and {self._allowed()}; {self.remedy}"
            raise ScanError(location, f"holds the values {some(foreign)}, {allowed}", rule="values")
        organ_of = {value: self.values[value] for value in numbers if value in self.values}
        self._check_annotated(set(organ_of.values()), case, location)
        translated = np.zeros(array.shape, np.uint8)
        for value, organ in organ_of.items():
            if organ in self.organs:
                np.putmask(translated, array == value, self.organs[organ])
        return _like(translated, label)

    def organ_of(self, name: str) -> str | None:
        """The organ of the study that a site's name of a structure means; None: none of them."""
        organ = self.names.get(folded(name))
        return organ if organ in self.organs else None

    def combine(
        self,
        masks: Mapping[str, NDArray[np.bool_]],
        scan: sitk.Image,
        *,
        case: str,
        location: str,
        drawn: Mapping[str, bool] | None = None,
        note: Note = unheard,
    ) -> sitk.Image:
        """Named structures to a label map in the study's numbers, 8-bit, on the scan's grid.

        Args:
            masks: By the site's name of a structure, (Z, Y, X) of the scan's grid; other names
                than the mapping's are left aside (see `unused`).
            scan: The scan.
            case: The case's name.
            location: How messages begin.
            drawn: As for `annotated_in`; of all structures of the label, read or left aside.
            note: Called with what is valid but seldom meant, a line each.

        Raises:
            ScanError: An organ has no structure, several or, unless the site's file says what that
                means, an empty one; is declared unannotated, or shares more than a rim with
                another.
        """
        by_organ: dict[str, list[str]] = {}
        for name in masks:
            if organ := self.organ_of(name):
                by_organ.setdefault(organ, []).append(name)
        full = {o: [n for n in names if masks[n].any()] for o, names in by_organ.items()}
        self._check_annotated({organ for organ, names in full.items() if names}, case, location)
        annotated = self.annotated_in(case, drawn)
        for organ in sorted(self.annotated_in(case) - annotated):
            note(f"{organ}: its structure is empty, so it counts as not drawn in this case")
        if not annotated and self.annotated_in(case):
            raise ScanError(
                location, "holds no organ at all; move its image to imagesUn", rule="organ"
            )
        chosen: dict[str, NDArray[np.bool_]] = {}
        for organ in sorted(annotated):
            if not by_organ.get(organ):
                others = ", ".join(sorted({*masks, *(drawn or ())}))
                raise ScanError(
                    location,
                    f"holds no structure for {organ}; draw it, add its name to `labels` of the "
                    "site's file, or declare it by `not_annotated` or `undrawn`",
                    rule="organ",
                    detail=f"it holds {others or 'none at all'}",
                )
            # An empty structure beside a drawn one says nothing.
            names = full[organ] or self._empty(organ, by_organ[organ], location, note)
            if len(names) > 1:
                raise ScanError(
                    location,
                    f"holds {len(names)} structures for {organ}; keep one",
                    rule="values",
                    detail=", ".join(names),
                )
            chosen[organ] = masks[names[0]]
        return _like(merged(chosen, self.organs, scan.GetSize()[::-1], location), scan)

    def _empty(self, organ: str, names: list[str], location: str, note: Note) -> list[str]:
        """The structure of an organ that is absent."""
        if self.empty != "absent":
            raise ScanError(
                location,
                f"holds an empty structure for {organ}, which may be absent or not drawn; draw it,"
                " name it in `undrawn` of the site's file, or say there by `empty_structures` what"
                " such a structure means",
                rule="organ",
                detail=", ".join(names),
            )
        note(f"{organ}: its structure is empty, so it counts as absent")
        return names[:1]

    def unused(self, names: Iterable[str]) -> list[str]:
        """Structures that are no organ of the study, and not ignored on purpose."""
        return sorted(n for n in names if self.organ_of(n) is None and not self.ignores(n))

    def ignores(self, name: str) -> bool:
        """Whether a name fits a pattern of what is no organ of any study."""
        patterns = (pattern for pattern in self.ignored if isinstance(pattern, str))
        return any(fnmatchcase(folded(name), pattern) for pattern in patterns)

    def _check_annotated(self, drawn: set[str], case: str, location: str) -> None:
        surplus = sorted(drawn & set(self.organs) - self.annotated_in(case))
        if surplus:
            raise ScanError(
                location,
                f"holds {surplus[0]}, which the site's file declares as not annotated; correct"
                " `not_annotated` or `undrawn`",
                rule="organ",
            )

    def _allowed(self) -> str:
        return ", ".join(f"{organ}={value}" for value, organ in self.values.items())


def folded(name: str) -> str:
    """A name as it is compared: either case, composed or decomposed, without blanks around it."""
    return unicodedata.normalize("NFKC", name).strip(" \t\r\n\0").casefold()


def study_mapping(organs: Mapping[str, int]) -> LabelMapping:
    """The mapping of labels that are in the study's own numbers and names."""
    return LabelMapping(
        organs=organs,
        values={value: organ for organ, value in organs.items()},
        names={folded(organ): organ for organ in organs},
        annotated=frozenset(organs),
        unannotated={},
    )


def prediction_mapping(organs: Mapping[str, int], config: SiteConfig | None = None) -> LabelMapping:
    """Of what a network drew: all organs, on every slice; by the study, or by a site's file."""
    mapping = site_mapping(config, organs) if config else study_mapping(organs)
    all_drawn = replace(mapping, annotated=frozenset(organs), unannotated={})
    return replace(all_drawn, empty="absent", gaps="keep")


def site_mapping(config: SiteConfig, organs: Mapping[str, int]) -> LabelMapping:
    """The mapping that a site's file makes for a study.

    An organ that `labels` does not name keeps the study's name, and the study's number unless
    `labels` speaks of numbers at all.

    Raises:
        ProtocolError: With every mistake of the file.
    """
    mistakes = _unknown_organs(config, organs)
    values: dict[int, str] = {}
    names = {folded(organ): organ for organ in organs if folded(organ) not in _ignored(config)}
    numbered = any(isinstance(entry, int) for own in config.labels.values() for entry in own)
    for organ, entries in config.labels.items():
        for entry in entries:
            table: dict[int, str] | dict[str, str] = values if isinstance(entry, int) else names
            key = entry if isinstance(entry, int) else folded(entry)
            before = table.setdefault(key, organ)  # type: ignore[arg-type]
            if before != organ:
                mistakes.append(f"labels: {entry!r} is both {before} and {organ}; keep one")
            if key in _ignored(config):
                mistakes.append(f"labels: {entry!r} is {organ} and in ignored_labels; keep one")
    if not numbered:
        values = {value: organ for organ, value in organs.items()}
    annotated = frozenset(organs) - set(config.not_annotated)
    if config.labels:
        mistakes += [
            f"labels: does not name {organ}; add its names or numbers, or put it in not_annotated"
            for organ in sorted(annotated - set(config.labels))
        ]
    if mistakes:
        raise ProtocolError("\n".join(f"{config.site}.yaml: {mistake}" for mistake in mistakes))
    return LabelMapping(
        organs=organs,
        values=values,
        names=names,
        ignored=_ignored(config),
        annotated=annotated,
        unannotated=config.undrawn,
        remedy=AT_SITE,
        empty=config.empty_structures,
        gaps=config.contour_gaps,
        numbered=numbered,
    )


def _unknown_organs(config: SiteConfig, organs: Mapping[str, int]) -> list[str]:
    """An organ that the study does not have may be in `labels`: one mapping, many studies."""
    known = set(organs) | set(config.labels)
    declared = [("not_annotated", organ) for organ in config.not_annotated]
    declared += [("undrawn", organ) for own in config.undrawn.values() for organ in own]
    return [
        f"{key}: {organ!r} is no organ of the study ({', '.join(organs)}) or of `labels`"
        for key, organ in sorted(set(declared))
        if organ not in known
    ]


def _ignored(config: SiteConfig) -> tuple[str | int, ...]:
    return tuple(folded(e) if isinstance(e, str) else e for e in config.ignored_labels)


def occurring_values(array: NDArray[Any]) -> list[int]:
    """The values that occur, in order; the same as `np.unique`, which would hash or sort all."""
    if array.dtype == np.uint8:
        # By slices, because `bincount` widens what it is given.
        counts = sum(np.bincount(part.ravel(), minlength=256) for part in array)
        return [int(value) for value in np.flatnonzero(counts)]
    return sorted({int(value) for part in array for value in np.unique(part)})


def _like(array: NDArray[np.uint8], grid: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(grid)
    return image


def some(values: list[int]) -> str:
    """The first of many values, for a message."""
    shown = ", ".join(str(value) for value in values[:5])
    return shown if len(values) <= 5 else f"{shown} and {len(values) - 5} more"
