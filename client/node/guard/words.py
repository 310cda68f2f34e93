"""What a study will do with a site's data, in words, for the person who approves it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch.nn import Module

from asdnet_models.catalogue import METHODS
from asdnet_models.config import MethodConfig
from asdnet_models.networks import empty_networks
from client.node import approval
from client.node.guard.studies import count_cases, limits_broken_by
from protocol.agreement.manifest import Study
from protocol.config.schedule import RoundPlan, plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.escaping import printable
from protocol.keys import openssh_fingerprint, parse_openssh_line

_ROUNDS_NAMED = 6
# By method, then by method.gate: where a teacher's labels are believed.
_BELIEVED = {"mean-teacher": "everywhere", "ua-mt": "where it says the same under noise"}
_BELIEVED_BY_GATE = {
    "mask": "where the confidence network trusts them",
    "weight": "as far as the confidence network trusts them, voxel by voxel",
    "softmax": "where it is sure of them itself",
    "none": "everywhere",
}
_MIXED = {
    "weak-to-strong": "boxes of them are pasted into one another",
    "copy-paste": "boxes of them are pasted into labelled scans, and the reverse",
}
_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}  # of a weight on the wire


def study_words(
    config: SiteConfig, study: Study, installed: str, before: Study | None
) -> Iterator[str]:
    """Everything that a person must know, a line each; safe to print.

    Args:
        config: The site.
        study: Verified.
        installed: Digest of the installed version.
        before: The study that was approved last, if any.
    """
    cases = count_cases(config)
    planning = study.manifest.asks == "fingerprint"
    for title, lines in (
        ("What it does here", _planning() if planning else _work(study.protocol, cases)),
        ("What leaves", _fingerprint_leaves(config) if planning else _departures(config, study)),
        ("Who takes part", _roster(config, study)),
        ("Code", _code(config, study, installed)),
        (f"Limits of {config.site}.yaml", _limits(config, study)),
        _against(study, before),
    ):
        yield title
        yield from (f"  {printable(line)}" for line in lines)


def differences(study: Study, before: Study) -> list[str]:
    """How a study differs from an earlier one: protocol, sites, code, first weights."""
    old, new = (dict(_flat(s.protocol.model_dump(mode="json"))) for s in (before, study))
    lines = [
        f"{field}: {old.get(field, 'nothing')} -> {new.get(field, 'nothing')}"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    ]
    was, now = before.manifest.sites, study.manifest.sites
    for site in sorted(was.keys() | now.keys()):
        if site not in was:
            lines.append(f"site {site} is new: {_fingerprint(now[site])}")
        elif site not in now:
            lines.append(f"site {site} is no longer in it")
        elif was[site] != now[site]:
            lines.append(f"site {site} has another key: {_fingerprint(now[site])}")
    if before.manifest.code != study.manifest.code:
        lines.append(f"code: {before.manifest.code[:12]} -> {study.manifest.code[:12]}")
    if before.manifest.weights != study.manifest.weights and before.protocol == study.protocol:
        lines.append("it begins with other weights, though the protocol is the same")
    return lines


def _planning() -> Iterator[str]:
    yield "trains nothing, and sends no weights: it asks for a fingerprint of the training cases"
    yield "reads each training scan and label once, and times a few steps of a small network"
    yield "validation and test cases are not looked at"


def _fingerprint_leaves(config: SiteConfig) -> Iterator[str]:
    fewest = config.min_cases_reported
    yield "how many training cases there are, with labels and without"
    yield (
        "of spacing, size, extent and intensity of the scans, and of volume and extent of each"
        f" organ: means of one, three or five equal parts of at least {fewest} cases"
    )
    yield "in how many cases each organ is in one piece, and how many scans are wider than the body"
    yield "how fast this machine takes a step, and its memory"


def _work(protocol: StudyProtocol, cases: Counter[str] | None) -> Iterator[str]:
    training = protocol.training
    patch = " x ".join(map(str, protocol.patch_voxels))
    spacing = " x ".join(f"{edge:g}" for edge in protocol.spacing_mm)
    patches = training.local_steps * training.batch_size
    yield f"segments {', '.join(protocol.organ_names)}; by the method {protocol.method.name}"
    yield (
        f"trains in {training.rounds} rounds, {training.local_steps} steps each, of"
        f" {training.batch_size} labelled patches and as many unlabelled ones a step"
    )
    yield f"a patch is {patch} voxels of {spacing} mm"
    if cases is None:
        yield "the cases here cannot be counted: asdnet-site check says why"
    else:
        yield (
            f"an update rests on {patches} labelled patches of {cases['labelled']} cases, and as"
            f" many unlabelled ones of {cases['unlabelled']} cases"
        )
    terms = list(_unlabelled_terms(protocol))
    yield "unlabelled scans: " + ("; ".join(terms) if terms else "are not used")


def _unlabelled_terms(protocol: StudyProtocol) -> Iterator[str]:
    """What unlabelled scans are used for, and from which round on."""
    plans = [plan_round(protocol, n) for n in range(1, protocol.training.rounds + 1)]

    def first(name: str) -> int | None:
        return next((plan.round for plan in plans if getattr(plan, name) > 0), None)

    uses = {
        "adversarial_ramp": "the confidence network judges what is predicted of them (Eq. 5)",
        "region_ramp": _region_use(protocol.method),
        "embedding_ramp": "they shape the features (embedding loss)",
        "pseudo_labels": "the model labels them, and learns from that",
    }
    assert set(uses) <= RoundPlan.model_fields.keys()
    for name, use in uses.items():
        if (begin := first(name)) is not None:
            yield f"from round {begin} on {use}"


def _region_use(method: MethodConfig) -> str:
    """What unlabelled scans are learnt from by the term that `lambda_region` weighs."""
    kind = METHODS[method.name]
    if kind.second_network:
        return (
            "the model and a second network, which is kept here and never sent, label them for"
            " one another"
        )
    if not kind.teacher:
        return "they are learnt from where the prediction is trusted (Eq. 6)"
    where = _BELIEVED.get(method.name) or _BELIEVED_BY_GATE[method.gate]
    mixed = _MIXED.get(method.name)
    return (
        "the moving average of the model, which is kept here and never sent, labels them, and the"
        f" labels are learnt {where}{f'; {mixed}' if mixed else ''}"
    )


def _departures(config: SiteConfig, study: Study) -> Iterator[str]:
    protocol, manifest = study.protocol, study.manifest
    yield "once: how many cases of each kind there are, and the mean box of the organs"
    segmenter, confidence = empty_networks(protocol)
    sizes = [("the segmentation network", segmenter)]
    if protocol.method.trains_confidence:
        sizes.append(("the confidence network", confidence))
    weights = " and ".join(
        f"{name} ({_size(network, protocol.wire.format)})" for name, network in sizes
    )
    yield f"each round: the weights of {weights} as {protocol.wire.format}, and sums of the losses"
    rounds = manifest.evaluation_rounds
    named = ", ".join(map(str, rounds[:_ROUNDS_NAMED]))
    more = f", ... {rounds[-1]}" if len(rounds) > _ROUNDS_NAMED else ""
    many = "once" if len(rounds) == 1 else f"{len(rounds)} times"
    yield (
        f"{many}, after rounds {named}{more}: sums of DSC and surface distance of the"
        " validation cases and of the test cases, by organ"
        + ("; right and wrong voxels by confidence" if len(sizes) > 1 else "")
        + "; which DSC the model expects of itself, without validation and test cases of some"
        " unlabelled scans"
    )
    yield f"no number of fewer than {config.min_cases_reported} cases (min_cases_reported)"


def _size(network: Module, wire: str) -> str:
    number = sum(parameter.numel() for parameter in network.parameters())
    return f"{number:,}, {number * _BYTES[wire] / 1e6:.1f} MB"


def _roster(config: SiteConfig, study: Study) -> Iterator[str]:
    sites = study.manifest.sites
    width = max(map(len, sites))
    for site, line in sorted(sites.items()):
        own = "  (this site)" if site == config.site else ""
        yield f"{site:<{width}}  {_fingerprint(line)}{own}"


def _code(config: SiteConfig, study: Study, installed: str) -> Iterator[str]:
    code = study.manifest.code
    if code == installed:
        yield f"{code[:12]}: the version that is installed here"
    elif approval.may_run(config, code):
        yield f"{code[:12]}: approved at this site"
    else:
        yield (
            f"{code[:12]}: NOT the version that is installed here ({installed[:12]}), and not"
            " approved: install the centre's version, or look at its code with this command once"
            " it has come"
        )


def _limits(config: SiteConfig, study: Study) -> Iterator[str]:
    broken = limits_broken_by(config, study)
    for line in broken:
        yield f"BROKEN: {line}"
    met = [
        f"{name} {_shown(value)}"
        for name, value in config.limits
        if not any(line.startswith(f"limits.{name} ") for line in broken)
    ]
    yield f"met: {', '.join(met)}"


def _against(study: Study, before: Study | None) -> tuple[str, list[str]]:
    if before is None:
        return "Against the study approved last", ["none is approved: this is the first"]
    title = f"Against the study approved last (run {before.manifest.run})"
    return title, differences(study, before) or ["no difference but the run and the time"]


def _fingerprint(line: str) -> str:
    return openssh_fingerprint(parse_openssh_line(line))


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _shown(value)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:,}" if type(value) is int else str(value)
