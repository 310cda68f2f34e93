"""One round of local training at one site."""

import time
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from asdnet_models.catalogue import METHODS
from asdnet_models.device import torch_device
from asdnet_models.methods import method_named
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.common import Method, Networks, Proximal
from asdnet_models.networks import load_weights
from client.data.dataset import (
    PatchSampler,
    PseudoLabels,
    SiteData,
)
from client.training.augmentation import RandomViews
from client.training.average import AverageStore
from client.training.device import build_networks, check_accumulate, on_device
from client.training.optimiser_state import OptimiserStore
from client.training.prefetch import prefetched
from client.training.pseudo_labels import pseudo_labels_of
from client.training.totals import Totals
from protocol.config.schedule import RoundPlan
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.reports import TrainReport
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
    if not data.labelled and not (data.unlabelled and plan.works_without_labels):
        raise NothingToTrainError("no labelled case, and unlabelled ones rest in this round")
    check_accumulate(config, protocol)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch_device(config.device)
    networks = _networks(
        config, protocol, device, segmenter, confidence, has_labels=bool(data.labelled)
    )
    _set_teacher(networks, config, protocol, plan, segmenter, run)
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
    totals = Totals(records)
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


def _set_teacher(
    networks: Networks,
    config: SiteConfig,
    protocol: StudyProtocol,
    plan: RoundPlan,
    segmenter: Weights,
    run: str,
) -> None:
    """The teacher goes on from the average of the global weights that this site has been sent.

    One that began anew at each round's weights would forget what averaging bought; one that kept
    the site's own would not know the other sites'.  A round's weights weigh of their successor's
    what the average keeps in a round's steps.
    """
    if networks.teacher is None or networks.teacher_optimiser is not None:
        return
    decay = protocol.method.teacher_decay**protocol.training.local_steps
    start = segmenter
    if plan.round > 1:
        store = AverageStore(config.state, run, decay, "teachers")
        start = store.add(segmenter, plan.round - 1)
    load_weights(networks.teacher, start)


def _method(
    protocol: StudyProtocol,
    plan: RoundPlan,
    networks: Networks,
    rng: np.random.Generator,
    *,
    has_labels: bool,
) -> Method:
    """The study's method for one round; where the study wants it, S is held near the global one."""
    training = protocol.training
    pull = training.fedprox_mu if has_labels else training.proximal_mu
    proximal = Proximal(networks.segmenter, pull) if pull else None
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
    training = protocol.training
    for optimiser, rate in (
        (networks.segmenter_optimiser, training.lr_segmenter),
        (networks.teacher_optimiser, training.lr_segmenter),
        (networks.confidence_optimiser, training.lr_confidence),
    ):
        for group in optimiser.param_groups if optimiser else ():
            group["lr"] = rate * plan.lr_factor


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
        pseudo_label, plain = drawn.pseudo_label, None
        if METHODS[protocol.method.name].teacher:
            image, plain = views.with_plain(drawn.image)
        else:
            image, pseudo_label = views.of(drawn.image, pseudo_label)
        unlabelled = UnlabelledBatch(
            image=on_device(image, device),
            pseudo_label=None if pseudo_label is None else on_device(pseudo_label, device),
            plain=None if plain is None else on_device(plain, device),
        )
    return labelled, unlabelled
