"""What all methods share: the networks, the supervised loss, one safe optimiser step."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor, nn

from asdnet_models.class_maps import argmax_channels
from asdnet_models.config import MethodConfig
from asdnet_models.losses import cross_entropy_loss, dice_loss, sample_attention
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.record import StepRecord
from asdnet_models.networks.parts import DeeplySupervised
from asdnet_models.schedule import LossSchedule


class NonFiniteLossError(ArithmeticError):
    """A loss became NaN or infinite; the weights of this round must not be sent."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """S's prediction of a batch: logits and probabilities of each of its heads, float32.

    One head, but for networks with deep supervision.

    Attributes:
        logits: (B, C, X, Y, Z) each, all at full resolution; the first is the segmentation.
        weights: What each head's supervised loss weighs.
        heads: Each head's class probabilities, shaped as its logits.
    """

    logits: tuple[Tensor, ...]
    weights: tuple[float, ...] = (1.0,)
    heads: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        # Not when first asked for, which may be where no graph is kept.
        heads = tuple(torch.softmax(logits, dim=1) for logits in self.logits)
        object.__setattr__(self, "heads", heads)

    @property
    def probabilities(self) -> Tensor:
        """The segmentation, (B, C, X, Y, Z)."""
        return self.heads[0]


@dataclass(kw_only=True)
class Networks:
    """S and D with their optimisers; no optimiser means that the network is not trained here.

    `teacher`: Of S's form: its moving average, or a second network with an optimiser of its own.
    `learns_correctness`: D learns where S is right, not Eq. 3 and 4.
    `softmax_prior`: M is read off D and the softmax together.
    `parts`: In how many parts a step's batch is worked through, where memory is short.
    `clip_norm`: L2 norm that a step's gradient of S may have; None: any.
    """

    segmenter: nn.Module
    segmenter_optimiser: torch.optim.Optimizer
    confidence: nn.Module | None = None
    confidence_optimiser: torch.optim.Optimizer | None = None
    teacher: nn.Module | None = None
    teacher_optimiser: torch.optim.Optimizer | None = None
    learns_correctness: bool = False
    softmax_prior: bool = False
    parts: int = 1
    clip_norm: float | None = None


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Gradients flow through the network, none into it.  Restores what was trainable before."""
    before = [parameter.requires_grad for parameter in network.parameters()]
    network.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, trainable in zip(network.parameters(), before, strict=True):
            parameter.requires_grad_(trainable)


class Proximal:
    """mu / 2 ||theta - theta_global||^2 over the weights that S had at the round's start.

    Source: Li et al., MLSys 2020 (FedProx).
    """

    def __init__(self, segmenter: nn.Module, mu: float) -> None:
        self._anchor = [parameter.detach().clone() for parameter in segmenter.parameters()]
        self._mu = mu

    def __call__(self, segmenter: nn.Module) -> Tensor:
        """The penalty of the present weights; scalar."""
        distance = sum(
            ((parameter - anchor) ** 2).sum()
            for parameter, anchor in zip(segmenter.parameters(), self._anchor, strict=True)
        )
        return self._mu / 2 * torch.as_tensor(distance)


@dataclass(eq=False)
class Method(ABC):
    """The steps of one round at one site; made anew for each round.

    Attributes:
        networks: S, D and their optimisers.
        config: The switches of the method.
        plan: This round's ramps.
        proximal: Pull of S to the global weights, for label-free sites.
        generator: For what the method draws at random.
    """

    networks: Networks
    config: MethodConfig
    plan: LossSchedule
    _: KW_ONLY
    proximal: Proximal | None
    generator: torch.Generator

    @abstractmethod
    def step(
        self, labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None
    ) -> StepRecord:
        """One optimiser step of S, and of whatever else the method trains.

        Raises:
            NonFiniteLossError: Before any optimiser has stepped on a non-finite loss.
        """

    def _step_segmenter(self, loss: Tensor, record: StepRecord) -> None:
        record.note("total", loss)
        if self.proximal is not None:
            loss = loss + self.proximal(self.networks.segmenter)
        take_step(
            self.networks.segmenter_optimiser,
            loss,
            "segmenter",
            clip_norm=self.networks.clip_norm,
        )


def logits_of(segmenter: nn.Module, image: Tensor) -> Tensor:
    """Logits of a batch, float32; autocast to bf16 on a GPU."""
    with torch.autocast(image.device.type, torch.bfloat16, enabled=image.is_cuda):
        logits: Tensor = segmenter(image)
    return logits.float()


def softmax_of(segmenter: nn.Module, image: Tensor) -> Tensor:
    """Class probabilities of a batch, float32; autocast to bf16 on a GPU."""
    return torch.softmax(logits_of(segmenter, image), dim=1)


def predict(segmenter: nn.Module, image: Tensor) -> Prediction:
    """All heads' logits in one forward pass; autocast to bf16 on a GPU."""
    if not isinstance(segmenter, DeeplySupervised):
        return Prediction(logits=(logits_of(segmenter, image),))
    with torch.autocast(image.device.type, torch.bfloat16, enabled=image.is_cuda):
        heads = segmenter.deep_logits(image)
    return Prediction(logits=tuple(head.float() for head in heads), weights=segmenter.head_weights)


def take_step(
    optimiser: torch.optim.Optimizer,
    loss: Tensor | Iterable[Tensor],
    name: str,
    *,
    clip_norm: float | None = None,
) -> None:
    """One step of one optimiser.

    Args:
        optimiser: Of the network that learns.
        loss: Scalar; or its summands, each made when the one before has been back-propagated and
            its graph is gone.
        name: The network's.
        clip_norm: L2 norm that the gradient may have, of all summands together; None: any.

    Raises:
        NonFiniteLossError: Instead of a step on a loss that is not finite.
    """
    optimiser.zero_grad(set_to_none=True)
    for summand in [loss] if isinstance(loss, Tensor) else loss:
        if not torch.isfinite(summand):
            value = float(summand.detach())
            raise NonFiniteLossError(f"{name} loss is {value}; lower its learning rate")
        summand.backward()
    if clip_norm is not None:
        weights = (weight for group in optimiser.param_groups for weight in group["params"])
        torch.nn.utils.clip_grad_norm_(weights, clip_norm)
    optimiser.step()


def supervised_loss(
    method: MethodConfig,
    plan: LossSchedule,
    labelled: LabelledBatch,
    prediction: Prediction,
    record: StepRecord,
) -> Tensor:
    """Eq. 1, weighted by Eq. 2 unless attention is off; mean over samples.

    "dice+ce" has in place of Eq. 1 its mean with the cross-entropy of the same sample.  With deep
    supervision this is the weighted sum over the heads.  Eq. 2 and the record's "dice" are of
    the segmentation alone, so that they mean the same for every network.  All see the maps of a
    partly annotated sample merged (`merge_unannotated`).

    Args:
        method: Class weights and attention.
        plan: The running mean that "normalised" attention is divided by.
        labelled: The patches.
        prediction: Of a batch whose first samples are the labelled ones.
        record: Where "dice" and the attention are noted.
    """
    count = labelled.label.shape[0]
    heads = [labelled.known(head[:count]) for head in prediction.heads]
    probabilities = heads[0]
    target = labelled.target(probabilities.shape[1])
    dice = [dice_loss(head, target, method.class_weight) for head in heads]
    record.note("dice", dice[0].detach().mean())
    by_head = dice
    if method.supervised == "dice+ce":
        label = argmax_channels(target)
        known = (labelled.known_logits(logits[:count]) for logits in prediction.logits)
        entropies = (cross_entropy_loss(logits, label) for logits in known)
        by_head = [(one + other) / 2 for one, other in zip(dice, entropies, strict=True)]
    losses = torch.stack(
        [weight * loss for weight, loss in zip(prediction.weights, by_head, strict=True)]
    ).sum(0)
    if method.sample_attention == "off":
        return losses.mean()
    weight = sample_attention(probabilities, target, method.beta)
    record.weights.append(weight)
    if method.sample_attention == "normalised":
        weight = weight / plan.attention_scale
    return (weight * losses).mean()
