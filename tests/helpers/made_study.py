"""A made-up study, written through the store: plausible numbers, tiny scans, nothing trained."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from protocol.config.study import StudyProtocol
from simulation.experiment.store import (
    SETTINGS,
    CaseFiles,
    CaseRow,
    ConfidenceRow,
    ExperimentInfo,
    RoundRow,
    RunInfo,
    RunKey,
    Setting,
    write_cases,
    write_rows,
)

ORGANS = {"bladder": 2, "rectum": 5}
# Mean DSC: ASDNet leads AttSVNet+FCN by far, AttSVNet beats AttSVNet+FCN (not so in the paper),
# AttSVNet and SVNet are as good as equal.
ROWS: Mapping[str, float] = {
    "SVNet": 0.78,
    "AttSVNet": 0.78,
    "AttSVNet+FCN": 0.74,
    "ASDNet": 0.84,
}
WAY_SHIFT: Mapping[Setting, float] = {
    "federated": 0.0,
    "pooled": 0.03,
    "pooled-equal-steps": 0.05,
    "local": -0.08,
}
_NOISE = 0.006


def case_name(site: str, fold: int, number: int) -> str:
    return f"secret-{site}-{fold}-{number}"


def make_study(
    folder: Path,
    *,
    rows: Mapping[str, float] = ROWS,
    organs: Mapping[str, int] = ORGANS,
    sites: Sequence[str] = ("A", "B"),
    folds: Sequence[int] = (0, 1),
    seeds: Sequence[int] = (1, 2),
    cases: int = 4,
    rounds: int = 6,
    images: bool = True,
) -> Path:
    """Sites with labels and a label-free site F, whose scans are withheld.

    Every row is federated; ASDNet is pooled, twice, and local too.
    """
    ways: dict[str, tuple[Setting, ...]] = {row: ("federated",) for row in rows}
    ways["ASDNet"] = SETTINGS
    write_info(folder, rows=rows, organs=organs, folds=folds, seeds=seeds)
    for row, level in rows.items():
        for way in ways[row]:
            for fold in folds:
                for seed in seeds:
                    key = RunKey(method=row, setting=way, fold=fold, seed=seed)
                    _run(folder, key, level + WAY_SHIFT[way], sites, organs, cases, rounds)
    if images:
        _images(folder, rows, organs, sites, folds, seeds, cases)
    return folder


def write_info(
    folder: Path,
    *,
    rows: Iterable[str],
    organs: Mapping[str, int],
    folds: Sequence[int] = (0,),
    seeds: Sequence[int] = (1, 2),
    kind: str = "phantom",
    cohort: Mapping[str, Any] | None = None,
) -> None:
    """study.json of a new study."""
    (folder / "runs").mkdir(parents=True)
    info = ExperimentInfo(
        command="asdnet-sim tables --folds 2",
        started="2026-03-01T10:00:00+00:00",
        cohort=dict(cohort or {"kind": kind, "version": 2, "sha256": "c0ffee" * 8}),
        organs=tuple(organs),
        methods=tuple(rows),
        settings=SETTINGS,
        folds=tuple(folds),
        seeds=tuple(seeds),
        protocol=StudyProtocol(name="made", organs=dict(organs)).model_dump(mode="json"),
        versions={"torch": "2.13.0"},
        notes=("A made-up study.",),
    )
    (folder / "study.json").write_text(info.model_dump_json(), encoding="utf-8")


def write_run(
    study: Path,
    key: RunKey,
    cases: Sequence[CaseRow],
    confidence: Sequence[ConfidenceRow] = (),
    rounds: Sequence[RoundRow] = (),
) -> None:
    """A complete run."""
    folder = study / "runs" / key.folder
    folder.mkdir()
    write_rows(folder / "cases.csv", cases, CaseRow)
    if confidence:
        write_rows(folder / "confidence.csv", confidence, ConfidenceRow)
    if rounds:
        write_rows(folder / "rounds.csv", rounds, RoundRow)
    info = RunInfo(key=key, seconds=60.0, best_round=1, finished="2026-03-01T12:00:00+00:00")
    (folder / "done.json").write_text(info.model_dump_json(), encoding="utf-8")


def _run(
    study: Path,
    key: RunKey,
    level: float,
    sites: Sequence[str],
    organs: Mapping[str, int],
    cases: int,
    rounds: int,
) -> None:
    rng = np.random.default_rng(
        [len(key.method), ord(key.method[0]), key.fold, key.seed, len(key.setting)]
    )
    scored = [
        _case(key, level, site, number, organ, rng)
        for site in (*sites, "F")
        if not (site == "F" and key.setting == "local")
        for number in range(cases)
        for organ in organs
    ]
    known = [
        _confidence(number, which, region, rng)
        for number in range(cases)
        for which in ("confidence", "softmax")
        for region in ("all", "organs")
    ]
    curve = [
        _round(key, level, number, rounds, site, rng)
        for number in range(1, rounds + 1)
        for site in (*sites, "F")
    ]
    federated = key.setting == "federated"
    semi = key.method in ("ASDNet", "AttSVNet+FCN")
    write_run(
        study,
        key,
        scored,
        known if semi and key.setting != "local" else (),
        curve if federated else (),
    )


def _case(
    key: RunKey, level: float, site: str, number: int, organ: str, rng: np.random.Generator
) -> CaseRow:
    """Cases differ more than rows do, and alike in all rows: so pairing matters."""
    hard = 0.05 * np.cos(number + key.fold) - (0.04 if organ == "rectum" else 0.0)
    dsc = float(np.clip(level + hard + rng.normal(0, _NOISE), 0, 1))
    # Missed in every seed: SVNet, the rectum of the last case of site B in fold 1.
    failure = (key.method, organ, site, key.fold, number) == ("SVNet", "rectum", "B", 1, 3)
    part = "withheld" if site == "F" else "test"
    return CaseRow(
        site=site,
        # The label-free site's scans are the same in every fold.
        case=case_name(site, 0 if site == "F" else key.fold, number),
        part=part,
        organ=organ,
        dsc=0.0 if failure else dsc,
        asd_mm=None if failure else round(10 * (1 - dsc), 3),
        hd95_mm=None if failure else round(30 * (1 - dsc), 3),
        nsd=0.0 if failure else round(dsc**2, 4),
        failure="missed" if failure else None,
    )


def _confidence(number: int, which: str, region: str, rng: np.random.Generator) -> ConfidenceRow:
    level = 0.62 if which == "confidence" else 0.80
    auroc = None if (number, region) == (0, "all") else level + rng.normal(0, 0.01)
    return ConfidenceRow(
        site="F",
        case=case_name("F", 0, number),
        score=which,
        region=region,
        auroc=auroc,
        calibration_error=0.3 if which == "confidence" else 0.05,
        accuracy=0.9,
        voxels=1000,
    )


def _round(
    key: RunKey, level: float, number: int, rounds: int, site: str, rng: np.random.Generator
) -> RoundRow:
    done = number / rounds
    labelled, semi = site != "F", key.method == "ASDNet" and done > 0.25
    loss = (1 - level) + 0.7 * np.exp(-4 * done) + rng.normal(0, 0.01)
    return RoundRow(
        round=number,
        site=site,
        steps=10,
        loss_total=loss,
        loss_dice=loss * 0.8 if labelled else None,
        loss_adversarial=0.9 if key.method in ("ASDNet", "AttSVNet+FCN") else None,
        loss_region=0.3 if semi else None,
        loss_confidence=1.2 if labelled and key.method in ("ASDNet", "AttSVNet+FCN") else None,
        trusted_fraction=min(1.0, 0.3 + 0.4 * done + 0.02 * ord(site[0]) % 0.1) if semi else None,
        validation_dsc=level * (1 - np.exp(-4 * done)) if number % 2 == 0 else None,
    )


def _images(
    study: Path,
    rows: Mapping[str, float],
    organs: Mapping[str, int],
    sites: Sequence[str],
    folds: Sequence[int],
    seeds: Sequence[int],
    cases: int,
) -> None:
    """Tiny scans, and each row's prediction: the reference, shifted by a voxel."""
    data = study.parent / "private-data"
    data.mkdir()
    files = {}
    for fold in folds:
        for site in sites:
            for number in range(cases):
                name = case_name(site, fold, number)
                image, label = _scan(organs, number)
                paths = CaseFiles(
                    image=data / f"{name}.nii.gz", reference=data / f"{name}-l.nii.gz"
                )
                _save(image, paths.image)
                _save(label, paths.reference)
                files[name] = paths
                for row in rows:
                    for seed in seeds:
                        key = RunKey(method=row, setting="federated", fold=fold, seed=seed)
                        found = study / "runs" / key.folder / "predictions" / f"{name}.nii.gz"
                        found.parent.mkdir(exist_ok=True)
                        _save(np.roll(label, len(row) % 3, axis=2), found)
    write_cases(study, files)


def _scan(organs: Mapping[str, int], number: int) -> tuple[np.ndarray, np.ndarray]:
    """A body with one ball an organ, (Z, Y, X)."""
    z, y, x = np.mgrid[:16, :28, :32].astype(float)
    rng = np.random.default_rng(number)
    image = 300.0 * (((x - 16) / 15) ** 2 + ((y - 14) / 13) ** 2 < 1)
    label = np.zeros(image.shape, np.uint8)
    for place, value in enumerate(organs.values()):
        centre_y = 7 + 13 * place / max(1, len(organs) - 1)
        ball = (x - 16) ** 2 + (y - centre_y) ** 2 + (1.5 * (z - 8)) ** 2 < 20
        label[ball] = value
        image += 200.0 * ball * (place + 1)
    return (image + rng.normal(0, 20, image.shape)).astype(np.int16), label


def _save(array: np.ndarray, path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.5, 1.5, 3.0))
    sitk.WriteImage(image, str(path))
