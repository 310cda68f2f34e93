"""What a hospital's machine needs before it joins, each as one row: what is found, what to do.

Nothing of the site's data is read but names and headers of scans, and nothing is sent.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from client.data.cache import entry_bytes
from client.data.case import Case, Part
from client.data.dicom.series import series_grid
from client.data.errors import ScanError
from client.data.layout import ContractError, find_cases
from client.node.connection import Result, Skip, Status, connection_checks, joined
from protocol.config.presets import preset
from protocol.config.site import SiteConfig
from protocol.config.study import ProtocolError, StudyProtocol
from protocol.keys import KeyFileError, openssh_fingerprint, read_private_key

if TYPE_CHECKING:
    import torch


log = logging.getLogger(__name__)

STEP_LIMIT_S = 120.0
# Over this share of the memory, the next process on the machine is one too many.
_FULL = 0.9
_SAME_MM = 1e-3
_MISTAKES_SHOWN = 3
_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the table.

    Attributes:
        name: What was looked at.
        status: A warning lets the site join; a failure does not.
        found: What is the case.
        remedy: What to do about it; empty where nothing is to be done.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""


def preflight(config: SiteConfig, protocol: StudyProtocol | None = None) -> list[Check]:
    """Every check, run and reported, whatever is wrong with the site, its network or its files.

    Args:
        config: The site's file.
        protocol: The study; None, before the site has seen one, stands for the paper's preset.
    """
    note = "" if protocol else " (no study seen yet: as preset paper)"
    study = protocol or preset("paper")
    steps: dict[str, Callable[[], Result]] = {
        **connection_checks(config),
        "private key": partial(_private_key, config),
        "state folder": partial(_state, config),
        "cache disk": partial(_disk, config, study, note),
        "device": partial(_device, config, study, note),
        "data": partial(_data, config),
    }
    return [_run(name, step) for name, step in steps.items()]


def print_preflight(checks: Iterable[Check], console: Console) -> None:
    """One table; long lines are folded, never cut, so that a pipe gets every word."""
    table = Table("check", "status", "found, and what to do", show_lines=True)
    table.columns[0].no_wrap = True
    for check in checks:
        style = _STYLES.get(check.status, "dim")
        told = Text(check.found, overflow="fold")
        if check.remedy:
            told.append(f"\nTo do: {check.remedy}", style="bold")
        table.add_row(Text(check.name), Text(check.status, style, no_wrap=True), told)
    console.print(table)


def _run(name: str, step: Callable[[], Result]) -> Check:
    """The check's row, also where the check itself breaks: one defect must not hide the rest."""
    try:
        status, found, remedy = step()
    except Skip as reason:
        return Check(name=name, status="skipped", found=str(reason))
    except Exception as error:
        # The text of an unforeseen error may name a case; its class does not.
        log.debug("the check %r broke", name, exc_info=True)
        status, found = "failed", f"this check itself broke: {type(error).__name__}"
        remedy = "report it to the makers of this software"
    return Check(name=name, status=status, found=found, remedy=remedy)


def _private_key(config: SiteConfig) -> Result:
    """It is there, it is this user's alone, and it is of the right kind."""
    path = config.key_file
    enrol = f"python client/enrol.py --site {config.site}"
    results: list[Result] = []
    try:
        facts = path.stat()
    except FileNotFoundError:
        return "failed", f"{path} does not exist", enrol
    except OSError as error:
        found = f"{path} cannot be looked at ({error.strerror})"
        return "failed", found, f"give this user the right to read {path.parent}"
    if facts.st_uid != os.getuid():
        found = f"{path} belongs to another user (uid {facts.st_uid})"
        results.append(("failed", found, f"chown {os.getuid()} {path}"))
    if facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        found = f"others can use {path} (mode {stat.S_IMODE(facts.st_mode):04o})"
        results.append(("failed", found, f"chmod 600 {path}"))
    try:
        fingerprint = openssh_fingerprint(read_private_key(path).public_key())
        results.append(("ok", f"its public key is {fingerprint}", ""))
    except KeyFileError as error:
        found, _, _ = str(error).partition(";")
        remedy = f"{enrol} --replace, then send the centre the new public key"
        if not os.access(path, os.R_OK):
            remedy = f"make {path} a file that this user can read"
        results.append(("failed", found, remedy))
    return joined(results)


def _state(config: SiteConfig) -> Result:
    """The folder can be made or written to, and so can the audit log; nothing is written."""
    folder, audit = config.state, config.audit_file
    remedy = f"give this user the right to write there, or set `state` of {config.site}.yaml"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return "failed", f"{folder} cannot be made ({error.strerror})", remedy
    if not os.access(folder, os.W_OK | os.X_OK):
        return "failed", f"{folder} is not writable", remedy
    if audit.exists() and not (audit.is_file() and os.access(audit, os.W_OK)):
        return "failed", f"the audit log {audit} is not a writable file", remedy
    if folder.stat().st_mode & stat.S_IRWXO:
        return "warning", f"{folder} is open to every user", f"chmod o-rwx {folder}"
    return "ok", f"{folder} and its audit log are writable", ""


def _disk(config: SiteConfig, study: StudyProtocol, note: str) -> Result:
    """Room for what is not yet in the cache, estimated from the scans' headers."""
    try:
        cases = find_cases(config.data, config)
    except (ContractError, OSError):
        raise Skip("the cases are not known; see data") from None
    needs = [_cached_size(case, study) for case in cases]
    known = [need for need in needs if need is not None]
    done = sum(_entries(config.cache, study))
    missing = max(0, sum(known) - done)
    volume = config.cache.absolute()
    while not os.path.exists(volume):  # unlike Path.exists, False where one may not look
        volume = volume.parent
    free = shutil.disk_usage(volume).free
    found = f"{decimal(missing)} still needed (estimate), {decimal(free)} free at {volume}{note}"
    remedy = f"free space there, or set `cache` of {config.site}.yaml to another disk"
    if not os.access(volume, os.W_OK):
        return "failed", f"{volume} is not writable", "give this user the right to write there"
    if free < missing:
        return "failed", found, remedy
    if free < 2 * missing:
        return "warning", found, remedy
    if len(known) < len(needs):
        found = f"{found}; {len(needs) - len(known)} scans left out, whose headers are unreadable"
        return "warning", found, "docs/guides/hospital.md has the formats; export these scans again"
    return "ok", found, ""


def _cached_size(case: Case, study: StudyProtocol) -> int | None:
    """Bytes of a case in the cache; None where its header cannot be read."""
    volume_mm3 = _volume_mm3(case)
    if volume_mm3 is None:
        return None
    voxels = volume_mm3 / float(np.prod(study.spacing_mm))
    return entry_bytes(voxels, labelled=case.label is not None)


def _volume_mm3(case: Case) -> float | None:
    """From the headers."""
    reader = sitk.ImageFileReader()
    loud = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        series = case.series
        if series is not None:
            grid = series_grid(series, place="")
            return float(np.prod(grid.shape) * np.prod(grid.spacing_mm))
        reader.SetFileName(str(case.image))
        reader.ReadImageInformation()
        volume = float(np.prod(reader.GetSize()) * np.prod(reader.GetSpacing()))
        return volume if math.isfinite(volume) else None
    except (RuntimeError, OSError, ScanError):
        return None
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(loud)


def _entries(cache: Path, study: StudyProtocol) -> Iterable[int]:
    """Bytes of each case that is in the cache on this study's grid.

    Told by spacing alone: the keys would need every byte of every scan.
    """
    for file in cache.glob("[!.]*/facts.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            spacing_mm = json.loads(file.read_text())["spacing_mm_xyz"]
            if np.allclose(spacing_mm, study.spacing_mm, rtol=0, atol=_SAME_MM):
                yield sum(array.stat().st_size for array in file.parent.glob("*.npy"))


def _data(config: SiteConfig) -> Result:
    """Cases by kind, told by file names alone."""
    try:
        count = Counter(case.part for case in find_cases(config.data, config))
    except ContractError as error:
        shown = "\n".join(error.mistakes[:_MISTAKES_SHOWN])
        number = len(error.mistakes)
        more = f"\nand {number - _MISTAKES_SHOWN} more" if number > _MISTAKES_SHOWN else ""
        found = f"{number} mistake{'s' if number > 1 else ''}:\n{shown}{more}"
        remedy = f"python client/check.py --site {config.site} says it of every case"
        return "failed", found, remedy
    except OSError as error:
        found = f"the data folder cannot be read ({error.strerror})"
        return "failed", found, f"give this user the right to read {config.data}"
    return "ok", ", ".join(f"{part} {count[part]}" for part in get_args(Part)), ""


def _device(config: SiteConfig, study: StudyProtocol, note: str) -> Result:
    """One real training step, in a process of its own, which the system may kill for memory."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_rehearse, args=(config, study, sender), daemon=True)
    child.start()
    sender.close()  # so that a dead child is an end of file here
    try:
        if not receiver.poll(STEP_LIMIT_S):
            found = f"a training step takes over {STEP_LIMIT_S:g} s{note}"
            return "failed", found, "use a machine with a GPU, or tell the centre"
        status, found, remedy = receiver.recv()
        return status, found + note, remedy
    except EOFError:
        child.join()
        if child.exitcode != -signal.SIGKILL:
            found = f"a training step ended with status {child.exitcode}{note}"
            return "failed", found, "reinstall PyTorch for this machine"
        return _out_of_memory("the system killed a training step", note)
    finally:
        child.kill()
        child.join()
        receiver.close()


def _rehearse(config: SiteConfig, study: StudyProtocol, sender: Connection) -> None:
    """In the child: send how the step went, a `Result`."""
    import torch

    from asdnet_models.device import DeviceError, torch_device

    device: torch.device | str = config.device
    try:
        device = torch_device(config.device)
        sender.send(_step(config, study, device))
    except (DeviceError, ProtocolError) as error:
        rule, _, remedy = str(error).rpartition("; ")
        sender.send(("failed", rule, remedy))
    except (RuntimeError, MemoryError, ArithmeticError) as error:
        text = " ".join(str(error).split())
        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if full or "can't allocate memory" in text:
            sender.send(_out_of_memory(f"{device}: a training step ran out of memory", ""))
        else:
            remedy = "see that driver and PyTorch fit each other, or set another `device`"
            sender.send(("failed", f"{device}: a training step failed: {text[:200]}", remedy))


def _out_of_memory(found: str, note: str) -> Result:
    remedy = (
        "set another `device`, or `accumulate: 2`, or tell the centre: batch and patch are the "
        "study's decision"
    )
    return "failed", found + note, remedy


def _step(config: SiteConfig, study: StudyProtocol, device: torch.device) -> Result:
    """Random patches through both networks with every term of the loss on."""
    import torch

    from asdnet_models.methods import method_named
    from asdnet_models.methods.common import LabelledBatch, UnlabelledBatch
    from client.training.device import build_networks, check_accumulate
    from protocol.config.schedule import RoundPlan

    check_accumulate(config, study)
    if config.threads:
        torch.set_num_threads(config.threads)
    before = _proc_bytes("/proc/self/status", "VmRSS")
    available = _proc_bytes("/proc/meminfo", "MemAvailable")
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(study.seed)
    shape = (study.training.batch_size, 1, *study.patch_voxels)
    image, unlabelled = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    label = torch.randint(study.classes, shape, generator=generator).to(device, torch.uint8)
    ramps = dict.fromkeys(("adversarial_ramp", "region_ramp", "embedding_ramp"), 1.0)
    plan = RoundPlan(round=1, lr_factor=1.0, pseudo_labels=1, **ramps)
    networks = build_networks(
        study, device, grades=True, compiled=config.compile, parts=config.accumulate
    )
    method = method_named(study.method.name)(
        networks, study.method, plan, proximal=None, generator=generator
    )
    method.step(
        LabelledBatch(image=image, label=label),
        UnlabelledBatch(image=unlabelled, pseudo_label=label),
    )
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        peak: int | None = torch.cuda.max_memory_allocated(device)
        available = torch.cuda.get_device_properties(device).total_memory
    else:
        # Not getrusage: its maximum is inherited from the parent, which may have been larger.
        highest = _proc_bytes("/proc/self/status", "VmHWM")
        peak = highest - before if highest and before else None
    found = f"{device}: one training step takes {time.perf_counter() - started:.1f} s"
    if peak is None or available is None:
        return "ok", f"{found}; its memory is not known on this system", ""
    found = f"{found} and {decimal(peak)} of {decimal(available)}"
    if peak > _FULL * available:
        return "warning", found, "end other programs on this machine, or use another `device`"
    return "ok", found, ""


def _proc_bytes(file: str, key: str) -> int | None:
    """A line such as `VmHWM: 1234 kB` of Linux's memory files; None on other systems."""
    with suppress(OSError):
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None
