"""Inference over 256 x 256 x 144 voxels, compared with MONAI's sliding windows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import SimpleITK as sitk
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from asdnet_models.inference.sliding_window import predict_probabilities
from asdnet_models.inference.windows import slide
from asdnet_models.losses import dice_loss
from asdnet_models.networks.svnet import SVNet
from asdnet_models.preprocessing import preprocess_image, preprocess_label
from benchmarks.common import RUNS, Report, Row, Target, in_turn
from benchmarks.scans import Once, once, phantom

_PATCH = (64, 64, 16)
_WHOLE = "256 x 256 x 144, SVNet k3 w4, 64 x 64 x 16"
_PART = "96 x 96 x 32 of it, SVNet k3 w8, overlap 0.5"
_WHO = (
    "ours, body, overlap 0.5",
    "ours, organs, overlap 0.5",
    "MONAI, overlap 0.5",
)
_FASTER, _DSC = 3.0, 0.002
# A network that has learned something in a minute or two: coarse phantoms, small patches.
_SMALL, _COARSE_MM, _STEPS, _TRAINED, _TESTED = (24, 24, 16), 3.0, 600, 8, 5
_SAME_MEMORY = 1.01
_WHY = {
    "body": "this scan has no air, so every window is wanted: two in a pass are all the gain",
    "organs": "tiles over the whole body, and all windows over organs, are what is left",
}
Runs = dict[str, list[Once]]
Case = tuple[Tensor, NDArray[np.uint8]]
Scores = dict[str, tuple[float, float]]


def measure() -> Report:
    """Time and memory with fresh weights, DSC with trained ones: neither gives both."""
    torch.set_num_threads(1)
    volume, organs = _volume()
    middle = volume[:, :, 80:176, 80:176, 56:88].contiguous()
    jobs: dict[str, Callable[[], object]] = {
        "ours, body": partial(_ours, _network(8), middle, 0.5),
        "ours, all (exact)": partial(_ours, _network(8), middle, 0.5, "all"),
        "MONAI": partial(_monai, _network(8), middle),
    }
    rows = in_turn(_PART, jobs, ours="ours, body")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.npy"
        np.save(path, _written_into(volume, organs).numpy())
        runs: Runs = {who: [] for who in _WHO}
        for _ in range(RUNS):
            for who, taken in runs.items():
                taken.append(once("benchmarks.inference", who, str(path)))
    rows += _whole_rows(runs)
    scores = _scores()
    return Report(
        heading="Inference",
        rows=rows,
        targets=[_target(who, runs, scores) for who in _WHO[:-1]],
        text=_text(scores) + "\n\n" + _kernels(),
    )


def prepare(who: str, path: str) -> Callable[[], object]:
    """One implementation's job, for a child process; the input is in memory before."""
    torch.set_num_threads(1)
    volume, network = torch.from_numpy(np.load(path)), _network(4)
    overlap = float(who.split()[-1])
    if "organs" in who:
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return partial(_organs, network, volume, overlap)
    if who.startswith("MONAI"):
        return partial(_monai, network, volume)
    return partial(_ours, network, volume, overlap)


def _volume() -> tuple[Tensor, Tensor]:
    """The normalised scan and its organs, 0 to 3."""
    image, label = phantom()
    return (
        _tensor(preprocess_image(image, (1.0, 1.0, 1.0))),
        _tensor(preprocess_label(label, (1.0, 1.0, 1.0))),
    )


def _tensor(image: sitk.Image) -> Tensor:
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]


def _network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return SVNet(classes=4, levels=4, width=width, kernel=3).eval()


def _ours(network: nn.Module, volume: Tensor, overlap: float, windows: str = "body") -> Tensor:
    return predict_probabilities(
        network, volume, _PATCH, overlap=overlap, windows="all" if windows == "all" else "body"
    )


def _written_into(volume: Tensor, organs: Tensor) -> Tensor:
    """The scan in steps of 1/1024, and below them what organ a voxel is of."""
    return (volume * 1024).floor() / 1024 + organs / 8192


@torch.inference_mode()
def _organs(network: nn.Module, volume: Tensor, overlap: float) -> Tensor:
    """How much is computed depends on what is found: here it is what the reference has.

    The network runs on each window, but returns the window's reference.
    """

    def reference_of(batch: Tensor) -> Tensor:
        logits: Tensor = network(batch)
        organ = ((batch * 1024) % 1 * 8).round()
        truth = torch.cat([organ == value for value in range(logits.shape[1])], 1)
        return (20 * truth + 0 * logits).softmax(1)

    return slide(reference_of, volume, _PATCH, overlap=overlap, in_air=0, background="in_air")


@torch.inference_mode()
def _monai(network: nn.Module, volume: Tensor) -> object:
    # As its documentation has it, one window a pass: softmax and mean as ours.
    return sliding_window_inference(
        volume, _PATCH, 1, lambda x: network(x).softmax(1), overlap=0.5, mode="gaussian"
    )


def _whole_rows(runs: Runs) -> list[Row]:
    rows = []
    for topic, unit, of in (
        (_WHOLE, "s", _seconds),
        (f"{_WHOLE}: peak memory, imports included", "MiB", _peak),
    ):
        values = {who: [of(run) for run in taken] for who, taken in runs.items()}
        first = median(values[_WHO[0]])
        rows += [
            Row(topic=topic, who=who, value=median(measured), unit=unit, runs=len(measured),
                spread=(min(measured), max(measured)), note="one thread",
                ratio=None if who == _WHO[0] else median(measured) / first)
            for who, measured in values.items()
        ]  # fmt: skip
    return rows


def _seconds(run: Once) -> float:
    return run.seconds


def _peak(run: Once) -> float:
    return run.peak_mib


def _target(who: str, runs: Runs, scores: Scores) -> Target:
    ours, monai = runs[who], runs[_WHO[-1]]
    faster = median(map(_seconds, monai)) / median(map(_seconds, ours))
    moved = scores["all, overlap 0.5"][0] - scores[who.removeprefix("ours, ")][0]
    memory = median(map(_peak, ours)) / median(map(_peak, monai))
    met = faster >= _FASTER and moved <= _DSC and memory <= _SAME_MEMORY
    return Target(
        topic=f"{_WHOLE}: {who}",
        target=f"{_FASTER:g} times as fast as MONAI, DSC within {_DSC}, no more memory (to 1 %)",
        reached=f"{faster:.2f} times, DSC {-moved:+.4f}, {memory:.2f} times the memory",
        met=met,
        why="" if met else _WHY["organs" if "organs" in who else "body"],
    )


def _scores() -> dict[str, tuple[float, float]]:
    """Of each way, mean DSC of a network that was trained here on phantoms that it has not seen.

    And how many windows a scan it was shown, on average.
    """
    network = _trained([_case(number) for number in range(_TRAINED)])
    tested = [_case(number) for number in range(_TRAINED, _TRAINED + _TESTED)]
    shown: list[int] = []
    network.register_forward_hook(lambda _, inputs, __: shown.append(len(inputs[0])))
    x, y, z = _SMALL
    predict = partial(predict_probabilities, network)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "all, overlap 0.5": lambda v: predict(v, _SMALL),
        "body, overlap 0.5": lambda v: predict(v, _SMALL, windows="body"),
        "organs, overlap 0.5": lambda v: predict(v, _SMALL, windows="organs"),
        "body, overlap 0.25": lambda v: predict(v, _SMALL, overlap=0.25, windows="body"),
        "all, windows of twice the edges": lambda v: predict(v, (2 * x, 2 * y, 2 * z)),
    }
    scores = {}
    for name, way in ways.items():
        shown.clear()
        dsc = float(np.mean([_dsc(way(volume), label) for volume, label in tested]))
        scores[name] = (dsc, sum(shown) / len(tested))
    return scores


def _case(number: int) -> Case:
    image, label = phantom(100 + number, _COARSE_MM)
    spacing = (_COARSE_MM, _COARSE_MM, _COARSE_MM)
    volume = _tensor(preprocess_image(image, spacing))
    return volume, _tensor(preprocess_label(label, spacing))[0, 0].numpy().astype(np.uint8)


def _trained(cases: list[Case]) -> nn.Module:
    network = _network(8).train()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    rng = np.random.default_rng(0)
    for step in range(_STEPS):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / _STEPS)
        drawn = [_patch(cases[rng.integers(len(cases))], rng) for _ in range(4)]
        images, labels = zip(*drawn, strict=True)
        truth = torch.nn.functional.one_hot(torch.stack(labels).long(), 4).permute(0, 4, 1, 2, 3)
        logits = network(torch.stack(images))
        loss = dice_loss(logits.softmax(1), truth.float(), "uniform").mean()
        loss = loss + torch.nn.functional.cross_entropy(logits, truth.float())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.eval()


def _patch(case: Case, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    volume, label = case
    places = np.argwhere(label == rng.integers(1, 4))
    centre = (
        places[rng.integers(len(places))] if rng.random() < 1 / 2 else rng.integers(label.shape)
    )
    low = np.clip(centre - np.array(_SMALL) // 2, 0, np.array(label.shape) - _SMALL)
    x, y, z = (slice(int(a), int(a) + edge) for a, edge in zip(low, _SMALL, strict=True))
    return volume[0, :, x, y, z], torch.from_numpy(label[x, y, z])


def _dsc(probabilities: Tensor, label: NDArray[np.uint8]) -> float:
    predicted = probabilities[0].argmax(0).numpy()
    pairs = [(predicted == value, label == value) for value in (1, 2, 3)]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


def _text(scores: Scores) -> str:
    lines = [
        "Windows of air are left out, two windows go through the network at once, channels last."
        " The time of `organs` is that of a network that finds what the reference has. DSC is of"
        f" an SVNet k3 w8 that was trained in this run at {_COARSE_MM:g} mm on"
        f" {_TRAINED} phantoms for {_STEPS} steps, on {_TESTED} others:",
        "",
        "| windows | mean DSC | windows a scan |",
        "| --- | --- | --- |",
        *(f"| {way} | {dsc:.4f} | {count:.0f} |" for way, (dsc, count) in scores.items()),
    ]
    return "\n".join(lines)


def _kernels() -> str:
    """The two largest costs, one window a pass as before, and two as now."""
    network = _network(8)
    lines = ["| largest costs of a window, ms | before | now |", "| --- | --- | --- |"]
    spent: list[dict[str, float]] = []
    for at_once, layout in ((1, torch.contiguous_format), (2, torch.channels_last_3d)):
        network = network.to(memory_format=layout)  # type: ignore[call-overload]
        with torch.inference_mode():
            batch = torch.randn(at_once, 1, *_PATCH)
            network(batch)
            with profile(activities=[ProfilerActivity.CPU]) as costs:
                network(batch)
        spent.append({e.key: e.self_cpu_time_total / 1e3 / at_once for e in costs.key_averages()})
    names = ("aten::mkldnn_convolution", "aten::slow_conv3d_forward", "aten::elu_")
    lines += [f"| `{n}` | {spent[0].get(n, 0):.1f} | {spent[1].get(n, 0):.1f} |" for n in names]
    return "\n".join(lines)
