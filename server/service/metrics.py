"""The overview as Prometheus metrics."""

from collections.abc import Callable, Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from protocol.wire.reports import CASE_PARTS
from server.service.views import CentreView, Overview, Site, SiteState, Study, StudyState


def metrics_text(overview: Overview) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Families(overview))
    return generate_latest(registry)


class _Families(Collector):
    """Made anew for each look: a study or site that is gone leaves nothing behind."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        seen = self._overview
        yield from _of_centre(seen.centre)
        yield _gauge("asdnet_sites_admitted", "Sites of sites.json.", len(seen.admitted))
        if seen.centre.superlink:
            yield _gauge("asdnet_sites_connected", "Admitted sites connected.", seen.connected)
        yield _gauge("asdnet_problems", "Files of the centre not readable.", len(seen.problems))
        yield from _of_studies(seen.studies)
        yield from _of_sites_in_studies(seen.studies)
        yield from _of_sites(seen.sites)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)


def _of_centre(centre: CentreView) -> Iterator[Metric]:
    yield _gauge("asdnet_superlink_up", "1 while the SuperLink answers.", centre.superlink)
    yield _gauge("asdnet_disk_free_bytes", "Free on the centre's disk.", centre.disk_free_bytes)
    ends = GaugeMetricFamily(
        "asdnet_certificate_expiry_timestamp_seconds", "When it ends.", labels=["certificate"]
    )
    for name, end in centre.certificates.items():
        ends.add_metric([name], end.timestamp())
    yield ends


def _of_studies(studies: tuple[Study, ...]) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "asdnet_study_state", "1 for the state of the study.", labels=["study", "state"]
    )
    for study in studies:
        for name in get_args(StudyState):
            state.add_metric([study.name, name], study.state == name)
    yield state
    numbers: dict[str, tuple[str, Callable[[Study], float | None]]] = {
        "asdnet_study_priority": ("The highest works first.", lambda s: s.priority),
        "asdnet_study_round": ("The round at work, or the last one.", lambda s: s.round),
        "asdnet_study_rounds_planned": ("Rounds of the whole study.", lambda s: s.rounds),
        "asdnet_study_round_seconds": ("Median of recent rounds.", lambda s: s.round_seconds),
        "asdnet_study_remaining_seconds": ("Estimate.", lambda s: s.seconds_left),
        "asdnet_study_sites_called": ("In what is being done.", lambda s: len(s.called)),
        "asdnet_study_sites_answered": ("Of those called.", lambda s: len(s.answered)),
        "asdnet_study_dsc_ratio": ("Validation DSC, mean over sites.", lambda s: s.mean_dsc),
        "asdnet_study_last_event_timestamp_seconds": (
            "When anything happened last.",
            lambda s: s.last_event.timestamp() if s.last_event else None,
        ),
    }
    for name, (help, number) in numbers.items():
        family = GaugeMetricFamily(name, help, labels=["study"])
        for study in studies:
            if (value := number(study)) is not None:
                family.add_metric([study.name], value)
        yield family
    rounds = CounterMetricFamily("asdnet_study_rounds", "Complete rounds.", labels=["study"])
    for study in studies:
        rounds.add_metric([study.name], study.rounds_done)
    yield rounds


def _of_sites_in_studies(studies: tuple[Study, ...]) -> Iterator[Metric]:
    both = ["study", "site"]
    dsc = GaugeMetricFamily(
        "asdnet_validation_dsc_ratio", "Last mean DSC.", labels=[*both, "organ"]
    )
    loss = GaugeMetricFamily("asdnet_training_loss", "Last mean total loss.", labels=both)
    seconds = GaugeMetricFamily(
        "asdnet_site_round_seconds", "Training, mean of recent rounds.", labels=both
    )
    trained = CounterMetricFamily("asdnet_site_rounds", "Rounds trained.", labels=both)
    left_out = CounterMetricFamily("asdnet_site_rounds_left_out", "Left out.", labels=both)
    for study in studies:
        for curve in study.dsc:
            dsc.add_metric([study.name, curve.site, curve.name], curve.last)
        for curve in study.losses:
            loss.add_metric([study.name, curve.site], curve.last)
        for site in study.sites:
            labels = [study.name, site.name]
            if site.seconds is not None:
                seconds.add_metric(labels, site.seconds)
            trained.add_metric(labels, site.rounds_trained)
            left_out.add_metric(labels, site.rounds_left_out)
    yield from (dsc, loss, seconds, trained, left_out)


def _of_sites(sites: tuple[Site, ...]) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "asdnet_site_state", "1 for the state of the site.", labels=["site", "state"]
    )
    seen = GaugeMetricFamily(
        "asdnet_site_last_seen_timestamp_seconds", "Last sign of life.", labels=["site"]
    )
    cases = GaugeMetricFamily("asdnet_site_cases", "As declared.", labels=["site", "part"])
    for site in sites:
        for name in get_args(SiteState):
            state.add_metric([site.name, name], site.state == name)
        if site.last_seen is not None:
            seen.add_metric([site.name], site.last_seen.timestamp())
        for part in CASE_PARTS if site.cases else ():
            cases.add_metric([site.name, part], getattr(site.cases, part))
    yield from (state, seen, cases)
