"""A site's own moving average of the global S, of the rounds that it was sent."""

from pathlib import Path
from typing import Literal

from safetensors.torch import save

from asdnet_models.model_files import load_tensors
from client.training.state_folder import RoundFiles
from protocol.agreement.average import Average, averaged
from protocol.wire.weights import Weights

_MASS = "mass"


class AverageStore:
    """The average of one run, kept by round on the site's own disk.

    A site that took part in every round has the centre's average; one that was away, or has
    nothing to train on, has that of the rounds for which it was sent weights.

    Args:
        state: The site's state folder.
        run: The run's name.
        decay: What a round weighs of its successor.
        kind: Of the averages: the judged one, or the one that a teacher goes on from.
    """

    def __init__(
        self,
        state: Path,
        run: str,
        decay: float,
        kind: Literal["averages", "teachers"] = "averages",
    ) -> None:
        folders = {"averages": state / "averages", "teachers": state / "teachers"}
        self._files = RoundFiles(folders[kind], run, ".safetensors")
        self._decay = decay

    def of(self, weights: Weights, round_number: int) -> Average:
        """The average up to a round, of which these are the global weights; nothing is written."""
        path = self._files.before(round_number)
        before = None if path is None else _read(path)
        return averaged(before, weights, round_number, self._decay)

    def add(self, weights: Weights, round_number: int) -> Weights:
        """Keep and give the average up to a round from whose global weights the next one begins.

        Trained again after a crash of the centre, that next round brings the same file.
        """
        average = self.of(weights, round_number)
        with self._files.written(round_number) as file:
            file.write(save(average.weights, {_MASS: repr(average.mass)}))
        return average.weights


def _read(path: Path) -> Average:
    weights, texts = load_tensors(path)
    number = int(path.stem.removeprefix("round-"))
    return Average(weights=weights, round=number, mass=float(texts[_MASS]))
