"""One baseline over a study's cases: whose atlases, whose encoder, and the scores."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import SimpleITK as sitk
import torch

from asdnet_models.sums import SumCount
from client.data.cache import (
    CachedCase,
    cached_case,
)
from client.data.case import Case
from client.data.files.image_io import (
    read_image,
    write_label_map,
)
from client.training.evaluation import label_map_on_scan, score_label_map
from protocol.config.schedule import OrganBox, mean_box
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.weights import Weights
from reporting.unexpected import working_on
from simulation.baselines import malf, ssae
from simulation.baselines.encoder import SiteScans, train_encoder
from simulation.baselines.malf import MalfOptions
from simulation.baselines.ssae import SsaeOptions
from simulation.baselines.volumes import atlas_of, volume_of
from simulation.experiment.scoring import case_rows, scored_cases
from simulation.experiment.store import CaseRow, Setting
from simulation.layouts import StudyCase
from simulation.processes import all_results, spawned_pool

Kind = Literal["malf", "ssae"]
_EVERYONE = ""  # no name of a site


class BaselineError(ValueError):
    """The baseline cannot be run in this setting, or on these cases."""


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """Settings of both baselines."""

    malf: MalfOptions = field(default_factory=MalfOptions)
    ssae: SsaeOptions = field(default_factory=SsaeOptions)


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """A case of the study as a process of its own can open it."""

    case: Case
    cache: Path

    def on_study_grid(self, protocol: StudyProtocol) -> CachedCase:
        return cached_case(self.case, self.cache, protocol)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One case to be segmented and scored; an encoder where the baseline has one."""

    target: StudyCase
    scan: _Scan
    atlases: tuple[_Scan, ...]
    encoder: Weights | None
    protocol: StudyProtocol
    options: BaselineOptions
    predictions: Path | None


def run_baseline(
    kind: Kind,
    setting: Setting,
    configs: Mapping[str, SiteConfig],
    protocol: StudyProtocol,
    cases: Sequence[StudyCase],
    workers: int,
    predictions: Path | None,
    options: BaselineOptions | None = None,
) -> list[CaseRow]:
    """Scores of every test case and of every withheld case that has a reference.

    Args:
        kind: "malf" or "ssae".
        setting: "local": a site's own atlases and encoder. "pooled": everyone's, for comparison
            only, because atlases are patients. "federated": the encoder is averaged over all sites,
            those without labels included, and matched with the site's own atlases. A site
            without labels has no atlases: its cases are scored in the pooled setting alone.
        configs: Sites by name, for their caches.
        protocol: Grid, organs and seed; same seed, same result, whatever `workers` is.
        cases: All of the study, with sites and parts; validation cases are not used.
        workers: Processes.
        predictions: Folder for the test cases' label maps, <case>.nii.gz on their own grid.
        options: Settings; the defaults if None.

    Returns:
        In the order of `cases`, then of the organs.

    Raises:
        BaselineError: If MALF is to be federated, or no case is labelled.
        ScanError: If a file cannot be used.
    """
    options = options or BaselineOptions()
    atlases = _atlases(kind, setting, configs, cases)
    if predictions is not None:
        predictions.mkdir(parents=True, exist_ok=True)
    with spawned_pool(workers, initializer=_one_thread) as pool:
        encoders: dict[str, Weights] = {}
        if kind == "ssae":
            encoders = _train_encoders(pool, setting, configs, protocol, cases, atlases, options)
        jobs = [
            _Job(
                target=case,
                scan=_scan(case, configs),
                atlases=atlases[_group(case, setting)],
                encoder=encoders.get(_EVERYONE, encoders.get(case.site)),
                protocol=protocol,
                options=options,
                predictions=predictions if case.part == "test" else None,
            )
            for case in scored_cases(cases)
            if _group(case, setting) in atlases
        ]
        by_case = all_results([pool.submit(_segment_and_score, job) for job in jobs])
    return [row for rows in by_case for row in rows]


def _atlases(
    kind: Kind, setting: Setting, configs: Mapping[str, SiteConfig], cases: Sequence[StudyCase]
) -> dict[str, tuple[_Scan, ...]]:
    """The labelled scans by site, or all of them under one name."""
    if kind == "malf" and setting == "federated":
        raise BaselineError(
            "MALF: has no weights, so nothing to average over sites; run it pooled or local"
        )
    labelled = [case for case in cases if case.part == "labelled"]
    if not labelled:
        raise BaselineError(f"{kind.upper()}: no case is labelled, so there is no atlas; label one")
    return _by_site(labelled, configs, pooled=setting == "pooled")


def _train_encoders(
    pool: Executor,
    setting: Setting,
    configs: Mapping[str, SiteConfig],
    protocol: StudyProtocol,
    cases: Sequence[StudyCase],
    atlases: Mapping[str, tuple[_Scan, ...]],
    options: BaselineOptions,
) -> dict[str, Weights]:
    """By site for the local setting, one for everyone otherwise."""
    training = [case for case in cases if case.part in ("labelled", "unlabelled")]
    scans = _by_site(training, configs, pooled=setting == "pooled")
    if setting == "local":
        asked = {site: ({site: scans[site]}, atlases[site]) for site in atlases}
    else:
        everyone = tuple(scan for of_site in atlases.values() for scan in of_site)
        asked = {_EVERYONE: (scans, everyone)}
    futures = [pool.submit(_train, *of_name, protocol, options) for of_name in asked.values()]
    return dict(zip(asked, all_results(futures), strict=True))


def _train(
    sites: Mapping[str, tuple[_Scan, ...]],
    labelled: Sequence[_Scan],
    protocol: StudyProtocol,
    options: BaselineOptions,
) -> Weights:
    images = {
        site: SiteScans(images=[scan.on_study_grid(protocol).image for scan in scans])
        for site, scans in sites.items()
    }
    boxes = [scan.on_study_grid(protocol).organ_box for scan in labelled]
    box = _mean_box([box for box in boxes if box is not None])
    return train_encoder(images, box, options.ssae.encoder, protocol.seed)


def _segment_and_score(job: _Job) -> list[CaseRow]:
    with working_on(f"case {job.target.name}"):
        return _scores_of(job)


def _scores_of(job: _Job) -> list[CaseRow]:
    case = job.scan.on_study_grid(job.protocol)
    target, classes = volume_of(case), job.protocol.classes
    atlases = [atlas_of(scan.on_study_grid(job.protocol)) for scan in job.atlases]
    if job.encoder is None:
        probabilities = malf.class_probabilities(target, atlases, classes, job.options.malf)
    else:
        probabilities = ssae.class_probabilities(
            target, atlases, classes, job.encoder, job.options.ssae
        )
    scan = read_image(job.target.image, case=job.target.name)
    label = label_map_on_scan(probabilities, job.protocol, case, scan)
    if job.predictions is not None:
        write_label_map(label, scan, job.predictions / f"{job.target.name}.nii.gz")
    return case_rows(job.target, score_label_map(label, job.protocol, case, scan))


def _group(case: StudyCase, setting: Setting) -> str:
    """Whose atlases a case is segmented with."""
    return _EVERYONE if setting == "pooled" else case.site


def _by_site(
    cases: Sequence[StudyCase], configs: Mapping[str, SiteConfig], *, pooled: bool
) -> dict[str, tuple[_Scan, ...]]:
    """Scans by site, or all of them under one name; sites without any are left out."""
    scans: dict[str, tuple[_Scan, ...]] = {}
    for case in cases:
        name = _EVERYONE if pooled else case.site
        scans[name] = (*scans.get(name, ()), _scan(case, configs))
    return scans


def _scan(case: StudyCase, configs: Mapping[str, SiteConfig]) -> _Scan:
    """With the reader's label for an atlas, with the reference for what is scored.

    An unlabelled scan's reference is in its cache entry for scoring; nothing trains on it.
    """
    label = case.label if case.part == "labelled" else case.reference
    return _Scan(
        case=Case(name=case.name, part=case.part, image=case.image, label=label),
        cache=configs[case.site].cache,
    )


def _mean_box(boxes: Sequence[tuple[float, ...]]) -> OrganBox | None:
    edges = (SumCount(sum=sum(edge), count=len(boxes)) for edge in zip(*boxes, strict=True))
    return mean_box(edges) if boxes else None


def _one_thread() -> None:
    """A process a core; and sums in one order, so that results do not depend on the machine."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    torch.set_num_threads(1)
