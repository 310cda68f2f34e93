"""Our side's jobs of `beside_nnunet`, each in a process of its own on one core.

python -m benchmarks.beside_nnunet_job JOB.json
"""

from __future__ import annotations

import csv
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from asdnet_models.metrics import score_label_maps
from benchmarks.beside_nnunet_plan import Split
from client.data.case import Part
from protocol.config.site import SiteConfig
from protocol.config.study import EvaluationConfig, StudyProtocol, merged
from protocol.config.study_file import read_study
from protocol.files import write_json
from server.monitoring.metrics import package_versions
from server.rounds.record import StudyRecord
from simulation.experiment.scoring import best_model, score_model
from simulation.experiment.training import train_in_place
from simulation.layouts import StudyCase
from simulation.split import write_sites

# What is left of a study when S alone learns, from labelled scans.
SUPERVISED = {"sample_attention": "off", "lambda_adversarial": 0, "lambda_region": 0}
# Of the surface Dice, for both systems: a study's default.
TOLERANCE_MM = EvaluationConfig().nsd_tolerance_mm
_SITE = "P"
# Steps of the short rounds from which the time of a round without steps is told.
_FEW = 4


def read_split(content: Mapping[str, Mapping[str, tuple[str, str]]]) -> Split:
    """As `Split.as_json` has written it."""
    return Split(
        **{
            part: {name: (Path(image), Path(label)) for name, (image, label) in cases.items()}
            for part, cases in content.items()
        }
    )


def study_of(job: Mapping[str, Any], rounds: int | None, local_steps: int) -> StudyProtocol:
    """The study file's S alone with the job's seed and steps, scored after the last round.

    nnU-Net does not validate within the time either, and of both the last model counts.
    """
    study = read_study(Path(job["study"]))
    rounds = rounds or study.training.rounds
    training = {"rounds": rounds, "local_steps": local_steps}
    changes = {"training": training, "evaluation": {"every_rounds": rounds}}
    return merged(study, changes | {"seed": job["seed"], "method": SUPERVISED})


def pooled_site(job: Mapping[str, Any], folder: Path) -> SiteConfig:
    """All cases that are trained and validated on, in one folder."""
    split = read_split(job["split"])
    parts: tuple[tuple[Part, Mapping[str, tuple[Path, Path]]], ...] = (
        ("labelled", split.train),
        ("validation", split.validation),
    )
    cases = [
        StudyCase(name=name, image=image, label=label, reference=label, site=_SITE, part=part)
        for part, files in parts
        for name, (image, label) in files.items()
    ]
    return write_sites(cases, folder / "sites", Path(job["cache"]), device="cpu", threads=1)[_SITE]


def seconds_of_rounds(record: StudyRecord) -> list[float]:
    """Wall-clock of each round's training, without the evaluation."""
    return [
        done.seconds - sum(report.seconds for report in (done.evaluation or {}).values())
        for done in record.rounds
    ]


def trained(config: SiteConfig, study: StudyProtocol, run: str) -> tuple[StudyRecord, float]:
    """The training, and the share of its time in which the process had its core."""
    wall, cpu = time.perf_counter(), time.process_time()
    record = train_in_place(config, study, run)
    return record, (time.process_time() - cpu) / (time.perf_counter() - wall)


def measure_speed(job: Mapping[str, Any]) -> dict[str, Any]:
    """Core seconds a step, and a round beside its steps: from short rounds and long ones.

    The first round of each length warms up.  Core seconds are those in which the process had its
    core, so that what else runs on the machine does not count.
    """
    folder = Path(job["folder"])
    config = pooled_site(job, folder)

    def a_round(steps: int, rounds: int) -> float:
        study = study_of(job, rounds, steps)
        record, share = trained(config, study, f"speed-{steps}-{rounds}")
        later = seconds_of_rounds(record)[1:]
        return share * sum(later) / len(later)

    short = a_round(_FEW, 3)
    many = _FEW + max(_FEW, round(job["seconds"] / 2 / (short / _FEW)))
    long = a_round(many, 3)
    a_step = (long - short) / (many - _FEW)
    return {
        "seconds_a_step": a_step,
        "seconds_a_round": max(0.0, short - _FEW * a_step),
        "steps": many,
    }


def train(job: Mapping[str, Any]) -> dict[str, Any]:
    """The rounds of the study, and label maps of the test cases on their own grids."""
    folder = Path(job["folder"])
    study = study_of(job, None, job["steps"])
    config = pooled_site(job, folder)
    record, share = trained(config, study, "beside")
    seconds = sum(seconds_of_rounds(record))
    started = time.perf_counter()
    tested = [
        StudyCase(name=name, image=image, label=None, reference=label, site=_SITE, part="test")
        for name, (image, label) in read_split(job["split"]).tested.items()
    ]
    score_model(best_model(record, config), tested, Path(job["predictions"]))
    return {
        "training_seconds": seconds,
        "training_cpu_seconds": share * seconds,
        "prediction_seconds": time.perf_counter() - started,
        "steps": study.training.rounds * study.training.local_steps,
        "parameters": sum(weights.numel() for weights in record.segmenter.values()),
        "losses": [
            done.reports[_SITE].losses["total"].mean
            for done in record.rounds
            if "total" in done.reports[_SITE].losses
        ],
        "settings": study.model_dump(mode="json"),
    }


def score(job: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of the label maps of either system on the scans' own grids, a row a case and organ."""
    split, rows = read_split(job["split"]), []
    for name, (_, label) in split.tested.items():
        reference = sitk.ReadImage(str(label), sitk.sitkUInt8)
        predicted = sitk.ReadImage(str(Path(job["predictions"]) / f"{name}.nii.gz"), sitk.sitkUInt8)
        if predicted.GetSize() != reference.GetSize():
            raise ValueError(f"case {name}: predicted on another grid than its scan's")
        scores = score_label_maps(
            sitk.GetArrayFromImage(predicted),
            sitk.GetArrayFromImage(reference),
            reference.GetSpacing()[::-1],
            job["organs"],
            tolerance_mm=TOLERANCE_MM,
        )
        part = "test" if name in split.test else "withheld"
        rows += [{"case": name, "part": part, "organ": o, **asdict(s)} for o, s in scores.items()]
    with Path(job["scores"]).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return {}


STAGES: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "speed": measure_speed,
    "train": train,
    "score": score,
}


def main(path: Path) -> None:
    """Do the job, and write its result."""
    logging.basicConfig(level=logging.WARNING)
    job = json.loads(path.read_text(encoding="utf-8"))
    result = STAGES[job["stage"]](job)
    write_json(Path(job["result"]), result | {"versions": package_versions()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
