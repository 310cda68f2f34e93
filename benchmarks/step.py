"""The training step: against a bare loop of the same convolutions, and against MONAI's networks.

Run as `python -m benchmarks.step NAME`, it takes one step and prints what memory it took, in MiB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import torch
from monai.losses import GeneralizedDiceLoss
from monai.networks.nets import UNet as MonaiUNet
from monai.networks.nets import VNet as MonaiVNet
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from asdnet_models.methods.asdnet import train_step
from asdnet_models.methods.batches import LabelledBatch
from asdnet_models.methods.record import StepRecord
from benchmarks.common import Report, Row, Target, in_child, in_turn, status_mib
from client.training.device import build_networks
from protocol.config.presets import PresetName, preset
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol, merged

OVERHEAD = 1.10
_RUNS: Mapping[PresetName, int] = {"quick": 15, "paper": 5}
_CPU = torch.device("cpu")
_LAYOUT = torch.channels_last_3d
ALL_TERMS = RoundPlan(round=1, lr_factor=1.0, adversarial_ramp=1.0, region_ramp=1.0)
_SUPERVISED = {"method": {"lambda_adversarial": 0.0, "lambda_region": 0.0}}
# What is not the network, by what it is for.  Before: commit 81ea145, quick, 2026-11-26, one
# thread, share of the step's time in the same profiler.
_COSTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "class of each voxel (argmax, now max)": (("aten::argmax", "aten::max"), "16.3 %"),
    "one-hot maps, voxels picked by index": (
        ("aten::scatter_", "aten::scatter_add", "aten::nonzero", "aten::index", "aten::bincount"),
        "1.5 %",
    ),
}

Job = Callable[[], object]


def measure() -> Report:
    """Overhead over the convolutions, patches a second, memory of a step."""
    rows: list[Row] = []
    targets: list[Target] = []
    with one_thread():
        for name, runs in _RUNS.items():
            overhead_rows, ratio = _overhead(name, runs)
            rows += overhead_rows
            targets.append(_target(overhead_rows[0].topic, ratio))
        rows += _patches_a_second()
        text = _profile()
    rows += _memory()
    return Report(heading="The training step", rows=rows, targets=targets, text=text)


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks on one core: the others may be at work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def asdnet_step(
    protocol: StudyProtocol,
    *,
    parts: int = 1,
    compiled: bool = False,
    device: torch.device = _CPU,
) -> Callable[[], StepRecord]:
    """One step of the method with all its terms on, on random patches."""
    nets = build_networks(protocol, device, trains_confidence=True, parts=parts, compiled=compiled)
    image, label = patches(protocol, device)
    count = len(label)
    labelled = LabelledBatch(image=image[:count], label=label)
    unlabelled = image[count:] if protocol.method.trains_confidence else None
    return lambda: train_step(nets, protocol.method, ALL_TERMS, labelled, unlabelled)


def patches(protocol: StudyProtocol, device: torch.device = _CPU) -> tuple[Tensor, Tensor]:
    """Labelled and unlabelled images (2B, 1, X, Y, Z), labels (B, 1, X, Y, Z) of boxes."""
    count = protocol.training.batch_size
    generator = torch.Generator().manual_seed(protocol.seed)
    image = torch.randn(2 * count, 1, *protocol.patch_voxels, generator=generator)
    label = torch.zeros(count, 1, *protocol.patch_voxels, dtype=torch.uint8)
    for organ in range(1, protocol.classes):
        label[:, :, 8 * organ : 8 * organ + 8, 8:20, 4:12] = organ
    return (
        image.to(device).contiguous(memory_format=_LAYOUT),
        label.to(device).contiguous(memory_format=_LAYOUT),
    )


def bare_step(protocol: StudyProtocol) -> Job:
    """What the method needs of its networks: forward, backward, Adam; sums stand for the losses."""
    nets = build_networks(protocol, _CPU, trains_confidence=True)
    image, label = patches(protocol)
    seen = len(label) if nets.learns_correctness else 2 * len(label)
    shape = (seen, protocol.classes, *protocol.patch_voxels)
    maps = torch.rand(shape).softmax(1).contiguous(memory_format=_LAYOUT)
    segmenter, confidence = nets.segmenter, nets.confidence
    assert confidence is not None and nets.confidence_optimiser is not None
    adams = (nets.segmenter_optimiser, nets.confidence_optimiser)

    def step() -> None:
        logits = segmenter(image)
        adams[1].zero_grad()
        confidence(maps, image[:seen]).sum().backward()
        adams[1].step()
        confidence.requires_grad_(False)
        judged = confidence(logits, image)
        confidence.requires_grad_(True)
        adams[0].zero_grad()
        judged.sum().backward()
        adams[0].step()

    return step


def monai_step(network: nn.Module, protocol: StudyProtocol) -> Job:
    """A supervised step as MONAI's tutorials take it, on the same labelled patches."""
    network = network.to(memory_format=_LAYOUT)  # type: ignore[call-overload]
    image, label = patches(protocol)
    image = image[: len(label)]
    adam = torch.optim.Adam(network.parameters(), 1e-3)
    loss = GeneralizedDiceLoss(to_onehot_y=True, softmax=True)

    def step() -> None:
        adam.zero_grad()
        loss(network(image), label).backward()
        adam.step()

    return step


def _overhead(name: PresetName, runs: int) -> tuple[list[Row], float]:
    protocol = preset(name)
    topic = f"one step, preset {name}"
    jobs = {"ours, all terms": asdnet_step(protocol), "bare convolutions": bare_step(protocol)}
    rows = in_turn(topic, jobs, ours="ours, all terms", runs=runs)
    return rows, rows[0].value / rows[1].value


def _target(topic: str, ratio: float) -> Target:
    met = ratio <= OVERHEAD
    return Target(
        topic=topic,
        target="data, losses and bookkeeping cost at most 10 % over the convolutions",
        reached=f"{100 * (ratio - 1):+.1f} %",
        met=met,
        why="" if met else "losses and the class of each voxel; other work on the machine moves it",
    )


def _peers() -> dict[str, Job]:
    protocol = preset("paper")
    classes = protocol.classes
    widths = tuple(protocol.network.width * 2**level for level in range(5))
    unet = MonaiUNet(3, 1, classes, channels=widths, strides=(2, 2, 2, 2), num_res_units=2)
    return {
        "ours: SVNet, supervised": asdnet_step(merged(protocol, _SUPERVISED)),
        "MONAI VNet": monai_step(MonaiVNet(3, 1, classes), protocol),
        "MONAI UNet": monai_step(unet, protocol),
    }


def _patches_a_second() -> list[Row]:
    return in_turn(
        "labelled patches of 64x64x16 through one supervised step",
        _peers(),
        ours="ours: SVNet, supervised",
        per_second=preset("paper").training.batch_size,
    )


def _profile() -> str:
    step = asdnet_step(preset("quick"))
    step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    self_times = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    whole = sum(self_times.values())
    lines = [
        "Shares of one `quick` step in PyTorch's profiler; before: commit 81ea145 of 2026-11-26.",
        "",
        "| not the network | before | now |",
        "| --- | --- | --- |",
    ]
    for what, (operations, before) in _COSTS.items():
        share = sum(self_times.get(name, 0.0) for name in operations) / whole
        lines.append(f"| {what} | {before} | {100 * share:.1f} % |")
    return "\n".join(lines)


_MEMORY: Mapping[str, Callable[[], Job]] = {
    "ours": lambda: asdnet_step(preset("paper")),
    "ours-in-two-parts": lambda: asdnet_step(preset("paper"), parts=2),
    "monai-vnet": lambda: _peers()["MONAI VNet"],
    "monai-unet": lambda: _peers()["MONAI UNet"],
}
_NOTES = {
    "ours": "S on 4 patches, D beside it",
    "ours-in-two-parts": "site file: accumulate 2",
    "monai-vnet": "supervised, 2 patches",
    "monai-unet": "supervised, 2 patches",
}


def _memory(runs: int = 1) -> list[Row]:
    """Each in a process of its own."""
    taken = {
        name: [float(in_child("-m", "benchmarks.step", name)) for _ in range(runs)]
        for name in _MEMORY
    }
    ours = median(taken["ours"])
    return [
        Row(
            topic="memory of one step, preset paper",
            who=name.replace("-", " "),
            value=median(values),
            unit="MiB",
            ratio=None if name == "ours" else median(values) / ours,
            runs=runs,
            note=_NOTES[name],
        )
        for name, values in taken.items()
    ]


def one_step_in_mib(name: str) -> float:
    """Peak of this process in one step over what it held before the networks were built."""
    torch.set_num_threads(1)
    before = status_mib("VmRSS")
    _MEMORY[name]()()
    return status_mib("VmHWM") - before


if __name__ == "__main__":
    sys.stdout.write(f"{one_step_in_mib(sys.argv[1])}\n")
