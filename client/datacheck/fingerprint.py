"""The fingerprint of a whole site: its training cases read once; its machine tried."""

from functools import partial

from client.data.blocks import Release
from client.data.fingerprint import fingerprint_of
from client.data.folder.layout import survey_folder
from client.data.labels.label_map import site_mapping
from client.data.leakage import LeakageCheck
from client.datacheck.apart import reports_apart
from client.datacheck.inspection import inspect_case
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.planning.cost import GIB, step_cost
from protocol.planning.fingerprint import MAX_GIB, MAX_STEP_S, Fingerprint
from protocol.planning.reference import REFERENCE


def site_fingerprint(
    config: SiteConfig, protocol: StudyProtocol, *, workers: int = 0
) -> tuple[Fingerprint, Release]:
    """What this site would say for a plan; validation and test cases are not looked at.

    Args:
        config: The site.
        protocol: Whose organs and data requirements count.
        workers: Processes that read cases side by side; 0: this one reads them.

    Returns:
        Without its machine; and the blocks, to be written down before it leaves
        (`blocks.write_released`).

    Raises:
        ProtocolError: The site's file does not fit the study, or its patients cannot be read.
        CohortFileError: What has left before cannot be read.
    """
    site_mapping(config, protocol.organs)
    survey = survey_folder(config.data, config)
    leakage = LeakageCheck(config, survey.cases, survey.unused)
    cases = [case for case in survey.cases if case.part in ("labelled", "unlabelled")]
    look = partial(inspect_case, protocol=protocol, shape=True)
    reports = reports_apart(look, cases, workers) if workers else map(look, cases)
    usable = [
        (case, report.measures)
        for case, report in zip(cases, reports, strict=True)
        if report.measures and not leakage.problem(case, report.measures.voxel_hash)
    ]
    return fingerprint_of(config, protocol.organ_names, usable)


def with_machine(found: Fingerprint, config: SiteConfig) -> Fingerprint:
    """The fingerprint with what the site's device does.

    Raises:
        DeviceError: There is no such device.
    """
    from asdnet_models.device import torch_device
    from client.training.rehearsal import device_bytes, step_seconds

    seconds = step_seconds(config.model_copy(update={"accumulate": 1}), REFERENCE)
    memory = device_bytes(torch_device(config.device)) or 0
    allowed = config.limits.max_memory_gib
    gib = min(memory / GIB, allowed) if memory else allowed
    return found.model_copy(
        update={
            "step_seconds": min(seconds, MAX_STEP_S),
            "step_gigamacs": step_cost(REFERENCE).gigamacs,
            "memory_gib": round(min(gib, MAX_GIB), 1),
        }
    )
