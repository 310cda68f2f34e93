"""Preflight of the device: whether it trains the study; what was measured once is remembered."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, ValidationError
from rich.filesize import decimal

from asdnet_models.fields import Frozen
from client.node.checks import Result
from client.node.training_rehearsal import Step, rehearse_training
from protocol.agreement.bundle import BundleError, installed_bundle
from protocol.config.presets import preset
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.files import write_text

_SMALL = preset("smoke")
# Over this share of the memory, the next process on the machine is one too many.
_FULL = 0.9
_KEPT = 8
# Of a study, what its steps are made of; of a site's file, what they are taken with.
_OF_THE_STUDY = {"network", "confidence", "method", "training", "organs", "patch_voxels"}
_OF_THE_SITE = {"device", "threads", "compile", "accumulate", "limits"}


class _Measured(Frozen):
    """A step that was taken."""

    key: str
    at: AwareDatetime
    device: str
    seconds: float
    peak_bytes: int | None


class _Kept(Frozen):
    """The last ones, the newest last."""

    steps: tuple[_Measured, ...] = ()


def check_device(config: SiteConfig, study: StudyProtocol, note: str, *, anew: bool) -> Result:
    """Whether it trains the study; a study that is too much for it keeps no site from starting.

    Args:
        config: The site.
        study: The study.
        note: Ends the finding; empty: the study is one that the centre has spoken of.
        anew: Take a step, also where one is remembered.
    """
    status, finding, hint = _one_step(config, study, anew=anew)
    if status == "failed" and not note:
        smaller, also, _ = _one_step(config, _SMALL, anew=anew)
        if smaller != "failed":
            return "warning", f"study {study.name}: {finding}; a small study: {also}", hint
    return status, finding + note, hint


def _one_step(config: SiteConfig, study: StudyProtocol, *, anew: bool) -> Result:
    key = _key(config, study)
    before = None if anew else _recalled(config, key)
    if before is not None:
        when = f"; measured {before.at.astimezone():%Y-%m-%d %H:%M}, --anew measures it again"
        return _judged(_as_now(before), when)
    taken = rehearse_training(config, study)
    if not isinstance(taken, Step):
        return taken
    if key:
        _remember(config, key, taken)
    return _judged(taken, "")


def _judged(step: Step, when: str) -> Result:
    finding = f"{step.device}: one training step takes {step.seconds:.1f} s"
    if step.peak_bytes is None or step.available_bytes is None:
        return "ok", f"{finding}; its memory is not known on this system{when}", ""
    finding = f"{finding} and {decimal(step.peak_bytes)} of {decimal(step.available_bytes)}{when}"
    if step.peak_bytes > _FULL * step.available_bytes:
        return "warning", finding, "end other programs on this machine, or use another `device`"
    return "ok", finding, ""


def _key(config: SiteConfig, study: StudyProtocol) -> str:
    """A digest of what a step's time and memory rest on; empty where it is not known."""
    import torch

    from asdnet_models.device import DeviceError, torch_device
    from client.training.rehearsal import device_identity

    try:
        facts = {
            "machine": device_identity(torch_device(config.device)),
            "torch": torch.__version__,
            "code": installed_bundle().digest,
            "site": config.model_dump(mode="json", include=_OF_THE_SITE),
            "study": study.model_dump(mode="json", include=_OF_THE_STUDY),
        }
    except (DeviceError, BundleError, RuntimeError):  # the step itself says what is wrong
        return ""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _file(config: SiteConfig) -> Path:
    return config.state / "device_steps.json"


def _kept(config: SiteConfig) -> _Kept:
    """What a file of another version holds is measured again."""
    with suppress(OSError, ValidationError):
        return _Kept.model_validate_json(_file(config).read_bytes())
    return _Kept()


def _recalled(config: SiteConfig, key: str) -> _Measured | None:
    return next((step for step in _kept(config).steps if step.key == key), None)


def _as_now(before: _Measured) -> Step:
    """The step against the memory of this moment, which others may have taken since."""
    import torch

    from client.training.rehearsal import device_bytes

    return Step(
        device=before.device,
        seconds=before.seconds,
        peak_bytes=before.peak_bytes,
        available_bytes=device_bytes(torch.device(before.device)),
    )


def _remember(config: SiteConfig, key: str, step: Step) -> None:
    measured = _Measured(
        key=key,
        at=datetime.now().astimezone(),
        device=step.device,
        seconds=step.seconds,
        peak_bytes=step.peak_bytes,
    )
    others = [other for other in _kept(config).steps if other.key != key]
    kept = _Kept(steps=(*others, measured)[-_KEPT:])
    with suppress(OSError):  # the row of the state folder says it
        write_text(_file(config), kept.model_dump_json(indent=2) + "\n", 0o600)
