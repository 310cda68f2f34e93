"""`make bench-gpu`: the training step on this machine's GPU; without one, a line that says so.

`--memory` computes on a CPU what a step keeps, so that a card can be chosen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).parents[1]))

from asdnet_models.methods.common import predict
from benchmarks.step import asdnet_step, patches
from client.training.device import build_networks
from protocol.config.presets import PRESET_NAMES, PresetName, preset
from protocol.config.study import StudyProtocol

_CPU = torch.device("cpu")
_WAYS: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "compile": {"compiled": True},
    "accumulate 2": {"parts": 2},
}
_RUNS = 10
_MIB = 2**20


def main(
    memory: Annotated[
        bool, typer.Option("--memory", help="What a step keeps, by preset; computed on the CPU.")
    ] = False,
) -> None:
    """Steps a second and peak memory of every preset, plain, compiled and in parts."""
    if memory:
        for name in PRESET_NAMES:
            sys.stdout.write(f"{name}: {memory_line(preset(name))}\n")
        return
    if not torch.cuda.is_available():
        sys.stderr.write("bench-gpu: PyTorch sees no GPU on this machine; nothing was measured\n")
        raise typer.Exit(2)
    device = torch.device("cuda")
    sys.stdout.write(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}\n")
    for name in PRESET_NAMES:
        for way, options in _WAYS.items():
            seconds, peak = _on_gpu(preset(name), device, options)
            sys.stdout.write(f"{name}, {way}: {seconds:.4f} s a step, {peak:.0f} MiB at most\n")
        sys.stdout.write(f"{name}: loss differs from the CPU's by {_differs(name, device):.2e}\n")


def _on_gpu(
    protocol: StudyProtocol, device: torch.device, options: dict[str, Any]
) -> tuple[float, float]:
    """Median seconds of a step, after a warm-up that compiles, and the peak in MiB."""
    step = asdnet_step(protocol, device=device, **options)
    step()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    taken = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        step()
        torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return median(taken), torch.cuda.max_memory_allocated(device) / _MIB


def _differs(name: PresetName, device: torch.device) -> float:
    """Of the first step's loss: bfloat16 has eight bits, so a hundredth is as it should be."""
    losses = [asdnet_step(preset(name), device=where)().losses["total"] for where in (_CPU, device)]
    return abs(losses[1] - losses[0])


def memory_line(protocol: StudyProtocol) -> str:
    """Weights with gradients and Adam's moments, and what S's and D's graphs keep; float32."""
    nets = build_networks(protocol, _CPU, trains_confidence=True)
    assert nets.confidence is not None
    weights = sum(
        p.numel() * p.element_size()
        for network in (nets.segmenter, nets.confidence)
        for p in network.parameters()
    )
    image, label = patches(protocol)
    graphs = []
    for part in (image, torch.cat((image[:1], image[len(label) : len(label) + 1]))):
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            maps = predict(nets.segmenter, part).probabilities
            judged = nets.confidence(maps, part)
        graphs.append(sum(kept.values()) / _MIB)
        del judged
    return (
        f"weights, gradients and moments {4 * weights / _MIB:.0f} MiB; the graphs of S and D keep "
        f"{graphs[0]:.0f} MiB, of one labelled and one unlabelled patch alone {graphs[1]:.0f} MiB"
    )


def entry() -> None:
    """The command."""
    typer.run(main)


if __name__ == "__main__":
    entry()
