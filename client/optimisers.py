"""Adam's moments, which stay at the site from round to round."""

import logging
import re
from pathlib import Path
from typing import Any

import torch

from asdnet_models.methods.common import Networks
from client.state import forget_old_runs, written_whole

log = logging.getLogger(__name__)

_STATE_FILE = re.compile(r"round-[0-9]+\.pt")


class OptimiserStore:
    """Adam's moments of one site in one run, kept by round on the site's own disk.

    A round that has to be trained again, because the centre died in it, starts from the moments
    of the round before and so gives the same bits: the states of the last two rounds are kept.

    Args:
        state: The site's state folder.
        run: The run's name: another run's moments are never taken up.
    """

    def __init__(self, state: Path, run: str) -> None:
        self._all = state / "optimisers"
        self._folder = self._all / run

    def load(self, networks: Networks, number: int) -> None:
        """Restore what the newest round before `number` left; without one, moments are fresh."""
        kept = self._kept()
        before = [path for path in kept if _round_of(path) < number]
        if not before:
            if kept:
                log.warning("round %d: states of later rounds only; moments are fresh", number)
            return
        states = torch.load(before[-1], map_location="cpu", weights_only=True)
        networks.segmenter_optimiser.load_state_dict(states["segmenter"])
        if networks.confidence_optimiser and states["confidence"]:
            networks.confidence_optimiser.load_state_dict(states["confidence"])

    def save(self, networks: Networks, number: int) -> None:
        """Written beside, then put in its place; older rounds and runs are cleared away."""
        self._folder.mkdir(parents=True, exist_ok=True)
        confidence = networks.confidence_optimiser
        states: dict[str, Any] = {
            "segmenter": networks.segmenter_optimiser.state_dict(),
            "confidence": confidence.state_dict() if confidence else None,
        }
        with written_whole(self._folder / f"round-{number:05d}.pt") as file:
            torch.save(states, file)
        for old in [path for path in self._kept() if _round_of(path) <= number][:-2]:
            old.unlink()
        forget_old_runs(self._all)

    def _kept(self) -> list[Path]:
        found = [path for path in self._folder.glob("*") if _STATE_FILE.fullmatch(path.name)]
        return sorted(found, key=_round_of)


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
