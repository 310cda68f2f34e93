"""Preflight of the device: one real training step of the study, in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from rich.filesize import decimal

from client.node.checks import Result
from protocol.config.site import SiteConfig
from protocol.config.study import ProtocolError, StudyProtocol

if TYPE_CHECKING:
    import torch

STEP_LIMIT_S = 120.0
# Over this share of the memory, the next process on the machine is one too many.
_FULL = 0.9


def rehearse_training(config: SiteConfig, study: StudyProtocol, note: str) -> Result:
    """One real training step, in a process of its own, which the system may kill for memory."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_rehearse, args=(config, study, sender), daemon=True)
    child.start()
    sender.close()  # so that a dead child is an end of file here
    try:
        if not receiver.poll(STEP_LIMIT_S):
            finding = f"a training step takes over {STEP_LIMIT_S:g} s{note}"
            return "failed", finding, "use a machine with a GPU, or inform the centre"
        status, finding, hint = receiver.recv()
        return status, finding + note, hint
    except EOFError:
        child.join()
        if child.exitcode != -signal.SIGKILL:
            finding = f"a training step ended with status {child.exitcode}{note}"
            return "failed", finding, "reinstall PyTorch for this machine"
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
        rule, _, hint = str(error).rpartition("; ")
        sender.send(("failed", rule, hint))
    except (RuntimeError, MemoryError, ArithmeticError) as error:
        text = " ".join(str(error).split())
        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if full or "can't allocate memory" in text:
            sender.send(_out_of_memory(f"{device}: a training step ran out of memory", ""))
        else:
            hint = "see that driver and PyTorch fit each other, or set another `device`"
            sender.send(("failed", f"{device}: a training step failed: {text[:200]}", hint))


def _out_of_memory(finding: str, note: str) -> Result:
    hint = (
        "set another `device`, or `accumulate: 2`, or inform the centre: batch and patch are the "
        "study's decision"
    )
    return "failed", finding + note, hint


def _step(config: SiteConfig, study: StudyProtocol, device: torch.device) -> Result:
    """Random patches through both networks with every term of the loss on."""
    import torch

    from client.training.rehearsal import device_bytes, made_step, proc_bytes

    if config.threads:
        torch.set_num_threads(config.threads)
    before = proc_bytes("/proc/self/status", "VmRSS")
    available = device_bytes(device)
    started = time.perf_counter()
    made_step(config, study, device)()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        peak: int | None = torch.cuda.max_memory_allocated(device)
    else:
        # Not getrusage: its maximum is inherited from the parent, which may have been larger.
        highest = proc_bytes("/proc/self/status", "VmHWM")
        peak = highest - before if highest and before else None
    finding = f"{device}: one training step takes {time.perf_counter() - started:.1f} s"
    if peak is None or available is None:
        return "ok", f"{finding}; its memory is not known on this system", ""
    finding = f"{finding} and {decimal(peak)} of {decimal(available)}"
    if peak > _FULL * available:
        return "warning", finding, "end other programs on this machine, or use another `device`"
    return "ok", finding, ""
