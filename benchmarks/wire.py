"""Bytes and time of one update of trained weights on the wire, by format."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import torch
from flwr.app import RecordDict

from asdnet_models.networks import build_segmenter
from benchmarks.common import RUNS, Report, Row, Target
from protocol.config.study import StudyProtocol, WireConfig, merged
from protocol.wire.compression import pack_global, pack_update, read_global, read_update
from protocol.wire.weights import Weights, bytes_sent, wire_weights

WIRES = tuple(
    WireConfig(format=form, compress=level) for form in ("fp32", "bf16", "int8") for level in (0, 3)
)
_STEPS = 4
_NAME = "segmenter"


def measure() -> Report:
    """Bytes up and down and seconds of SVNet k5 w16 after a few steps, by format."""
    sent, trained = trained_weights(merged(StudyProtocol(), {"patch_voxels": (32, 32, 16)}))
    count = sum(w.numel() for w in sent.values())
    rows = [row for wire in WIRES for row in _rows(wire, sent, trained)]
    down = {row.who: row.value for row in rows if row.topic == "bytes down"}
    up = {row.who: row.value for row in rows if row.topic == "bytes up"}
    return Report(
        heading="Bytes on the wire",
        rows=_with_ratios(rows),
        targets=[
            _target("bf16", 0.50, up, down),
            _target("int8", 0.25, up, down),
        ],
        text=f"One update of S: {count / 1e6:.1f} M parameters after {_STEPS} steps of Adam.",
    )


def trained_weights(protocol: StudyProtocol) -> tuple[Weights, Weights]:
    """S before and after a few steps on noise: differences of the size that training makes."""
    segmenter = build_segmenter(protocol)
    before = wire_weights({name: w.clone() for name, w in segmenter.state_dict().items()})
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(segmenter.parameters(), lr=protocol.training.lr_segmenter)
    for _ in range(_STEPS):
        image = torch.randn(1, 1, *protocol.patch_voxels, generator=generator)
        label = (image[:, 0] > 1).long()
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(segmenter(image), label).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return before, wire_weights(segmenter.state_dict())


def _rows(wire: WireConfig, sent: Weights, trained: Weights) -> list[Row]:
    who = wire.format + (f", zstd {wire.compress}" if wire.compress else "")
    packing, reading = [], []
    for _ in range(RUNS):
        down = RecordDict({_NAME: pack_global(sent, wire)})
        there = read_global(down, _NAME, sent, wire) or {}
        started = time.perf_counter()
        record, left = pack_update(trained, there, wire)
        packed = time.perf_counter()
        up = RecordDict({_NAME: record})
        received = read_update(up, _NAME, sent, wire) or {}
        packing.append(packed - started)
        reading.append(time.perf_counter() - packed)
    lost = _error(received, sent, trained, there, left)
    mib = 2**20
    return [
        Row(topic="bytes down", who=who, value=bytes_sent(down) / mib, unit="MiB", runs=1),
        Row(topic="bytes up", who=who, value=bytes_sent(up) / mib, unit="MiB", runs=1, note=lost),
        _timed("pack an update", who, packing),
        _timed("read an update", who, reading),
    ]


def _error(
    received: Weights, sent: Weights, trained: Weights, there: Weights, left: Weights
) -> str:
    """Size of what rounding held back against the whole update."""
    if not left:
        return "exact" if all(torch.equal(received[n], trained[n]) for n in received) else "differs"
    meant = torch.cat([(trained[n] - there[n]).flatten() for n in sent])
    residual = torch.cat([left[n].flatten() for n in sent])
    return f"{float(residual.norm() / meant.norm()):.2%} of its norm is left for the next round"


def _timed(topic: str, who: str, seconds: list[float]) -> Row:
    spread = (min(seconds), max(seconds))
    return Row(
        topic=topic, who=who, value=median(seconds), unit="s", spread=spread, runs=len(seconds)
    )


def _with_ratios(rows: list[Row]) -> list[Row]:
    """Grouped by topic, each over plain fp32."""
    first = {row.topic: row.value for row in reversed(rows)}
    topics = list(first)[::-1]
    return [
        row if row.who == "fp32" else replace(row, ratio=row.value / first[row.topic])
        for row in sorted(rows, key=lambda row: topics.index(row.topic))
    ]


def _target(form: str, share: float, up: dict[str, float], down: dict[str, float]) -> Target:
    reached = {
        who: max(up[who] / up["fp32"], down[who] / down["fp32"])
        for who in up
        if who.startswith(form)
    }
    best = min(reached, key=lambda who: reached[who])
    return Target(
        topic=f"bytes of {form}",
        target=f"at most {share:.0%} of fp32, up and down",
        reached=f"{reached[best]:.2%} ({best})",
        met=reached[best] <= share,
        why="" if reached[best] <= share else "scales and biases are float32",
    )
