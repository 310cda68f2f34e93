"""The accepted updates of one round, on the disk; only norms and reports are in memory.

With all of them in memory the centre would need more of it with each hospital that joins.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.agreement.bounds import distance
from protocol.config.study import Rule
from protocol.wire.reports import TrainReport
from protocol.wire.weights import Weights
from server.rounds.aggregation import StoredUpdates, combine


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
        self.clipped: dict[str, dict[str, float]] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all updates, on the disk too."""
        self.accepted.clear()
        self.clipped.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)

    def close(self) -> None:
        """Leave nothing behind."""
        self.accepted.clear()
        self.clipped.clear()
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

    @property
    def norms(self) -> dict[str, Mapping[str, float]]:
        """Of what the updates change, as they were received, by site and network."""
        return {site: update.norms for site, update in sorted(self.accepted.items())}

    def clip(self, factors: Mapping[str, Mapping[str, float]]) -> None:
        """By what an update's change is multiplied when it is averaged, by site and network."""
        self.clipped = {site: dict(of_site) for site, of_site in sorted(factors.items())}

    def with_network(self, network: str) -> list[str]:
        """The sites that sent this network, sorted."""
        return sorted(site for site, update in self.accepted.items() if network in update.norms)

    def combine(
        self, network: str, shares: Mapping[str, float], current: Weights, rule: Rule, hostile: int
    ) -> Weights:
        """One network's updates as one; see `server.rounds.aggregation.combine`."""
        updates = StoredUpdates(
            files={site: self._file(site, network) for site in shares},
            current=current,
            factors={s: of[network] for s, of in self.clipped.items() if network in of},
        )
        return combine(updates, shares, rule, hostile)

    def _file(self, site: str, network: str) -> Path:
        return self._folder / f"{site}.{network}.f32"
