"""What a hostile site sends instead of its update, and what it trains on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.cache import CachedCase
from client.data.dataset import SiteData
from protocol.agreement.bounds import distance
from protocol.wire.reports import SiteFacts
from protocol.wire.weights import Weights

# Trained weights, the global ones, the honest sites' median norm, and a source of randomness; to
# what is sent.
Forge = Callable[[Weights, Weights, float, torch.Generator], Weights]

# What just passes where updates over three times the median norm are left out.
UNSEEN = 2.9
_CLASSES = 3
_LIE = 10**6


def as_trained(
    trained: Weights, current: Weights, usual: float, generator: torch.Generator
) -> Weights:
    """Nothing is forged."""
    return trained


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One or more hostile sites.

    Attributes:
        sites: Their names.
        forge: What they send.
        takes_part: False: a federation without them, to compare with.
        flips_labels: They train on labels whose classes are turned round.
        lies: They declare a million cases.
    """

    sites: str = "E"
    forge: Forge = as_trained
    takes_part: bool = True
    flips_labels: bool = False
    lies: bool = False


def scaled(factor: float) -> Forge:
    """The update's change, multiplied."""

    def forge(
        trained: Weights, current: Weights, usual: float, generator: torch.Generator
    ) -> Weights:
        return {n: current[n] + factor * (w - current[n]) for n, w in trained.items()}

    return forge


def flipped_unseen(
    trained: Weights, current: Weights, usual: float, generator: torch.Generator
) -> Weights:
    """The update's change, turned round, `UNSEEN` times as long as is usual."""
    factor = -UNSEEN * usual / distance(trained, current)
    return scaled(factor)(trained, current, usual, generator)


def noise(trained: Weights, current: Weights, usual: float, generator: torch.Generator) -> Weights:
    """Gaussian noise, as long."""
    drawn = {n: torch.randn(w.shape, generator=generator) for n, w in sorted(trained.items())}
    factor = UNSEEN * usual / distance(drawn, {n: torch.zeros_like(w) for n, w in drawn.items()})
    return {n: current[n] + factor * drawn[n] for n in trained}


ATTACKS: Mapping[str, Attack] = {
    "none": Attack(sites=""),
    "absent": Attack(takes_part=False),
    "flipped, 2.9 x": Attack(forge=flipped_unseen),
    "lying counts, flipped, 2.9 x": Attack(forge=flipped_unseen, lies=True),
    "flipped": Attack(forge=scaled(-1.0)),
    "scaled, 10 x": Attack(forge=scaled(10.0)),
    "label-flipped": Attack(flips_labels=True),
    "noise, 2.9 x": Attack(forge=noise),
    "free rider": Attack(forge=scaled(0.0)),
    "two absent": Attack(sites="DE", takes_part=False),
    "two flipped, 2.9 x": Attack(sites="DE", forge=flipped_unseen),
    "scaled, 10^6 x": Attack(forge=scaled(1e6)),
}


class TurnedCase(CachedCase):
    """A case whose classes are turned round: background is the last organ."""

    @cached_property
    def label(self) -> NDArray[np.uint8] | None:
        """(X, Y, Z) of class numbers."""
        honest = np.load(self.folder / "label.npy")
        turned: NDArray[np.uint8] = (_CLASSES - 1 - honest).astype(np.uint8)
        return turned


def poisoned(data: SiteData) -> SiteData:
    """The site's training cases with turned labels."""
    turned = tuple(TurnedCase(case=case.case, folder=case.folder) for case in data.labelled)
    return replace(data, labelled=turned)


def lying(facts: SiteFacts) -> SiteFacts:
    """A declaration of a million cases."""
    return replace(facts, labelled=_LIE, annotated=dict.fromkeys(facts.annotated, _LIE))


def generator_of(seed: int, site: str, number: int) -> torch.Generator:
    """Of a hostile site's own randomness."""
    return torch.Generator().manual_seed(
        seed * 10**6 + number * 10**3 + zlib.crc32(site.encode()) % 997
    )
