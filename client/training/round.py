"""One round of local training at one site."""

import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from asdnet_models.device import torch_device
from asdnet_models.methods import method_named
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.common import Method, Networks, Proximal
from asdnet_models.methods.record import StepRecord
from asdnet_models.networks import load_weights
from asdnet_models.sums import SumCount
from client.data.dataset import (
    PatchSampler,
    PseudoLabels,
    SiteData,
)
from client.training.augmentation import RandomViews
from client.training.device import build_networks, check_accumulate, on_device
from client.training.optimiser_state import OptimiserStore
from client.training.prefetch import prefetched
from client.training.pseudo_labels import pseudo_labels_of
from protocol.config.schedule import RoundPlan
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.reports import TrainReport
from protocol.wire.small_groups import withhold_few
from protocol.wire.weights import Weights, wire_weights


class NothingToTrainError(RuntimeError):
    """This site has no scan that the round could use."""


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """A site's update: weights for the wire, and what the round measured."""

    segmenter: Weights
    confidence: Weights | None
    report: TrainReport

    @property
    def networks(self) -> dict[str, Weights]:
        """What was trained, by network."""
        both = {SEGMENTER: self.segmenter, CONFIDENCE: self.confidence}
        return {network: weights for network, weights in both.items() if weights is not None}


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
    *,
    run: str,
) -> RoundResult:
    """Train S, and D at a site with labels, from the global weights for `local_steps` steps.

    Args:
        config: Device, how steps are taken on it, and the folder of optimiser states and
            pseudo-labels.
        protocol: The study.
        plan: This round's rates and ramps.
        data: The site's cases.
        segmenter: Global weights of S.
        confidence: Global weights of D; None where the method has none.
        run: Name of the run; optimiser states are kept by it.

    Raises:
        NothingToTrainError: If there are no labelled cases, nor unlabelled ones that have a target.
        NonFiniteLossError: The round's weights and optimiser states are thrown away.
        ProtocolError: If the site wants steps in parts, and this study's cannot be so taken.
    """
    started = time.perf_counter()
    if not data.labelled and not (data.unlabelled and plan.learns_from_unlabelled):
        raise NothingToTrainError("no labelled case, and unlabelled ones rest during warm-up")
    check_accumulate(config, protocol)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch_device(config.device)
    networks = _networks(
        config, protocol, device, segmenter, confidence, has_labels=bool(data.labelled)
    )
    # Before any step: with the global weights, and at a crash again with the same ones.
    pseudo = pseudo_labels_of(
        config.state, run, plan, networks.segmenter, protocol, data.unlabelled
    )
    store = OptimiserStore(config.state, run)
    store.load(networks, plan.round)
    _set_rates(networks, protocol, plan)
    rng = round_generator(protocol, config.site, plan.round)
    sampler = PatchSampler(protocol, rng, plan.organ_box)
    method = _method(protocol, plan, networks, rng, has_labels=bool(data.labelled))

    def draw() -> tuple[LabelledBatch | None, UnlabelledBatch | None]:
        return _draw(protocol, plan, data, pseudo, sampler, rng, device)

    records = [method.step(*both) for both in prefetched(draw, protocol.training.local_steps)]
    totals = _Totals(records)
    store.save(networks, plan.round)
    trained_confidence = networks.confidence if networks.confidence_optimiser else None
    return RoundResult(
        segmenter=wire_weights(networks.segmenter.state_dict()),
        confidence=wire_weights(trained_confidence.state_dict()) if trained_confidence else None,
        report=totals.report(
            protocol,
            data,
            sampler.drawn,
            seconds=time.perf_counter() - started,
            fewest=config.min_cases_reported,
        ),
    )


def _networks(
    config: SiteConfig,
    protocol: StudyProtocol,
    device: torch.device,
    segmenter: Weights,
    confidence: Weights | None,
    *,
    has_labels: bool,
) -> Networks:
    """The networks with the global weights; D is trained only at a site with labels."""
    networks = build_networks(
        protocol,
        device,
        trains_confidence=has_labels,
        compiled=config.compile,
        parts=config.accumulate,
    )
    load_weights(networks.segmenter, segmenter)
    if networks.confidence is not None:
        load_weights(networks.confidence, confidence or {})
    return networks


def _method(
    protocol: StudyProtocol,
    plan: RoundPlan,
    networks: Networks,
    rng: np.random.Generator,
    *,
    has_labels: bool,
) -> Method:
    """The study's method for one round; a site without labels is held near the global weights."""
    proximal = None
    if not has_labels and protocol.training.proximal_mu:
        proximal = Proximal(networks.segmenter, protocol.training.proximal_mu)
    return method_named(protocol.method.name)(
        networks,
        protocol.method,
        plan,
        proximal=proximal,
        # A stream of its own: a method that draws does not change which patches are drawn.
        generator=torch.Generator().manual_seed(int(rng.spawn(1)[0].integers(2**62))),
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
    plan: RoundPlan,
    data: SiteData,
    pseudo: PseudoLabels | None,
    sampler: PatchSampler,
    rng: np.random.Generator,
    device: torch.device,
) -> tuple[LabelledBatch | None, UnlabelledBatch | None]:
    """One labelled and one unlabelled batch, 1:1, augmented, on the device."""
    count = protocol.training.batch_size
    labelled, unlabelled = None, None
    if data.labelled:
        views = RandomViews(protocol, count, rng)
        batch = sampler.labelled(data.labelled, count, views.edges)
        image, label = views.of(batch.image, batch.label)
        assert label is not None
        unannotated = None if batch.unannotated is None else batch.unannotated.to(device)
        labelled = LabelledBatch(
            image=on_device(image, device), label=on_device(label, device), unannotated=unannotated
        )
    if data.unlabelled and plan.uses_unlabelled:
        views = RandomViews(protocol, count, rng)
        drawn = sampler.unlabelled(data.unlabelled, count, pseudo, views.edges)
        image, drawn_label = views.of(drawn.image, drawn.pseudo_label)
        unlabelled = UnlabelledBatch(
            image=on_device(image, device),
            pseudo_label=None if drawn_label is None else on_device(drawn_label, device),
        )
    return labelled, unlabelled


class _Totals:
    """Sums over the steps of a round; here their numbers are read, a GPU waited for once."""

    def __init__(self, records: Iterable[StepRecord]) -> None:
        self._losses: dict[str, list[float]] = defaultdict(list)
        self._attention = SumCount()
        self._trusted: list[int] = []
        self._predicted: list[int] = []
        self._voxels: list[list[int]] = []
        for record in records:
            self._add(record)

    def _add(self, record: StepRecord) -> None:
        for name, value in record.losses.items():
            self._losses[name].append(value)
        self._attention += SumCount(sum=sum(record.attention), count=len(record.attention))
        self._trusted = _added(self._trusted, record.trusted_by_class)
        self._predicted = _added(self._predicted, record.predicted_by_class)
        self._voxels += record.voxels_by_sample

    def report(
        self,
        protocol: StudyProtocol,
        data: SiteData,
        drawn: Mapping[str, Sequence[str]],
        *,
        seconds: float,
        fewest: int,
    ) -> TrainReport:
        """What of it may leave, for patches that were drawn from these cases."""
        names = ("background", *protocol.organ_names)
        voxels = zip(names, self._trusted, self._predicted, strict=False)
        report = TrainReport(
            labelled=len(data.labelled),
            unlabelled=len(data.unlabelled),
            steps=protocol.training.local_steps,
            seconds=seconds,
            losses={
                name: SumCount(sum=float(np.sum(values)), count=len(values))
                for name, values in self._losses.items()
            },
            attention=self._attention,
            trusted={name: SumCount(sum=sure, count=count) for name, sure, count in voxels},
        )
        return withhold_few(
            report,
            labelled=len(set(drawn["labelled"])),
            unlabelled=len(set(drawn["unlabelled"])),
            voxels=self._voxels_by_case(drawn["unlabelled"]),
            fewest=fewest,
        )

    def _voxels_by_case(self, drawn: Sequence[str]) -> list[list[int]]:
        """Of each unlabelled case, what `voxels_by_sample` has of its patches."""
        of_case: dict[str, list[int]] = {}
        # Eq. 6 runs in all steps of a round or in none.
        for key, row in zip(drawn, self._voxels, strict=bool(self._voxels)):
            of_case[key] = _added(of_case.get(key, []), row)
        return list(of_case.values())


def _added(total: list[int], new: list[int]) -> list[int]:
    return [a + b for a, b in zip(total, new, strict=True)] if total and new else total or new
