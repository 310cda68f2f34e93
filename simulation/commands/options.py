"""Options that `run` and `tables` share, and what follows from them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from protocol.config import presets
from protocol.config.presets import PresetName
from protocol.config.study import ProtocolError, StudyProtocol
from protocol.config.study_file import read_study
from protocol.config.training import MOST
from reporting.terminal import user_errors
from simulation.commands.organs import organs_of, refuse_other_organs
from simulation.errors import CohortError, SplitError, StudyFolderError


@contextmanager
def simulation_errors() -> Iterator[None]:
    """What a user of the simulation can mend."""
    from client.data.errors import ScanError
    from client.data.folder.layout import LayoutError
    from protocol.planning.budget import PlanError
    from server.rounds.errors import QuorumError

    with user_errors(
        CohortError,
        LayoutError,
        PlanError,
        ProtocolError,
        QuorumError,
        ScanError,
        SplitError,
        StudyFolderError,
    ):
        yield


_PRESET: PresetName = "quick"
PLANNED: PresetName = "planned"


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """The cohort, the length of training, and the machine."""

    preset: Annotated[
        PresetName | None,
        typer.Option(
            help="A study by name: smoke (a minute), quick (ten minutes; where nothing else is "
            "named), planned (quick's grid with a plan's recipe), paper (hours on a GPU)."
        ),
    ] = None
    study: Annotated[
        Path | None, typer.Option(help="YAML file of a study, instead of a preset.")
    ] = None
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Rounds, instead of the preset's."),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Local steps a round, instead of the preset's."),
    ] = None
    organs: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Label values of a folder's label maps, as anterior=1,posterior=2; else its "
            "dataset.json's.",
        ),
    ] = None
    labelled: Annotated[
        int | None,
        typer.Option(min=1, help="So many labelled cases, in name order; else all."),
    ] = None
    unlabelled: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="So many unlabelled cases: of imagesUn/, else all of it; where there is none, the "
            "last so many in name order have their labels withheld, else none.",
        ),
    ] = None
    sites: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=26,
            help="Hospitals that cases are dealt to; else 6, or fewer of under 30 labelled cases.",
        ),
    ] = None
    sites_file: Annotated[
        Path | None,
        typer.Option(
            help="CSV of case,site,split,group: the hospital that each case of the folder is of, "
            "instead of dealing; split (train, validation, test, unlabelled) and group may be "
            "empty."
        ),
    ] = None
    training_labels: Annotated[
        int | None,
        typer.Option(
            "--training-labels",
            "--labels",
            min=1,
            help="Only so many training cases stay labelled, drawn by the seed, in proportion to "
            "the sites; the others are withheld.",
        ),
    ] = None
    label_free: Annotated[
        int,
        typer.Option(min=0, help="So many sites keep no label: the last ones in name order."),
    ] = 0
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU where there is one.")
    ] = "auto"
    workers: Annotated[
        int, typer.Option(min=0, help="Sites or runs that train at once; 0: one a core.")
    ] = 0
    cache: Annotated[
        Path, typer.Option(help="Folder of made cohorts and preprocessed scans, kept between runs.")
    ] = Path("runs/cache")

    @property
    def preset_name(self) -> PresetName:
        """The preset, where another one is not asked for."""
        return self.preset or _PRESET

    def decided(
        self,
        data: Path | None,
        option: str,
        seed: int | None = None,
        start: Callable[[PresetName], StudyProtocol] = presets.preset,
    ) -> dict[str, Any]:
        """The fields of `CommonOptions`, but for the result folder.

        Args:
            data: Folder of scans; None: a phantom cohort.
            option: The one that named it.
            seed: Instead of the preset's.
            start: What a preset's name stands for.
        """
        self._refuse_contradictions(data, option)
        organs = organs_of(data, self.organs, option, self.study)
        if self.organs is None and organs is not None:
            refuse_other_organs(self.study, organs)
        return {
            "preset": self.preset_name,
            "protocol": base_protocol(
                self.preset_name,
                self.study,
                organs,
                rounds=self.rounds,
                steps=self.steps,
                seed=seed,
                start=start,
            ),
            "fixed_grid": self.study is not None,
            "data": data,
            "labelled": self.labelled,
            "unlabelled": self.unlabelled,
            "sites": self.sites,
            "sites_file": self.sites_file,
            "training_labels": self.training_labels,
            "label_free": self.label_free,
            "device": self.device,
            "workers": self.workers or os.cpu_count() or 1,
            "cache": self.cache,
        }

    def planned_on(self, data: Path | None, *, seed: int, name: str) -> dict[str, Any]:
        """As `decided`, for a study that is planned: on `planned`, where nothing else is named.

        Args:
            data: Folder of scans; None: a phantom cohort.
            seed: Instead of the preset's.
            name: Of the study; one that is planned on a file keeps that file's.
        """
        recipe = self if self.study else replace(self, preset=self.preset or PLANNED)
        # Which phantoms are made does not depend on the recipe.
        cohort = {"preset": self.preset_name, "fixed_grid": True}
        decided = recipe.decided(data, "--data", seed=seed) | cohort
        if self.study is None:
            decided["protocol"] = decided["protocol"].model_copy(update={"name": name})
        return decided

    def _refuse_contradictions(self, data: Path | None, option: str) -> None:
        """Options that would have no effect beside others.

        Raises:
            ProtocolError: With all of them.
        """
        given = {
            f"--{name.replace('_', '-')}": getattr(self, name)
            for name in ("sites_file", "sites", "labelled", "unlabelled")
        }
        mistakes = []
        if self.study and self.preset and data is not None:
            mistakes.append("--preset: has no effect beside --study; give one of the two")
        if data is None:
            needless = [name for name, value in given.items() if value is not None]
            if self.preset_name != "smoke":
                needless = [name for name in needless if name not in ("--labelled", "--unlabelled")]
            mistakes += [f"{name}: goes with {option}; phantoms have theirs" for name in needless]
        elif self.sites_file is not None:
            mistakes += [
                f"{name}: has no effect beside --sites-file, which says it; give one of the two"
                for name, value in given.items()
                if name != "--sites-file" and value is not None
            ]
        if mistakes:
            raise ProtocolError("\n".join(mistakes))


def base_protocol(
    name: PresetName,
    study: Path | None,
    organs: dict[str, int] | None,
    *,
    rounds: int | None,
    steps: int | None,
    seed: int | None,
    start: Callable[[PresetName], StudyProtocol] = presets.preset,
) -> StudyProtocol:
    """The preset or the study's file, with the changes of the command line.

    Args:
        start: What a preset's name stands for.

    Raises:
        ProtocolError: If the file breaks a rule.
    """
    base = read_study(study, start) if study else start(name)
    content = base.model_dump()
    if seed is not None:
        content["seed"] = seed
    if organs:
        content["organs"] = organs
    if rounds:
        content["training"]["rounds"] = rounds
    if steps:
        content["training"]["local_steps"] = steps
    return StudyProtocol.model_validate(content)
