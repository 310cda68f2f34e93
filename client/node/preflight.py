"""Checks a hospital's machine before it joins; each check is a row: name, finding, hint.

Nothing of the site's data is read but names and headers of scans, and nothing is sent.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from rich.filesize import decimal

from client.data.cache import entry_bytes
from client.data.case import Case, Part
from client.data.folder.layout import LayoutError, find_cases, survey_folder
from client.data.grid_size import size_and_spacing
from client.node.checks import Check, Result, Skip, joined, run_check
from client.node.connection import connection_checks
from client.node.private_folders import open_folders
from protocol.config.presets import preset
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.keys import KeyFileError, openssh_fingerprint, read_private_key, read_verifying_key

_SAME_MM = 1e-3
_MISTAKES_SHOWN = 3
# Limits beyond which a study says nothing about the machine.
_OF_THE_MACHINE = tuple(
    f"limits.max_{what} " for what in ("batch", "patch_voxels", "width", "parameters", "memory_gib")
)


def preflight(
    config: SiteConfig,
    protocol: StudyProtocol | None = None,
    *,
    anew: bool = False,
    begin: Callable[[str], None] = lambda _: None,
) -> list[Check]:
    """Every check, run and reported, whatever is wrong with the site, its network or its files.

    Those that need PyTorch come last.

    Args:
        config: The site's file.
        protocol: The study; None, before the site has seen one, stands for the paper's preset.
        anew: Try the device, also where this is remembered.
        begin: Called with the name of each check, before it.
    """
    note = "" if protocol else " (no study seen yet: as preset paper)"
    study = protocol or preset("paper")
    steps: dict[str, Callable[[], Result]] = {
        **connection_checks(config),
        "private key": partial(_private_key, config),
        "study key": partial(_study_key, config),
        "state folder": partial(_state, config),
        "worker": partial(_worker, config),
        "data": partial(_data, config),
        "cache disk": partial(_disk, config, study, note),
        "limits": partial(_limits, config, study, note),
        "device": partial(_device, config, study, note, anew=anew),
    }
    checks = []
    for name, step in steps.items():
        begin(name)
        checks.append(run_check(name, step))
    return checks


def _require_within(config: SiteConfig, study: StudyProtocol, note: str) -> None:
    """A study that this site will refuse says nothing about the machine.

    Raises:
        Skip: It is beyond limits that are of the machine.
    """
    from client.node.guard.limits import broken_limits  # late: it needs PyTorch

    if any(line.startswith(_OF_THE_MACHINE) for line in broken_limits(config, study)):
        raise Skip(f"study {study.name} is beyond limits of {config.site}.yaml; see limits{note}")


def _device(config: SiteConfig, study: StudyProtocol, note: str, *, anew: bool) -> Result:
    """It trains the study."""
    from client.node.device_check import check_device

    _require_within(config, study, note)
    return check_device(config, study, note, anew=anew)


def _limits(config: SiteConfig, study: StudyProtocol, note: str) -> Result:
    """A study beyond them is refused when it asks; the site starts all the same."""
    from client.node.guard.data_limits import all_broken

    hours = ", ".join(config.limits.hours) or "at any hour"
    broken = all_broken(config, study)
    if broken:
        which = f"study {study.name} is beyond them{note} and will be refused:"
        return "warning", "\n".join([which, *broken]), "asdnet-site check --study shows another one"
    return "ok", f"study {study.name} is within all of them{note}; works {hours}", ""


def _private_key(config: SiteConfig) -> Result:
    """It is there, it is this user's alone, and it is of the right kind."""
    path = config.key_file
    enrol = f"asdnet-site enrol --site {config.site}"
    results: list[Result] = []
    try:
        facts = path.stat()
    except FileNotFoundError:
        return "failed", f"{path} does not exist", enrol
    except OSError as error:
        finding = f"{path} cannot be looked at ({error.strerror})"
        return "failed", finding, f"give this user the right to read {path.parent}"
    if facts.st_uid != os.getuid():
        finding = f"{path} belongs to another user (uid {facts.st_uid})"
        results.append(("failed", finding, f"chown {os.getuid()} {path}"))
    if facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        finding = f"others can use {path} (mode {stat.S_IMODE(facts.st_mode):04o})"
        results.append(("failed", finding, f"chmod 600 {path}"))
    try:
        fingerprint = openssh_fingerprint(read_private_key(path).public_key())
        results.append(("ok", f"its public key is {fingerprint}", ""))
    except KeyFileError as error:
        finding, _, _ = str(error).partition(";")
        hint = f"{enrol} --replace, then send the centre the new public key"
        if not os.access(path, os.R_OK):
            hint = f"make {path} a file that this user can read"
        results.append(("failed", finding, hint))
    return joined(results)


def _study_key(config: SiteConfig) -> Result:
    """The centre's key, without which no study is answered, is here."""
    path = config.centre_key_file
    hint = f"put the centre's study.pub there; asdnet-site enrol --site {config.site} shows it"
    if not path.exists():
        return "failed", f"{path} does not exist: no study of the centre would be believed", hint
    try:
        fingerprint = openssh_fingerprint(read_verifying_key(path))
    except KeyFileError as error:
        return "failed", str(error), hint
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "failed", f"others can change {path}, and so which studies run", f"chmod 644 {path}"
    return "ok", f"the centre signs its studies with {fingerprint}", ""


def _state(config: SiteConfig) -> Result:
    """The folder can be made or written to, and so can the audit log; nothing is written."""
    folder, audit = config.state, config.audit_file
    hint = f"give this user the right to write there, or set `state` of {config.site}.yaml"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return "failed", f"{folder} cannot be made ({error.strerror})", hint
    if not os.access(folder, os.W_OK | os.X_OK):
        return "failed", f"{folder} is not writable", hint
    if audit.exists() and not (audit.is_file() and os.access(audit, os.W_OK)):
        return "failed", f"the audit log {audit} is not a writable file", hint
    if exposed := open_folders(config):
        names = " ".join(map(str, exposed))
        return "warning", f"{names}: open to other users of this machine", f"chmod go-rwx {names}"
    return "ok", f"{folder} and its audit log are writable", ""


def _worker(config: SiteConfig) -> Result:
    """What the process that runs approved code is kept from, tried on this machine."""
    from client.node.worker import try_walls  # late: it needs Flower

    confined = try_walls(config)
    gaps = confined.missing()
    if gaps:
        hint = "; ".join(dict.fromkeys(gap.hint for gap in gaps))
        return "warning", "; ".join(gap.what for gap in gaps), hint
    return "ok", f"approved code has {confined.walls()}", ""


def _disk(config: SiteConfig, study: StudyProtocol, note: str) -> Result:
    """Room for what is not yet in the cache, estimated from the scans' headers."""
    _require_within(config, study, note)
    try:
        cases = find_cases(config.data, config)
    except (LayoutError, OSError):
        raise Skip("the cases are not known; see data") from None
    needs = [_cached_size(case, study) for case in cases]
    known = [need for need in needs if need is not None]
    done = sum(_entries(config.cache, study))
    missing = max(0, sum(known) - done)
    volume = config.cache.absolute()
    while not os.path.exists(volume):  # unlike Path.exists, False where one may not look
        volume = volume.parent
    free = shutil.disk_usage(volume).free
    finding = f"{decimal(missing)} still needed (estimate), {decimal(free)} free at {volume}{note}"
    hint = f"free space there, or set `cache` of {config.site}.yaml to another disk"
    if not os.access(volume, os.W_OK):
        return "failed", f"{volume} is not writable", "give this user the right to write there"
    if free < missing:
        return "failed", finding, hint
    if free < 2 * missing:
        return "warning", finding, hint
    if len(known) < len(needs):
        finding = (
            f"{finding}; {len(needs) - len(known)} scans left out, whose headers are unreadable"
        )
        return (
            "warning",
            finding,
            "docs/guides/hospital.md has the formats; export these scans again",
        )
    return "ok", finding, ""


def _cached_size(case: Case, study: StudyProtocol) -> int | None:
    """Bytes of a case in the cache; None where its header cannot be read."""
    header = size_and_spacing(case)
    if header is None:
        return None
    size, own_mm = header
    voxels = float(np.prod(size) * np.prod(own_mm)) / float(np.prod(study.spacing_mm))
    return entry_bytes(voxels, labelled=case.label is not None) if math.isfinite(voxels) else None


def _entries(cache: Path, study: StudyProtocol) -> Iterable[int]:
    """Bytes of each case that is in the cache on this study's grid.

    Found by spacing alone: the keys would need every byte of every scan.
    """
    for file in cache.glob("[!.]*/facts.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            spacing_mm = json.loads(file.read_text())["spacing_mm_xyz"]
            if np.allclose(spacing_mm, study.spacing_mm, rtol=0, atol=_SAME_MM):
                yield sum(array.stat().st_size for array in file.parent.glob("*.npy"))


def _data(config: SiteConfig) -> Result:
    """Cases by kind, from file names alone: those that `asdnet-site check` would open."""
    try:
        survey = survey_folder(config.data, config)
    except OSError as error:
        finding = f"the data folder cannot be read ({error.strerror})"
        return "failed", finding, f"give this user the right to read {config.data}"
    count = Counter(case.part for case in survey.cases)
    named = ", ".join(f"{part} {count[part]}" for part in get_args(Part))
    if survey.excluded:
        named += f", excluded by the site's file {len(survey.excluded)}"
    check = f"asdnet-site check --site {config.site}"
    if survey.refused:
        shown = "\n".join(str(refusal.problem) for refusal in survey.refused[:_MISTAKES_SHOWN])
        number = len(survey.refused)
        more = f"\nand {number - _MISTAKES_SHOWN} more" if number > _MISTAKES_SHOWN else ""
        finding = f"{number} mistake{'s' if number > 1 else ''}:\n{shown}{more}"
        return "failed", f"{finding}\nwithout them: {named}", f"{check} shows them for every case"
    cases = f"{len(survey.cases)} case{'s' if len(survey.cases) > 1 else ''}"
    return "ok", f"{named}, by file names; {check} opens these {cases} and says which are used", ""
