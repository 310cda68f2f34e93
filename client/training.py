"""One round of local training at one site."""

import logging
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asdnet_models.methods.asdnet import (
    LabelledBatch,
    Networks,
    Proximal,
    StepRecord,
    train_step,
)
from asdnet_models.networks import build_confidence, build_segmenter
from client.augmentation import augment
from client.dataset import PatchSampler, SiteData
from protocol.messages import TrainReport, Weights, wire_weights
from protocol.schedule import RoundPlan
from protocol.sites import SiteConfig
from protocol.study import StudyProtocol
from protocol.sums import SumCount

log = logging.getLogger(__name__)

# Tensor cores want this layout, and on a CPU it spares PyTorch's slow fallback convolution.
_LAYOUT = torch.channels_last_3d


class NothingToTrainError(RuntimeError):
    """This site has no scan that the round could use."""


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """A site's update: weights for the wire, and what the round measured."""

    segmenter: Weights
    confidence: Weights | None
    report: TrainReport


def choose_device(config: SiteConfig) -> torch.device:
    """The site's device; "auto" is the GPU where there is one."""
    if config.device != "auto":
        return torch.device(config.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def round_generator(protocol: StudyProtocol, site: str, number: int) -> np.random.Generator:
    """The round's only source of randomness, from (study seed, site, round)."""
    return np.random.default_rng([protocol.seed, zlib.crc32(site.encode()), number])


def train_round(
    config: SiteConfig,
    protocol: StudyProtocol,
    plan: RoundPlan,
    data: SiteData,
    segmenter: Weights,
    confidence: Weights | None,
) -> RoundResult:
    """Train S, and D at a site with labels, from the global weights for `local_steps` steps.

    Args:
        config: Device, threads and the folder of the optimiser states.
        protocol: The study.
        plan: This round's rates and ramps.
        data: The site's cases.
        segmenter: Global weights of S.
        confidence: Global weights of D; None where the method has none.

    Raises:
        NothingToTrainError: If neither labelled nor (after warm-up) unlabelled cases exist.
        NonFiniteLossError: The round's weights and optimiser states are thrown away.
    """
    started = time.perf_counter()
    uses_unlabelled = bool(data.unlabelled) and plan.uses_unlabelled
    if not data.labelled and not uses_unlabelled:
        raise NothingToTrainError("no labelled case, and unlabelled ones rest during warm-up")
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config)
    networks = _networks(protocol, data, segmenter, confidence, device)
    store = OptimiserStore(config.state, protocol)
    if plan.round > 1:
        store.load(networks)
    _set_rates(networks, protocol, plan)
    proximal = None
    if not data.labelled and protocol.training.proximal_mu:
        proximal = Proximal(networks.segmenter, protocol.training.proximal_mu)
    rng = round_generator(protocol, config.site, plan.round)
    sampler = PatchSampler(protocol, rng, plan.organ_box)
    totals = _Totals()
    for _ in range(protocol.training.local_steps):
        labelled, unlabelled = _draw(protocol, data, sampler, rng, device, uses_unlabelled)
        record = train_step(
            networks, protocol.method, plan, labelled, unlabelled, proximal=proximal
        )
        totals.add(record)
    store.save(networks)
    report = TrainReport(
        labelled=len(data.labelled),
        unlabelled=len(data.unlabelled),
        steps=protocol.training.local_steps,
        seconds=time.perf_counter() - started,
        losses=totals.losses(),
        attention=totals.attention,
        trusted=totals.trusted(protocol),
    )
    trained_confidence = networks.confidence if networks.confidence_optimiser else None
    return RoundResult(
        segmenter=wire_weights(networks.segmenter.state_dict()),
        confidence=wire_weights(trained_confidence.state_dict()) if trained_confidence else None,
        report=report,
    )


def load_wire_weights(network: nn.Module, weights: Weights) -> None:
    """Into the network in place; tensors that do not travel keep their values.

    Raises:
        RuntimeError: If a floating tensor of the network is missing or has another shape.
    """
    network.load_state_dict({**network.state_dict(), **weights}, strict=True)


def _networks(
    protocol: StudyProtocol,
    data: SiteData,
    segmenter_weights: Weights,
    confidence_weights: Weights | None,
    device: torch.device,
) -> Networks:
    """Both networks on the device; D gets an optimiser only where labels are."""
    training = protocol.training
    on_gpu = device.type == "cuda"
    segmenter: nn.Module = build_segmenter(protocol)
    load_wire_weights(segmenter, segmenter_weights)
    segmenter = segmenter.to(device).to(memory_format=_LAYOUT).train()  # type: ignore[call-overload]
    confidence = confidence_optimiser = None
    if confidence_weights is not None and protocol.method.trains_confidence:
        network: nn.Module = build_confidence(protocol)
        load_wire_weights(network, confidence_weights)
        confidence = network.to(device).to(memory_format=_LAYOUT).train()  # type: ignore[call-overload]
        if data.labelled:
            confidence_optimiser = torch.optim.Adam(
                confidence.parameters(),
                lr=training.lr_confidence,
                weight_decay=training.weight_decay,
                fused=on_gpu,
            )
    return Networks(
        segmenter=segmenter,
        segmenter_optimiser=torch.optim.Adam(
            segmenter.parameters(),
            lr=training.lr_segmenter,
            weight_decay=training.weight_decay,
            fused=on_gpu,
        ),
        confidence=confidence,
        confidence_optimiser=confidence_optimiser,
    )


def _set_rates(networks: Networks, protocol: StudyProtocol, plan: RoundPlan) -> None:
    """The round's rates, over whatever the stored optimiser states held."""
    for group in networks.segmenter_optimiser.param_groups:
        group["lr"] = protocol.training.lr_segmenter * plan.lr_factor
    if networks.confidence_optimiser:
        for group in networks.confidence_optimiser.param_groups:
            group["lr"] = protocol.training.lr_confidence * plan.lr_factor


def _draw(
    protocol: StudyProtocol,
    data: SiteData,
    sampler: PatchSampler,
    rng: np.random.Generator,
    device: torch.device,
    uses_unlabelled: bool,
) -> tuple[LabelledBatch | None, Tensor | None]:
    """One labelled and one unlabelled batch, 1:1, augmented, on the device."""
    count = protocol.training.batch_size
    labelled, unlabelled = None, None
    if data.labelled:
        batch = sampler.labelled(data.labelled, count)
        image, label = batch.image, batch.label
        if protocol.training.augment:
            image, moved = augment(image, label, protocol.spacing_mm, rng)
            assert moved is not None
            label = moved
        labelled = LabelledBatch(image=_to(image, device), label=_to(label, device))
    if uses_unlabelled:
        image = sampler.unlabelled(data.unlabelled, count)
        if protocol.training.augment:
            image, _ = augment(image, None, protocol.spacing_mm, rng)
        unlabelled = _to(image, device)
    return labelled, unlabelled


def _to(batch: Tensor, device: torch.device) -> Tensor:
    batch = batch.contiguous(memory_format=_LAYOUT)
    if device.type != "cuda":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)


class OptimiserStore:
    """Adam's moments of one site, kept between rounds on the site's own disk.

    They belong to one protocol: an earlier study's are not taken up by a late-comer to this one.
    """

    def __init__(self, folder: Path, protocol: StudyProtocol) -> None:
        self._path = folder / "optimisers.pt"
        self._protocol = protocol.digest

    def load(self, networks: Networks) -> None:
        """Restore what was saved; a site that joins late starts with fresh moments."""
        if not self._path.exists():
            return
        states = torch.load(self._path, map_location="cpu", weights_only=True)
        if states["protocol"] != self._protocol:
            return
        networks.segmenter_optimiser.load_state_dict(states["segmenter"])
        if networks.confidence_optimiser and states["confidence"]:
            networks.confidence_optimiser.load_state_dict(states["confidence"])

    def save(self, networks: Networks) -> None:
        """Written beside the old file, then put in its place."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        confidence = networks.confidence_optimiser
        states: dict[str, Any] = {
            "protocol": self._protocol,
            "segmenter": networks.segmenter_optimiser.state_dict(),
            "confidence": confidence.state_dict() if confidence else None,
        }
        draft = self._path.with_suffix(".draft")
        torch.save(states, draft)
        draft.replace(self._path)


class _Totals:
    """Sums over the steps of a round."""

    def __init__(self) -> None:
        self._losses: dict[str, list[float]] = defaultdict(list)
        self.attention = SumCount()
        self._trusted: list[int] = []
        self._predicted: list[int] = []

    def add(self, record: StepRecord) -> None:
        for name, value in record.losses.items():
            self._losses[name].append(value)
        self.attention += SumCount(sum=sum(record.attention), count=len(record.attention))
        self._trusted = _added(self._trusted, record.trusted_by_class)
        self._predicted = _added(self._predicted, record.predicted_by_class)

    def losses(self) -> dict[str, SumCount]:
        return {
            name: SumCount(sum=float(np.sum(values)), count=len(values))
            for name, values in self._losses.items()
        }

    def trusted(self, protocol: StudyProtocol) -> dict[str, SumCount]:
        names = ("background", *protocol.organ_names)
        return {
            name: SumCount(sum=trusted, count=predicted)
            for name, trusted, predicted in zip(names, self._trusted, self._predicted, strict=False)
        }


def _added(total: list[int], new: list[int]) -> list[int]:
    return [a + b for a, b in zip(total, new, strict=True)] if total and new else total or new
