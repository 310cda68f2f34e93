"""The accepted updates of one round, on the disk; only norms and reports are in memory.

With all of them in memory the centre would need more of it with each hospital that joins.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.agreement.bounds import distance
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.reports import TrainReport
from protocol.wire.weights import Weights
from server.rounds.aggregation import average_stored, outsized_updates


@dataclass(frozen=True, kw_only=True)
class Update:
    """One site's accepted answer to a round of training.

    Attributes:
        report: What it measured.
        bytes_up: What its weights took on the wire.
        norms: Of what it changes, by network.
    """

    report: TrainReport
    bytes_up: int
    norms: Mapping[str, float]


class RoundUpdates:
    """Updates from their acceptance to their average.

    The files are this process's own, for one round.  After a crash that round is trained again:
    nothing reads them, so they are not synced to the disk, and a new start deletes them.

    Args:
        folder: Of their own, cleared now and by `close`; None: a temporary one.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.mkdtemp(prefix="round-updates-"))
        self.accepted: dict[str, Update] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all updates, on the disk too."""
        self.accepted.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)

    def close(self) -> None:
        """Leave nothing behind."""
        self.accepted.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(
        self,
        site: str,
        report: TrainReport,
        bytes_up: int,
        networks: Mapping[str, Weights],
        current: Mapping[str, Weights],
    ) -> None:
        """Keep one site's update.

        Args:
            site: Its name.
            report: What it measured.
            bytes_up: What the weights took on the wire.
            networks: The update as weights, by network.
            current: The global weights that it changes.
        """
        norms = {name: distance(weights, current[name]) for name, weights in networks.items()}
        for name, weights in networks.items():
            with self._file(site, name).open("wb") as file:
                for key in current[name]:
                    weights[key].numpy().tofile(file)
        self.accepted[site] = Update(report=report, bytes_up=bytes_up, norms=norms)

    def leave_out(self, site: str) -> None:
        """Drop one."""
        for name in self.accepted.pop(site).norms:
            self._file(site, name).unlink()

    def outsized(self, max_ratio: float) -> dict[str, float]:
        """Sites whose update of either network is too large among their like, and how much.

        Label-free sites are held near the global weights; they have a median of their own.
        """
        ratios: dict[str, float] = {}
        for labelled in (True, False):
            alike = {s: u for s, u in self.accepted.items() if bool(u.report.labelled) is labelled}
            for network in (SEGMENTER, CONFIDENCE):
                norms = {s: u.norms[network] for s, u in alike.items() if network in u.norms}
                ratios |= outsized_updates(norms, max_ratio)
        return ratios

    def with_network(self, network: str) -> list[str]:
        """The sites that sent this network, sorted."""
        return sorted(site for site, update in self.accepted.items() if network in update.norms)

    def average(self, network: str, shares: Mapping[str, float], like: Weights) -> Weights:
        """Sum of share * weights; see `average_stored`."""
        return average_stored({s: self._file(s, network) for s in shares}, shares, like)

    def _file(self, site: str, network: str) -> Path:
        return self._folder / f"{site}.{network}.f32"
