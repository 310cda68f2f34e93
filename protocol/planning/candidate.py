"""What the search of a plan looks at, and what it finds."""

from dataclasses import dataclass

from protocol.planning.budget import Machines
from protocol.planning.cost import GIB, Cost
from protocol.planning.rules import USABLE_MEMORY, USABLE_TIME
from protocol.planning.topology import Edges, Millimetres, Topology


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network on a grid, and what it takes.

    Attributes:
        whole: The median scan on this grid, voxels.
        local_steps: That a round has time for.
        larger: The same network on the next larger patch, which was too much; None: was not tried.
    """

    spacing_mm: Millimetres
    whole: tuple[float, float, float]
    patch: Edges
    topology: Topology
    width: int
    batch: int
    cost: Cost
    step_s: float
    local_steps: int
    larger: "Candidate | None" = None

    def patches(self, rounds: int) -> int:
        """Labelled patches of a site in a study of so many rounds."""
        return self.local_steps * rounds * self.batch

    def minutes_of(self, steps: int) -> float:
        """Minutes of a round of so many steps, of which they are only a share."""
        return steps * self.step_s / 60 / USABLE_TIME


def too_large(candidate: Candidate, machines: Machines) -> bool:
    """Whether a step takes more memory than may be used."""
    return candidate.cost.bytes > USABLE_MEMORY * machines.memory_gib * GIB


@dataclass(frozen=True, kw_only=True)
class Found:
    """The first candidate that does, and what stands against more of each kind.

    Attributes:
        chosen: The candidate.
        wished: Labelled patches of a site that were looked for first.
        enough: And that the chosen one was taken for.
        enough_wider: And that a wider network would have had to leave time for.
        covers: Whether patches had to cover most of the scan.
        finer: The narrowest network on the next finer grid; None: there is none.
        smaller_would_fit: Whether one would do there with less of the scan in a patch.
        wider: The next wider network on this grid; None: there is none.
    """

    chosen: Candidate
    wished: int
    enough: int
    enough_wider: int
    covers: bool
    finer: Candidate | None
    smaller_would_fit: bool
    wider: Candidate | None
