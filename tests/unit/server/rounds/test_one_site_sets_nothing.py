"""What a site measures goes to all others: one site of three cannot set it, only be one voice."""

from collections.abc import Callable

import pytest
from memory_grid import Site, study

from asdnet_models.reliability import BINS, Reliability
from asdnet_models.sums import SumCount
from protocol.config.schedule import RoundPlan, median_box
from protocol.config.study import StudyProtocol
from server.rounds.calibration import calibrated_gamma, evaluation_gamma
from server.rounds.record import StudyRecord

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")

PRECISION = 0.9
# Every number is in its range: a lie that no bound can find.
ALL_WRONG = Reliability(wrong=(0,) * (BINS - 1) + (2**31,))
ALL_RIGHT = Reliability(right=(2**31,) + (0,) * (BINS - 1))


def honest(step: int) -> Reliability:
    """Of which the precision is reached from bin 12 + step on."""
    wrong = [0] * BINS
    wrong[11 + step] = 1000
    return Reliability(right=(10,) * BINS, wrong=tuple(wrong))


def box(low: float, high: float, cases: int) -> tuple[SumCount, ...]:
    edges = [low] * 3 + [high] * 3
    return tuple(SumCount(sum=edge * cases, count=cases) for edge in edges)


def plans(make: MakeProtocol, *liars: str, lie: Callable[[Site], None]) -> list[RoundPlan]:
    """The plans of a study of five sites, of which these lie."""
    protocol = make(
        training={"rounds": 4},
        method={
            "gamma_rule": "calibrated",
            "trusted_precision": PRECISION,
            "sample_attention": "normalised",
        },
    )
    sites = [Site(name, protocol, labelled=2) for name in "ABCDE"]
    for number, site in enumerate(sites):
        site.facts = replace_box(site, box(0.2 + 0.01 * number, 0.7 + 0.01 * number, 2))
        site.reliability = {"confidence": honest(number)}
        if site.name in liars:
            lie(site)
    record: StudyRecord = study(sites, protocol)
    assert all(not finished.left_out for finished in record.rounds)
    return [finished.plan for finished in record.rounds]


def replace_box(site: Site, edges: tuple[SumCount, ...]) -> object:
    from dataclasses import replace

    return replace(site.facts, box=edges)


def exaggerates(reliability: Reliability, low: float, high: float) -> Callable[[Site], None]:
    """Within every range, as far out and as loud as can be."""

    def lie(site: Site) -> None:
        site.facts = replace_box(site, box(low, high, site.facts.labelled))
        site.reliability = {"confidence": reliability}

    return lie


@pytest.mark.parametrize(
    "lie",
    [exaggerates(ALL_WRONG, 0.0, 0.001), exaggerates(ALL_RIGHT, 0.998, 1.0)],
    ids=["nothing is right", "all is right"],
)
@pytest.mark.parametrize("liars", ["A", "E", "AE", "CD"])
def test_plans_stay_within_what_the_honest_sites_say(
    make_protocol: MakeProtocol, lie: Callable[[Site], None], liars: str
) -> None:
    gammas = [calibrated_gamma(honest(number), PRECISION) for number in range(5)]
    for plan in plans(make_protocol, *liars, lie=lie):
        assert plan.organ_box is not None
        assert all(0.2 <= edge <= 0.241 for edge in plan.organ_box[:3])
        assert all(0.7 <= edge <= 0.741 for edge in plan.organ_box[3:])
        assert plan.round == 1 or plan.gamma in gammas


def test_attention_is_the_median_of_the_sites(make_protocol: MakeProtocol) -> None:
    class Zealot(Site):
        def _attention(self, plan: RoundPlan) -> SumCount:
            return SumCount(sum=2.0, count=2.0)

    protocol = make_protocol(training={"rounds": 4}, method={"sample_attention": "normalised"})
    sites = [Site(name, protocol) for name in "AB"]
    with_liar = study([*sites, Zealot("C", protocol)], protocol)
    without = study([Site(name, protocol) for name in "AB"], protocol)
    found = [finished.plan.attention_scale for finished in with_liar.rounds]
    assert found == [finished.plan.attention_scale for finished in without.rounds]
    assert len(set(found)) > 1


def test_of_two_sites_it_is_the_mean_and_of_one_its_own() -> None:
    one, other = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7), (0.3, 0.2, 0.1, 0.9, 0.8, 0.7)
    assert median_box([]) is None
    assert median_box([one]) == one
    assert median_box([one, other]) == pytest.approx((0.2, 0.2, 0.2, 0.7, 0.7, 0.7))


def test_a_site_without_voxels_is_no_voice(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(method={"gamma_rule": "calibrated", "trusted_precision": PRECISION})
    quiet = [Site(name, protocol) for name in "ABC"]
    quiet[2].reliability = {"confidence": honest(4)}
    (first, *_) = study(quiet, protocol).rounds
    assert evaluation_gamma(protocol.method, first.evaluation or {}) == pytest.approx(
        calibrated_gamma(honest(4), PRECISION)
    )
