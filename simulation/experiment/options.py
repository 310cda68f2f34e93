"""Options of a simulated run and of an experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.planning.budget import Budget
from simulation.experiment.methods import Method
from simulation.experiment.plan import plan_runs
from simulation.experiment.store import RunKey, Setting
from simulation.options import CommonOptions
from simulation.partial_labels import Hidden


@dataclass(frozen=True, kw_only=True)
class RunOptions(CommonOptions):
    """One federated study of one fold.

    Attributes:
        mlflow_uri: None: a store in the result folder.
        local_only: Also train each site with labels by itself.
        pooled: Also train one model on all sites' cases, for the steps of all sites.
        hidden: By site, organs that it has not drawn.
        left_out: Sites that do not take part.
        budget: Of a study that is to be planned on the protocol; None: the protocol is the study.
        steps: Local steps of a planned study; None: as many as there is time for.
    """

    fold: int
    mlflow_uri: str | None
    local_only: bool
    pooled: bool = False
    hidden: Hidden = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    sites_per_gpu: int = 1
    budget: Budget | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions(CommonOptions):
    """Many methods over settings, folds and seeds.

    Attributes:
        optional: Methods that nobody has named: left out where the study does not allow them.
        compared: Methods that are trained in all the settings.
    """

    methods: Mapping[str, Method]
    settings: tuple[Setting, ...]
    compared: tuple[str, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    optional: frozenset[str] = frozenset()

    @property
    def runs(self) -> list[RunKey]:
        """All runs, in order."""
        return plan_runs(self.methods, self.settings, self.compared, self.folds, self.seeds)
