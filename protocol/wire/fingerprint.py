"""Packs and reads a site's fingerprint: numbers of the allow-list, and nothing beside them."""

from collections.abc import Mapping

from flwr.app import ConfigRecord, MetricRecord, RecordDict
from pydantic import ValidationError

from protocol.config.study import StudyProtocol
from protocol.planning.fingerprint import (
    AXES,
    LEVELS,
    Fingerprint,
    OrganFingerprint,
    Share,
    Spread,
    share_names,
    spread_names,
)
from protocol.wire.messages import ASK, SITE, STUDY, refuse_surplus
from protocol.wire.metrics import METRICS, metric_record, read_metrics
from protocol.wire.weights import MessageError

_OWN = ("labelled", "unlabelled", "step_seconds", "step_gigamacs", "memory_gib")


def asks_fingerprint(content: RecordDict) -> bool:
    """Whether an instruction asks for a fingerprint."""
    study = content.get(STUDY)
    return isinstance(study, ConfigRecord) and study.get(ASK) == "fingerprint"


def pack_fingerprint(site: str, found: Fingerprint, protocol: StudyProtocol) -> RecordDict:
    """A site's fingerprint, of the study's organs.

    Raises:
        MessageError: A number is none that could leave.
    """
    record = metric_record(fingerprint_values(found), "fingerprint", protocol)
    return RecordDict({SITE: ConfigRecord({"name": site}), METRICS: MetricRecord(dict(record))})


def is_of_fingerprint(content: RecordDict) -> bool:
    """Whether a message asks for a fingerprint, or is one."""
    metrics = content.get(METRICS)
    is_one = isinstance(metrics, MetricRecord) and "step_gigamacs" in metrics
    return asks_fingerprint(content) or is_one


def fingerprint_values(found: Fingerprint) -> dict[str, float]:
    """Every number of it, by its name on the wire."""
    values: dict[str, float] = {name: getattr(found, name) for name in _OWN}
    for name, spread, _ in found.spreads():
        numbers = dict.fromkeys(spread_names(name), 0.0)
        numbers |= {f"{name}/cases": spread.cases, f"{name}/parts": len(spread.means)}
        values |= numbers | {f"{name}/{i}": mean for i, mean in enumerate(spread.means)}
    for name, share in found.shares():
        values |= dict(zip(share_names(name), (share.cases, share.holding), strict=True))
    return values


def read_fingerprint(content: RecordDict, protocol: StudyProtocol) -> Fingerprint:
    """The fingerprint back.

    Raises:
        MessageError: If a number is not as agreed, or does not fit the others.
    """
    refuse_surplus(content)
    values = read_metrics(content, "fingerprint", protocol)
    try:
        return _fitting(Fingerprint.model_validate(_nested(values, protocol)))
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"]))
        raise MessageError(f"fingerprint reply: {where}: {first['msg']}") from None


def _nested(values: Mapping[str, float], protocol: StudyProtocol) -> dict[str, object]:
    def spread(name: str) -> Spread:
        parts = int(values[f"{name}/parts"])
        if any(values[f"{name}/{i}"] for i in range(parts, 5)):
            raise MessageError(f"fingerprint reply: {name}: holds more means than {parts} parts")
        means = tuple(values[f"{name}/{i}"] for i in range(parts))
        return Spread(cases=int(values[f"{name}/cases"]), means=means)

    def spreads(name: str, keys: tuple[str, ...] = AXES) -> tuple[Spread, ...]:
        return tuple(spread(f"{name}/{key}") for key in keys)

    def share(name: str) -> Share:
        cases, holding = (int(values[key]) for key in share_names(name))
        return Share(cases=cases, holding=holding)

    organs = {
        organ: OrganFingerprint(
            volume_ml=spread(f"organ/{organ}/volume_ml"),
            extent_mm=spreads(f"organ/{organ}/extent_mm"),
            one_component=share(f"organ/{organ}/one_component"),
        )
        for organ in protocol.organ_names
    }
    lengths = {name: spreads(name) for name in ("spacing_mm", "size_voxels", "extent_mm")}
    return {
        **{name: values[name] for name in _OWN},
        **lengths,
        "intensity": spreads("intensity", LEVELS),
        "wider_than_body": share("wider_than_body"),
        "organs": organs,
    }


def _fitting(found: Fingerprint) -> Fingerprint:
    """No number is of more cases than there are."""
    for name, spread, _ in found.spreads():
        _require_cases(found, name, spread.cases)
    for name, share in found.shares():
        _require_cases(found, name, share.cases)
    return found


def _require_cases(found: Fingerprint, name: str, cases: int) -> None:
    most = found.labelled + (0 if name.startswith("organ/") else found.unlabelled)
    if cases > most:
        raise MessageError(f"fingerprint reply: {name}: is of {cases} cases, there are {most}")
