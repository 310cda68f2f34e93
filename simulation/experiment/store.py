"""The files of an experiment: a folder for each training run, written atomically.

STUDY/study.json                  what was run: ExperimentInfo
STUDY/cases.json                  CaseFiles by case: where scans and labels are; for pictures alone
STUDY/runs/<run>/protocol.json    the protocol of that run
STUDY/runs/<run>/cases.csv        CaseRow: scores of every case
STUDY/runs/<run>/confidence.csv   ConfidenceRow: what the confidence map is worth (may be empty)
STUDY/runs/<run>/rounds.csv       RoundRow: losses and trusted fraction by round and site
STUDY/runs/<run>/model/           save_model's files (methods with weights)
STUDY/runs/<run>/predictions/     <case>.nii.gz, label maps of test cases on their own grid
STUDY/runs/<run>/done.json        RunInfo; written last
STUDY/report/                     report.html, tables/*.csv, figures/*.png
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from asdnet_models.sums import FailureKind
from protocol.files import write_json
from simulation.experiment.methods import folder_name

# pooled: as many rounds and local steps as one site; pooled-equal-steps: in each round as many
# steps as all sites together.
Setting = Literal["federated", "pooled", "pooled-equal-steps", "local"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)
POOLED: tuple[Setting, ...] = ("pooled", "pooled-equal-steps")


class Record(BaseModel):
    """What is stored: a line of a table, or a JSON file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True
    )


def _stored_as(name: str, **more: Any) -> Any:
    """A field that stands on the disk by an older name."""
    return Field(validation_alias=name, serialization_alias=name, **more)


AnyRecord = TypeVar("AnyRecord", bound=Record)


class RunKey(Record):
    """One training run; for the setting "local" the models of all sites are one run."""

    method: str = _stored_as("row")
    setting: Setting = _stored_as("way")
    fold: int
    seed: int

    @property
    def folder(self) -> str:
        """A name that a file system takes."""
        return f"{folder_name(self.method)}.{self.setting}.fold{self.fold}.seed{self.seed}"


class CaseRow(Record):
    """One organ of one case.

    Attributes:
        part: "test", or "withheld": an unlabelled training scan, its label known only here.
        asd_mm, hd95_mm: None where either mask is empty.
        hd95_mm, nsd: None in results of before 2026-11-29, which have neither.
        failure: How it failed; "one_empty" in those results, which do not say which mask was.
    """

    site: str
    case: str
    part: Literal["test", "withheld"]
    organ: str
    dsc: float
    asd_mm: float | None
    hd95_mm: float | None = None
    nsd: float | None = None
    failure: FailureKind | Literal["one_empty"] | None

    @field_validator("failure", mode="before")
    @classmethod
    def _older_results_have_yes_or_no(cls, value: Any) -> Any:
        return {"True": "one_empty", "False": None}.get(str(value), value)


class ConfidenceRow(Record):
    """How well a map of one withheld case separates right voxels from wrong ones.

    Attributes:
        score: "confidence" (M = sigmoid(D)) or "softmax" (the largest class probability).
        region: "all" voxels, or those that were predicted as an "organ".
        auroc: None where all voxels of the region are right, or all wrong.
        calibration_error: Expected calibration error in ten equal bins.
    """

    site: str
    case: str
    score: Literal["confidence", "softmax"]
    region: Literal["all", "organs"]
    auroc: float | None
    calibration_error: float
    accuracy: float
    voxels: int


class RoundRow(Record):
    """One site in one round; None where a term did not run, or `steps` in older results."""

    round: int
    site: str
    steps: int | None = None
    loss_total: float | None
    loss_dice: float | None
    loss_adversarial: float | None
    loss_region: float | None
    loss_confidence: float | None
    trusted_fraction: float | None
    validation_dsc: float | None
    agreement: float | None = None
    drift: float | None = None
    twin_dsc: float | None = None


class RunInfo(Record):
    """done.json: the run is complete."""

    key: RunKey
    seconds: float
    best_round: int | None
    finished: str


class ExperimentInfo(Record):
    """study.json: what was asked for, on what, by which code.

    Attributes:
        own_methods: Those that are in no table of the paper: sections of the protocol and what
            they change in them.
    """

    command: str
    started: str
    cohort: dict[str, Any]
    organs: tuple[str, ...]
    methods: tuple[str, ...] = _stored_as("rows")
    settings: tuple[Setting, ...] = _stored_as("ways")
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    own_methods: dict[str, dict[str, dict[str, Any]]] = _stored_as("own_rows", default={})
    protocol: dict[str, Any]
    versions: dict[str, str]
    notes: tuple[str, ...] = ()


def write_rows(path: Path, rows: Sequence[Record], kind: type[Record]) -> None:
    """A CSV with a header, None as an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(kind.model_fields))
        writer.writeheader()
        for row in rows:
            content = row.model_dump()
            writer.writerow({k: "" if v is None else v for k, v in content.items()})


def read_rows(path: Path, kind: type[AnyRecord]) -> list[AnyRecord]:
    """What `write_rows` wrote.

    Raises:
        pydantic.ValidationError: If the file is not of that kind.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return [
            kind.model_validate({k: None if v == "" else v for k, v in line.items()})
            for line in csv.DictReader(file)
        ]


class CaseFiles(Record):
    """Where one case's files are on this machine.  The report draws them and never names them."""

    image: Path
    reference: Path


_CASES = TypeAdapter(dict[str, CaseFiles])


def write_cases(folder: Path, cases: Mapping[str, CaseFiles]) -> None:
    """cases.json, by the case's name; relative paths are relative to the experiment's folder."""
    write_json(folder / "cases.json", _CASES.dump_python(dict(cases), mode="json"))


def read_cases(folder: Path) -> dict[str, CaseFiles]:
    """What `write_cases` wrote, with absolute paths; empty where the experiment has no such file.

    Raises:
        pydantic.ValidationError: If the file is not of that kind.
    """
    path = folder / "cases.json"
    if not path.exists():
        return {}
    return {
        name: CaseFiles(
            image=(folder / files.image).absolute(), reference=(folder / files.reference).absolute()
        )
        for name, files in _CASES.validate_json(path.read_bytes()).items()
    }


class Run(Record):
    """A complete run, as the report reads it."""

    folder: Path
    info: RunInfo
    cases: tuple[CaseRow, ...]
    confidence: tuple[ConfidenceRow, ...]
    rounds: tuple[RoundRow, ...]


def read_experiment(folder: Path) -> tuple[ExperimentInfo, list[Run]]:
    """Everything that is complete.

    Raises:
        FileNotFoundError: If the folder holds no experiment.
    """
    info = ExperimentInfo.model_validate_json((folder / "study.json").read_bytes())
    runs = [_read_run(done.parent) for done in sorted((folder / "runs").glob("*/done.json"))]
    return info, runs


def _read_run(folder: Path) -> Run:
    def rows(name: str, kind: type[AnyRecord]) -> Iterable[AnyRecord]:
        path = folder / name
        return tuple(read_rows(path, kind)) if path.exists() else ()

    return Run(
        folder=folder,
        info=RunInfo.model_validate_json((folder / "done.json").read_bytes()),
        cases=tuple(rows("cases.csv", CaseRow)),
        confidence=tuple(rows("confidence.csv", ConfidenceRow)),
        rounds=tuple(rows("rounds.csv", RoundRow)),
    )
