"""What a round costs besides training: deployed and simulated; ours, plain Flower, NVFLARE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from asdnet_models.networks import build_confidence, build_segmenter
from benchmarks import own_rounds, peer_rounds
from benchmarks.common import Report, Row, Target
from benchmarks.peer_rounds import NVFLARE_VARIABLE, Shapes
from benchmarks.processes import nothing_left_behind
from protocol.config.study import StudyProtocol
from protocol.wire.weights import wire_weights

DEPLOYED, SIMULATED = "round overhead, deployed", "round overhead, simulation"
WHY = {
    DEPLOYED: "the SuperLink's requests, by object and hop (docs/results/deployment.md)",
    SIMULATED: "ours checks, logs and saves (checkpoint, models, MLflow); plain Flower does not",
}
OURS = "ours"
# The first is slower everywhere: things are imported, connections made.
ROUNDS, LEFT_OUT = 6, 1
TEXT = """Seconds of a round less the slowest site's training (peers do not train), two sites on one
machine, {millions:.2f} M parameters in {tensors} tensors; medians of {kept} rounds after the first.
Ours: the whole of a round, to the next one's start, with checkpoint, models, audit logs and MLflow.
Deployed: ours and NVFLARE (POC) over mutually authenticated TLS, plain Flower without (which spares
it work); ours through a SuperLink with a database on disk, as plain Flower."""


def measure() -> Report:
    """All rows; NVFLARE's where an environment with it is named."""
    study = own_rounds.study(ROUNDS + 1)  # scores are asked for in the last
    shapes = shapes_of(study)
    flower = f"plain Flower {version('flwr')}, FedAvg"
    python = peer_rounds.nvflare_python()
    jobs: dict[str, dict[str, Callable[[Path], Sequence[float]]]] = {
        DEPLOYED: {
            OURS: lambda at: own_rounds.deployed(at, study)[:-1],
            flower: lambda at: peer_rounds.flower_deployed(at, shapes, ROUNDS)[LEFT_OUT:],
        },
        SIMULATED: {
            OURS: lambda at: own_rounds.simulated(at, study)[:-1],
            flower: lambda at: peer_rounds.flower_simulated(at, shapes, ROUNDS)[LEFT_OUT:],
        },
    }
    if python is not None:
        name = f"NVFLARE {peer_rounds.nvflare_version(python)}, FedAvg"
        jobs[DEPLOYED][name] = lambda at: _nvflare(at, shapes, python, "poc")
        jobs[SIMULATED][name] = lambda at: _nvflare(at, shapes, python, "sim")
    rows = []
    for topic, peers in jobs.items():
        seconds = {}
        for who, job in peers.items():
            with nothing_left_behind() as folder:
                seconds[who] = list(job(folder / "work"))
        rows += rows_of(topic, seconds)
    if python is None:
        rows += [not_installed(topic) for topic in (DEPLOYED, SIMULATED)]
    numbers = [_product(shape) for shape in shapes.values()]
    text = TEXT.format(millions=sum(numbers) / 1e6, tensors=len(numbers), kept=ROUNDS - LEFT_OUT)
    return Report(
        heading="Round overhead", rows=rows, targets=targets(rows), text=text.replace("\n", " ")
    )


def shapes_of(study: StudyProtocol) -> Shapes:
    """Shapes of all that a study sends each round, by name."""
    both = {"segmenter": build_segmenter(study), "confidence": build_confidence(study)}
    return {
        f"{network}.{name}": tuple(tensor.shape)
        for network, module in both.items()
        for name, tensor in wire_weights(module.state_dict()).items()
    }


def rows_of(topic: str, seconds: dict[str, list[float]]) -> list[Row]:
    """One row for each implementation."""
    middle = {who: median(measured) for who, measured in seconds.items()}
    return [
        Row(
            topic=topic,
            who=who,
            value=middle[who],
            unit="s",
            ratio=None if who == OURS else middle[who] / middle[OURS],
            spread=(min(measured), max(measured)),
            runs=len(measured),
        )
        for who, measured in seconds.items()
    ]


def not_installed(topic: str) -> Row:
    """The row of a peer that is not there."""
    note = f"not installed: {NVFLARE_VARIABLE} names no Python with nvflare and torch"
    return Row(topic=topic, who="NVFLARE", value=float("nan"), unit="s", runs=0, note=note)


def targets(rows: Sequence[Row]) -> list[Target]:
    """Ours against each peer, by what was measured."""
    against_peers = []
    for topic in dict.fromkeys(row.topic for row in rows):
        of_topic = [row for row in rows if row.topic == topic]
        (ours,) = [row for row in of_topic if row.who == OURS]
        for row in of_topic:
            if row.who == OURS:
                continue
            reached = f"{ours.value:.2f} s against {row.value:.2f} s"
            why = "" if ours.value < row.value else WHY[topic]
            if not row.runs:
                reached, why = f"{ours.value:.2f} s", row.note
            against_peers.append(
                Target(
                    topic=topic,
                    target=f"less than {row.who}",
                    reached=reached,
                    met=row.runs > 0 and ours.value < row.value,
                    why=why,
                )
            )
    return against_peers


def _nvflare(at: Path, shapes: Shapes, python: Path, kind: str) -> Sequence[float]:
    return peer_rounds.nvflare(at, shapes, ROUNDS + 1, python, kind)[LEFT_OUT:]


def _product(shape: Sequence[int]) -> int:
    total = 1
    for edge in shape:
        total *= edge
    return total
