"""Whose atlases and whose encoder, and the rows that come back."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.folder.layout import find_cases
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.weights import Weights
from simulation.baselines.encoder import EncoderOptions, SiteScans
from simulation.baselines.ssae import SsaeOptions
from simulation.experiment import baseline
from simulation.experiment.baseline import BaselineError, BaselineOptions, run_baseline
from simulation.layouts import StudyCase

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]
SMALL = BaselineOptions(
    ssae=SsaeOptions(
        encoder=EncoderOptions(patch=3, widths=(12,), rounds=1, steps=20, batch=64), search=1
    )
)


@pytest.fixture(autouse=True)
def one_itk_thread(one_thread: None) -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def study_cases(config: SiteConfig) -> list[StudyCase]:
    """Names are made the study's own; every label is known to the study, none of F's to F."""
    return [
        StudyCase(
            name=f"{config.site}-{case.part}-{case.image.name.split('.')[0][-1]}",
            image=case.image,
            label=case.label if case.part == "labelled" else None,
            reference=case.label,
            site=config.site,
            part=case.part,
        )
        for case in find_cases(config.data)
    ]


@pytest.fixture
def two_sites(make_site: MakeSite) -> tuple[dict[str, SiteConfig], list[StudyCase]]:
    """A with labels; F with one scan whose reference the study alone knows."""
    configs = {"A": make_site("A", labelled=2, test=1), "F": make_site("F", unlabelled=1)}
    labels = make_site("L", labelled=1).data / "labelsTr"  # of another scan
    cases = study_cases(configs["A"])
    (withheld,) = study_cases(configs["F"])
    (reference,) = labels.iterdir()
    return configs, [
        *cases,
        StudyCase(
            name=withheld.name,
            image=withheld.image,
            label=None,
            reference=reference,
            site="F",
            part="unlabelled",
        ),
    ]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own takes seconds to start; one test does it for real."""
    monkeypatch.setattr(
        baseline, "spawned_pool", lambda workers, initializer: ThreadPoolExecutor(workers)
    )


def test_malf_has_nothing_to_average(
    make_protocol: MakeProtocol, two_sites: tuple[dict[str, SiteConfig], list[StudyCase]]
) -> None:
    configs, cases = two_sites
    with pytest.raises(BaselineError, match="nothing to average"):
        run_baseline("malf", "federated", configs, make_protocol(), cases, 1, None)
    with pytest.raises(BaselineError, match="no case is labelled"):
        run_baseline("malf", "local", configs, make_protocol(), cases[-1:], 1, None)


def test_local_scores_the_test_cases_of_sites_with_atlases(
    make_protocol: MakeProtocol,
    two_sites: tuple[dict[str, SiteConfig], list[StudyCase]],
    tmp_path: Path,
) -> None:
    configs, cases = two_sites
    folder = tmp_path / "predictions"
    rows = run_baseline("malf", "local", configs, make_protocol(), cases, 1, folder)
    assert [(r.site, r.case, r.part, r.organ) for r in rows] == [
        ("A", "A-test-0", "test", "ball"),
        ("A", "A-test-0", "test", "rod"),
    ]
    assert all(row.dsc > 0.75 and row.asd_mm is not None and not row.failure for row in rows)
    (written,) = folder.iterdir()
    found = sitk.ReadImage(str(written))
    scan = sitk.ReadImage(str(next(c.image for c in cases if c.part == "test")))
    assert written.name == "A-test-0.nii.gz" and found.GetOrigin() == scan.GetOrigin()
    assert set(np.unique(sitk.GetArrayFromImage(found))) == {0, 2, 5}


def test_pooled_scores_the_withheld_case_of_a_site_without_labels(
    make_protocol: MakeProtocol,
    two_sites: tuple[dict[str, SiteConfig], list[StudyCase]],
    tmp_path: Path,
    in_this_process: None,
) -> None:
    configs, cases = two_sites
    out = tmp_path / "out"
    args = (configs, make_protocol(), cases, 1)
    rows = run_baseline("ssae", "pooled", *args, out, SMALL)
    assert [(r.site, r.part, r.organ) for r in rows] == [
        ("A", "test", "ball"),
        ("A", "test", "rod"),
        ("F", "withheld", "ball"),
        ("F", "withheld", "rod"),
    ]
    assert rows[0].dsc > 0.7
    assert rows[2].dsc < rows[0].dsc - 0.1  # F's reference belongs to another scan
    assert [path.name for path in out.iterdir()] == ["A-test-0.nii.gz"]
    assert rows == run_baseline("ssae", "pooled", *args, None, SMALL)


def test_federated_matches_a_site_with_its_own_atlases_and_everyones_encoder(
    make_protocol: MakeProtocol,
    two_sites: tuple[dict[str, SiteConfig], list[StudyCase]],
    in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs, cases = two_sites
    trained_on: list[dict[str, int]] = []
    train = baseline.train_encoder

    def spy(sites: Mapping[str, SiteScans], *rest: Any) -> Weights:
        trained_on.append({name: len(site.images) for name, site in sites.items()})
        return train(sites, *rest)

    monkeypatch.setattr(baseline, "train_encoder", spy)
    args = (configs, make_protocol(), cases, 1, None, SMALL)
    rows = {setting: run_baseline("ssae", setting, *args) for setting in ("federated", "local")}
    assert trained_on == [{"A": 2, "F": 1}, {"A": 2}]
    for setting in rows:
        assert {row.site for row in rows[setting]} == {"A"}, setting
