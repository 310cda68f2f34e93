"""Steps of a study on made patches: what they take on this machine, without a scan."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

if TYPE_CHECKING:
    import torch

_TIMED_STEPS = 3


def made_step(
    config: SiteConfig, study: StudyProtocol, device: torch.device
) -> Callable[[], object]:
    """A step of the study on random patches, with every term of the loss on.

    Raises:
        ProtocolError: The site's `accumulate` does not go with the study.
    """
    import torch

    from asdnet_models.methods import method_named
    from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
    from client.training.device import build_networks, check_accumulate
    from protocol.config.schedule import RoundPlan

    check_accumulate(config, study)
    generator = torch.Generator().manual_seed(study.seed)
    shape = (study.training.batch_size, 1, *study.patch_voxels)
    image, unlabelled = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    label = torch.randint(study.classes, shape, generator=generator).to(device, torch.uint8)
    ramps = dict.fromkeys(("adversarial_ramp", "region_ramp", "embedding_ramp"), 1.0)
    plan = RoundPlan(round=1, lr_factor=1.0, pseudo_labels=1, **ramps)
    networks = build_networks(
        study, device, trains_confidence=True, compiled=config.compile, parts=config.accumulate
    )
    method = method_named(study.method.name)(
        networks, study.method, plan, proximal=None, generator=generator
    )
    labelled = LabelledBatch(image=image, label=label)
    others = UnlabelledBatch(image=unlabelled, plain=unlabelled, pseudo_label=label)
    return lambda: method.step(labelled, others)


def step_seconds(config: SiteConfig, study: StudyProtocol) -> float:
    """How long a step takes here, once its libraries are loaded: the median of three.

    Raises:
        DeviceError: There is no such device.
    """
    import torch

    from asdnet_models.device import torch_device

    device = torch_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    step = made_step(config, study, device)
    taken = []
    for _ in range(1 + _TIMED_STEPS):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def device_bytes(device: torch.device) -> int | None:
    """Memory of a GPU, or what is free of the machine's; None where it is not known."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return proc_bytes("/proc/meminfo", "MemAvailable")


def device_identity(device: torch.device) -> list[str]:
    """What tells a device from another machine's, and from itself after a change of its driver."""
    import torch

    if device.type == "cuda":
        memory: int | None = torch.cuda.get_device_properties(device).total_memory
        name = torch.cuda.get_device_name(device)
        files = {"/proc/driver/nvidia/version": ""}
    else:
        memory, name = proc_bytes("/proc/meminfo", "MemTotal"), platform.machine()
        files = {"/proc/cpuinfo": "model name"}
    facts = [str(device), name, str(memory), str(torch.get_num_threads()), platform.release()]
    for file, start in files.items():
        with suppress(OSError):
            lines = Path(file).read_text(encoding="utf-8").splitlines()
            facts += [line for line in lines if line.startswith(start)][:2]
    return facts


def proc_bytes(file: str, key: str) -> int | None:
    """A line such as `VmHWM: 1234 kB` of Linux's memory files; None on other systems."""
    with suppress(OSError):
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None
