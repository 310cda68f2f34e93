"""What is wrong with a model's scores, in words, and which setting may help.

Rules over what the sites sent.  Each says what was measured; where nothing is wrong, there is none.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from asdnet_models.catalogue import METHODS
from asdnet_models.config import MethodConfig
from asdnet_models.sums import OrganSums
from protocol.config.study import StudyProtocol
from protocol.planning.rules import BATCH, PATCHES_LEAST
from protocol.wire.reports import EvaluationReport
from protocol.wording import counted, times
from server.monitoring.label_hints import chooses, label_lines, threshold_words
from server.rounds.harm import comparison_of
from server.rounds.record import StudyRecord

# An organ with less is as good as not found; above it, what lies far off may be a second piece.
_HARDLY_OVERLAPS = 0.1
# Optimiser steps at one site before which scores say nothing else: half of the shortest
# training that found every organ of the phantom (20 rounds of 10).
FEW_STEPS = 100
# A voxel edge counts as coarser than the scans' from so many times on: spacings are rounded.
_COARSER = 1.1
# A patch that holds so much of the scan along every axis sees the organs wherever it is drawn.
_NEARLY_ALL = 0.75
# Mean ASD of an organ of which no case counts as far off, as scans are much larger than it.
FAR_MM = 10.0
# How far a site's mean DSC may lie below the other sites' median.
_SITE_GAP = 0.15
# What the validation DSC has gained in the last third of the rounds, of a model that still learns.
_STILL_GAINS = 0.02

# By organ, scores of the same cases with the largest component kept.
Measured = Mapping[str, OrganSums]
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Scans:
    """The median scan of a study whose scans are at hand, along the patient's axes x, y, z."""

    spacing_mm: Triple
    extent_mm: Triple


def hints_of(
    record: StudyRecord, largest_component: Measured | None = None, scans: Scans | None = None
) -> tuple[str, ...]:
    """A line for each thing that is wrong with the best model; of one hardly trained, that alone.

    Args:
        record: A study, at its end or before.
        largest_component: What that setting would change, where it was measured.
        scans: What the grid is held against; None: nobody has told.
    """
    evaluation = record.best_evaluation
    to_find = _to_find(record.protocol, scans)
    lines = [
        line
        for organ in record.protocol.organ_names
        for line in _organ_lines(
            record.protocol, evaluation, organ, largest_component or {}, to_find
        )
    ]
    lines += [*_sites_below(evaluation), *_harm(record), *label_lines(record)]
    lines += _still_learning(record)
    return (*_hardly_trained(record),) or tuple(lines) if lines else ()


def has_learnt(record: StudyRecord) -> bool:
    """Whether there is a model to speak of: trained for some time, with an organ found."""
    organs = record.protocol.organ_names
    means = [scored_sums(record.best_evaluation, organ)[1].dsc.mean for organ in organs]
    found = any(mean is not None and mean >= _HARDLY_OVERLAPS for mean in means)
    return found and not any(_hardly_trained(record))


def _hardly_trained(record: StudyRecord) -> Iterator[str]:
    steps: Counter[str] = Counter()
    for finished in record.rounds:
        steps.update({site: report.steps for site, report in finished.reports.items()})
    most = max(steps.values(), default=0)
    if 0 < most < FEW_STEPS:
        training = record.protocol.training
        yield (
            f"no site trained for more than {counted(most, 'step')}, too few to learn from: the "
            "scores say nothing yet of the data or the settings; more training.rounds (now "
            f"{training.rounds}) or training.local_steps (now {training.local_steps}); unless "
            f"asked for fewer, a plan takes {PATCHES_LEAST // BATCH} steps at least in all"
        )


def in_doubt(sums: OrganSums) -> bool:
    """Whether predictions of an organ lie far from it in part, which its DSC alone hides."""
    return sums.failures.far_off > 0 or (sums.asd_mm.mean or 0.0) > FAR_MM


def scored_sums(evaluation: Mapping[str, EvaluationReport], organ: str) -> tuple[str, OrganSums]:
    """An organ's scores over all sites: of test cases, or where none has any, of validation."""
    for part in ("test", "validation"):
        total = sum((_of(report, part, organ) for report in evaluation.values()), OrganSums())
        if total.dsc.count:
            return part, total
    return "validation", OrganSums()


def _of(report: EvaluationReport, part: str, organ: str) -> OrganSums:
    return report.scores[part].get(organ, OrganSums())


def _organ_lines(
    protocol: StudyProtocol,
    evaluation: Mapping[str, EvaluationReport],
    organ: str,
    largest_component: Measured,
    to_find: str,
) -> Iterator[str]:
    part, sums = scored_sums(evaluation, organ)
    if sums.dsc.mean is None:
        return
    failures, of = sums.failures, f"of {counted(sums.failures.cases, f'{part} case')}"
    means = [_of(report, part, organ).dsc.mean for report in evaluation.values()]
    best = max(mean for mean in means if mean is not None)
    if best < _HARDLY_OVERLAPS:
        how = "hardly overlaps at any site" if best else "found at no site"
        yield (
            f"{organ}: {how}, mean DSC {sums.dsc.mean:.2f} of "
            f"{counted(sums.dsc.count, f'{part} case')}; {to_find}"
        )
        return
    if failures.missed:
        yield f"{organ}: {failures.missed} {of} missed; {to_find}"
    if failures.made_up:
        yield (
            f"{organ}: {failures.made_up} {of} {_have(failures.made_up)} it in the prediction "
            "alone; is it drawn wherever it is seen? A site's file names what it annotates"
        )
    if in_doubt(sums):
        misplaced = f"{failures.far_off} {of} misplaced, " if failures.far_off else ""
        hint = _component_words(protocol, organ, sums, largest_component.get(organ))
        yield f"{organ}: {misplaced}{_distances(sums)}; {hint}"


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _distances(sums: OrganSums) -> str:
    named = (("ASD", sums.asd_mm.mean), ("HD95", sums.hd95_mm.mean))
    words = [f"{name} {mean:.0f} mm" for name, mean in named if mean is not None]
    return ", ".join([*words, f"DSC {sums.dsc.mean or 0:.2f}"]) + ", mean"


def _to_find(protocol: StudyProtocol, scans: Scans | None) -> str:
    """What helps to find an organ, of what the study does not do yet and its scans allow."""
    training = protocol.training
    ways = []
    if training.organ_patch_fraction < 1 and not _holds_the_scan(protocol, scans):
        ways.append(f"training.organ_patch_fraction above {training.organ_patch_fraction:.2f}")
    if protocol.method.supervised == "dice":
        ways.append("method.supervised: dice+ce")
    if protocol.evaluation.windows == "organs":
        ways.append("evaluation.windows: body, for organs looks where it expects one")
    ways += [*_finer(protocol, scans), "more training.rounds"]
    return f"try {'; '.join(ways)}"


def _holds_the_scan(protocol: StudyProtocol, scans: Scans | None) -> bool:
    if scans is None:
        return False
    patch_mm = [n * mm for n, mm in zip(protocol.patch_voxels, protocol.spacing_mm, strict=True)]
    return all(held >= _NEARLY_ALL * mm for held, mm in zip(patch_mm, scans.extent_mm, strict=True))


def _finer(protocol: StudyProtocol, scans: Scans | None) -> Iterator[str]:
    """A finer grid, along the axes where the scans have finer voxels: slices are not invented."""
    grid = protocol.spacing_mm
    if scans is None:
        now = times(f"{mm:g}" for mm in grid)
        yield f"a finer spacing_mm along an axis where the scans are finer than it (now {now} mm)"
        return
    axes = [
        f"{axis} (grid {mm:g} mm, scans {own:.3g} mm)"
        for axis, mm, own in zip("xyz", grid, scans.spacing_mm, strict=True)
        if mm > _COARSER * own
    ]
    if axes:
        yield f"a finer spacing_mm along {', '.join(axes)}"


def _component_words(
    protocol: StudyProtocol, organ: str, now: OrganSums, with_it: OrganSums | None
) -> str:
    if organ in protocol.in_one_piece():
        return (
            "the largest component is kept already: what it takes for the organ is larger; more "
            "training.rounds, or patches that lie anywhere (training.organ_patch_fraction)"
        )
    if with_it is None:
        return (
            f"with {organ} in evaluation.largest_component, what lies apart from its largest piece "
            "is dropped"
        )
    measured = f"measured with evaluation.largest_component: {_distances(with_it)}"
    if with_it.failures.total != now.failures.total:
        measured += f", {with_it.failures}" if with_it.failures.total else ", none failed"
    helps = (with_it.dsc.mean or 0) > (now.dsc.mean or 0)
    return measured + (f": name {organ} there" if helps else ": it does not help")


def _sites_below(evaluation: Mapping[str, EvaluationReport]) -> Iterator[str]:
    """Sites whose mean DSC lies far below the others', on the organs that they have in common."""
    for part in ("test", "validation"):
        means = {
            site: {o: s.dsc.mean for o, s in report.scores[part].items() if s.dsc.mean is not None}
            for site, report in sorted(evaluation.items())
        }
        means = {site: of_site for site, of_site in means.items() if of_site}
        if len(means) < 3:
            continue
        for site, own in means.items():
            others = [
                fmean(theirs[organ] for organ in common)
                for other, theirs in means.items()
                if other != site and (common := own.keys() & theirs.keys())
            ]
            mine = fmean(own.values())
            if len(others) > 1 and mine < median(others) - _SITE_GAP:
                yield (
                    f"site {site}: mean DSC {mine:.2f} of its {part} cases, the others "
                    f"{min(others):.2f} to {max(others):.2f}; look at its data check "
                    "(asdnet-site check): orientation, spacing, what its labels mean"
                )
        return


def _harm(record: StudyRecord) -> Iterator[str]:
    """Rounds without unlabelled scans gave better updates."""
    compared, method = comparison_of(record), record.protocol.method
    if compared is None or not compared.harmful:
        return
    first, last = compared.rounds
    yield (
        f"unlabelled scans harm at {_listed(compared.sites)}: with them the validation DSC of "
        f"a round's update is {compared} against the same round without, over "
        f"{compared.number} comparisons in rounds {first} to {last}; try {_stricter(method)}"
        f"a method.lambda_region below {method.lambda_region:g}, fewer "
        f"training.rounds than {record.protocol.training.rounds}, and the row Supervised of "
        "asdnet-sim tables beside it"
    )


def _stricter(method: MethodConfig) -> str:
    """How this method would believe less of its labels, as "a method.gamma above 0.5, "."""
    kind = METHODS[method.name]
    if kind.gated and method.gate == "none":
        return "method.gate mask, "
    return f"{threshold_words(method, 'above')}, " if chooses(method) else ""


def _listed(sites: Sequence[str]) -> str:
    """As "site A" or "sites A, B"."""
    return f"site{'' if len(sites) == 1 else 's'} {', '.join(sites)}"


def _still_learning(record: StudyRecord) -> Iterator[str]:
    """The validation DSC rose to the end of the study."""
    rounds = record.protocol.training.rounds
    scored = [(r.plan.round, r.validation_dsc) for r in record.rounds]
    known = [(number, dsc) for number, dsc in scored if dsc is not None]
    earlier = [(number, dsc) for number, dsc in known if number <= rounds * 2 / 3]
    if len(record.rounds) < rounds or len(known) < 3 or not earlier:
        return
    (first, before), (last, at_end) = earlier[-1], known[-1]
    highest = max(dsc for _, dsc in known)
    if at_end - before >= _STILL_GAINS and at_end >= highest - _STILL_GAINS / 4:
        yield (
            f"validation DSC still rose, from {before:.3f} in round {first} to {at_end:.3f} in "
            f"round {last}; more training.rounds than {rounds} may give more"
        )
