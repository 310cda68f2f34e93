"""The channel in an image's name: nnU-Net calls the files of a case case_0000, case_0001, ..."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

FIRST_CHANNEL = "_0000"  # of later tools of the decathlon too
_CHANNEL = re.compile(r"(.+)_([0-9]{4})")


def without_channel(
    images_of: Mapping[str, list[Path]], labels_of: Collection[str] | None
) -> dict[str, list[Path]]:
    """Case names with the channel suffix taken off, where it is one and not part of the name.

    It is one where the label has the shorter name or, without labels, where all images bear it.
    """
    named: dict[str, list[Path]] = {}
    every = all(name.endswith(FIRST_CHANNEL) for name in images_of)
    for name, paths in images_of.items():
        short = name.removesuffix(FIRST_CHANNEL)
        is_channel = every if labels_of is None else name not in labels_of and short in labels_of
        # Where case and case_0000 are both there, each keeps its name and one lacks its label.
        named[short if is_channel and short and short not in images_of else name] = paths
    return named


def several_channels(
    images: Collection[str], labels: Collection[str] | None
) -> dict[str, list[str]]:
    """Cases of which there are images of several channels, with the names of these images.

    They are channels where the label has the shorter name and there are a first and another one;
    without labels, where several cases have the same ones: a single `scan` from 0000 on is a count.
    """
    of_case: dict[str, dict[str, str]] = defaultdict(dict)
    for name in images:
        if matched := _CHANNEL.fullmatch(name):
            of_case[matched[1]][matched[2]] = name
    several = {case: c for case, c in of_case.items() if len(c) > 1 and "0000" in c}
    if labels is None:
        alike = len({frozenset(channels) for channels in of_case.values()}) == 1
        return {
            c: sorted(names.values()) for c, names in several.items() if alike and len(several) > 1
        }
    return {
        case: sorted(name for name in channels.values() if name not in labels)
        for case, channels in several.items()
        if case in labels and not set(channels.values()) & set(labels)
    }
