"""What every simulation is asked for: the cohort, the study and the machine."""

from dataclasses import dataclass
from pathlib import Path

from protocol.config.presets import PresetName
from protocol.config.study import StudyProtocol
from simulation.experiment.benchmarks import Benchmark


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The cohort, the study and the machine.

    Attributes:
        preset: Which phantom cohort, and how many voxels the grid aims at.
        protocol: Before it is fitted to the scans; its seed assigns cases to sites and folds.
        fixed_grid: Whether spacing and patch stay as they are.
        data: Folder of scans; None: the phantom cohort of the preset, made in the cache.
        labelled: How many cases; None: all, and none is withheld; unlabelled alike.
        sites: Hospitals that cases are dealt to; None: those of `sites_file`, or `usual_sites`.
        sites_file: CSV of case, site, split, group; None: cases are dealt to the sites.
        benchmark: Says the parts of a folder's cases, instead of the folds.
        training_labels: Labelled training cases that stay so; None: all.
        label_free: So many sites keep no label, the last ones in name order.
        out: Result folder.
        workers: Processes.
        cache: Made cohorts and preprocessed scans.
    """

    preset: PresetName
    protocol: StudyProtocol
    fixed_grid: bool
    data: Path | None
    labelled: int | None
    unlabelled: int | None
    sites: int | None
    sites_file: Path | None
    benchmark: Benchmark | None = None
    training_labels: int | None = None
    label_free: int = 0
    out: Path
    device: str
    workers: int
    cache: Path
