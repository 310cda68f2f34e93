"""One real training step of a study, in a process of its own."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from client.node.checks import Result
from client.node.own_process import SPAWN, own_process
from protocol.config.site import SiteConfig
from protocol.config.study import ProtocolError, StudyProtocol

if TYPE_CHECKING:
    import torch

STEP_LIMIT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a training step has taken.

    Attributes:
        device: Where.
        seconds: Its time, with all that a first step has to load.
        peak_bytes: Its memory; None where that is not known.
        available_bytes: What there was for it.
    """

    device: str
    seconds: float
    peak_bytes: int | None
    available_bytes: int | None


def rehearse_training(config: SiteConfig, study: StudyProtocol) -> Step | Result:
    """One real training step, in a process of its own, which the system may kill for memory.

    Returns:
        What it took; or why there was none.
    """
    receiver, sender = SPAWN.Pipe(duplex=False)
    child = own_process(_rehearse, config, study, sender)
    child.start()
    sender.close()  # so that a dead child is an end of file here
    try:
        if not receiver.poll(STEP_LIMIT_S):
            finding = f"a training step takes over {STEP_LIMIT_S:g} s"
            return "failed", finding, "use a machine with a GPU, or inform the centre"
        taken: Step | Result = receiver.recv()
        return taken
    except EOFError:
        child.join()
        if child.exitcode != -signal.SIGKILL:
            finding = f"a training step ended with status {child.exitcode}"
            return "failed", finding, "reinstall PyTorch for this machine"
        return _out_of_memory("the system killed a training step")
    finally:
        child.kill()
        child.join()
        receiver.close()


def _rehearse(config: SiteConfig, study: StudyProtocol, sender: Connection) -> None:
    """In the child: send how the step went."""
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
            sender.send(_out_of_memory(f"{device}: a training step ran out of memory"))
        else:
            hint = "see that driver and PyTorch fit each other, or set another `device`"
            sender.send(("failed", f"{device}: a training step failed: {text[:200]}", hint))


def _out_of_memory(finding: str) -> Result:
    hint = (
        "set another `device`, or `accumulate: 2`, or inform the centre: batch and patch are the "
        "study's decision"
    )
    return "failed", finding, hint


def _step(config: SiteConfig, study: StudyProtocol, device: torch.device) -> Step:
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
    return Step(
        device=str(device),
        seconds=time.perf_counter() - started,
        peak_bytes=peak,
        available_bytes=available,
    )
