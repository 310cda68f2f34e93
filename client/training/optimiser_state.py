"""Adam's moments, and a second network, which stay at the site from round to round."""

import logging
from pathlib import Path
from typing import Any

import torch

from asdnet_models.methods.common import Networks
from client.training.state_folder import RoundFiles

log = logging.getLogger(__name__)


class OptimiserStore:
    """Adam's moments of one site in one run, and the second network that its method may have.

    They are kept by round on the site's own disk.

    A round that has to be trained again, because the centre died in it, starts from the moments
    of the round before and so gives the same bits: the states of the last two rounds are kept.

    Args:
        state: The site's state folder.
        run: The run's name: another run's moments are never taken up.
    """

    def __init__(self, state: Path, run: str) -> None:
        self._files = RoundFiles(state / "optimisers", run, ".pt")

    def load(self, networks: Networks, number: int) -> None:
        """Restore what the newest round before `number` left; without one, moments are fresh."""
        before = self._files.before(number)
        if before is None:
            if self._files.kept():
                log.warning("round %d: states of later rounds only; moments are fresh", number)
            return
        states = torch.load(before, map_location="cpu", weights_only=True)
        networks.segmenter_optimiser.load_state_dict(states["segmenter"])
        if networks.confidence_optimiser and states["confidence"]:
            networks.confidence_optimiser.load_state_dict(states["confidence"])
        second, optimiser = networks.teacher, networks.teacher_optimiser
        if optimiser and second is not None and "second_network" in states:
            second.load_state_dict(states["second_network"])
            optimiser.load_state_dict(states["second_optimiser"])

    def save(self, networks: Networks, number: int) -> None:
        """Write atomically; older rounds and runs are deleted."""
        confidence = networks.confidence_optimiser
        states: dict[str, Any] = {
            "segmenter": networks.segmenter_optimiser.state_dict(),
            "confidence": confidence.state_dict() if confidence else None,
        }
        if networks.teacher_optimiser and networks.teacher is not None:
            states["second_network"] = networks.teacher.state_dict()
            states["second_optimiser"] = networks.teacher_optimiser.state_dict()
        with self._files.written(number) as file:
            torch.save(states, file)
