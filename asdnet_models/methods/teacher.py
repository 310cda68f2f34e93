"""What methods with a teacher share: its moving average, its labels, and where they are believed.

The teacher is the moving average of S (Tarvainen & Valpola, NeurIPS 2017).  It labels a patch as
it was acquired (the weak view); S learns these labels on the patch in other intensities.  Where
they are believed the confidence map M says, as in Eq. 6, but of the teacher's maps.
"""

import copy
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asdnet_models.class_maps import argmax_channels
from asdnet_models.config import MethodConfig
from asdnet_models.losses import trusted_voxels
from asdnet_models.methods.batches import LabelledBatch, Patches, UnlabelledBatch
from asdnet_models.methods.common import Method, predict, softmax_of, supervised_loss, take_step
from asdnet_models.methods.confidence_step import (
    confidence_logits,
    confidence_step_loss,
    trust_threshold,
    unseen_weights_kept,
)
from asdnet_models.methods.record import StepRecord
from asdnet_models.networks.confidence import confidence_map
from asdnet_models.schedule import LossSchedule
from asdnet_models.teacher_loss import believed_loss


class Teacher:
    """The moving average of S's weights, which labels unlabelled patches; never trained itself.

    Args:
        network: Of S's form, with the weights that the average begins with.
        decay: What the average keeps of itself at a step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network.requires_grad_(False).eval()
        self._decay = decay

    @classmethod
    def of(cls, segmenter: nn.Module, decay: float) -> "Teacher":
        """One that begins with S's weights."""
        return cls(copy.deepcopy(segmenter), decay)

    @torch.no_grad()
    def maps(self, image: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) to class probabilities (B, C, X, Y, Z), float32."""
        return softmax_of(self.network, image)

    @torch.no_grad()
    def label(self, image: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) to the most probable class of each voxel, same shape, int64."""
        return argmax_channels(self.maps(image))

    @torch.no_grad()
    def follow(self, segmenter: nn.Module) -> None:
        """theta' <- d theta' + (1 - d) theta; running statistics, if any, are taken as they are."""
        for mean, new in zip(self.network.parameters(), segmenter.parameters(), strict=True):
            mean.lerp_(new, 1 - self._decay)
        for own, running in zip(self.network.buffers(), segmenter.buffers(), strict=True):
            own.copy_(running)

    @torch.no_grad()
    def drift(self, segmenter: nn.Module) -> Tensor:
        """How far S is from its average: the L2 distance over the average's norm; scalar."""
        pairs = zip(segmenter.parameters(), self.network.parameters(), strict=True)
        apart = torch.stack([torch.linalg.vector_norm(new - mean) for new, mean in pairs])
        norms = [torch.linalg.vector_norm(mean) for mean in self.network.parameters()]
        return apart.square().sum().sqrt() / torch.stack(norms).square().sum().sqrt()


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a teacher says of unlabelled patches.

    Attributes:
        label: Its classes, (B, 1, X, Y, Z), int64.
        belief: What each voxel's label weighs, alike, in [0, 1].
        maps: Its class probabilities, (B, C, X, Y, Z), for losses that read them.
    """

    label: Tensor
    belief: Tensor
    maps: Tensor | None = None


@dataclass(eq=False)
class TeacherMethod(Method):
    """L = L_AttDice + ramp * lambda_region * L_teacher; which L_teacher a subclass says.

    A site uses the parts that it has patches for.  D, where the gate asks it, learns on labelled
    patches where the teacher is right.
    """

    def __post_init__(self) -> None:
        assert self.networks.teacher is not None
        self.teacher = Teacher(self.networks.teacher, self.config.teacher_decay)

    def step(
        self, labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None
    ) -> StepRecord:
        """One step of D (where it is trained), one of S, then one of its teacher.

        Raises:
            NonFiniteLossError: Before any optimiser has stepped on a non-finite loss.
            ValueError: If there is neither a labelled patch nor an unlabelled one that is taught.
        """
        taught = unlabelled if self.plan.region_ramp > 0 else None
        if labelled is None and taught is None:
            raise ValueError("a step needs labelled patches, or unlabelled ones after the warm-up")
        record = StepRecord()
        if labelled is not None and self.networks.confidence_optimiser is not None:
            self._step_confidence(labelled, record)
        loss = self._loss(labelled, taught, record)
        # Where nothing is believed, weight decay alone would move S.
        if labelled is not None or loss.item() != 0:
            self._step_segmenter(loss, record)
        else:
            record.note("total", loss)
        self.teacher.follow(self.networks.segmenter)
        record.note("drift", self.teacher.drift(self.networks.segmenter))
        return record

    def _loss(
        self, labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None, record: StepRecord
    ) -> Tensor:
        """Both kinds of patches in one forward pass of S."""
        seen: list[Tensor] = [] if labelled is None else [labelled.image]
        lesson = None if unlabelled is None else self._lesson(unlabelled, record)
        if lesson is not None:
            seen.append(lesson[0])
        prediction = predict(self.networks.segmenter, torch.cat(seen))
        logits = prediction.logits[0]
        loss = logits.sum() * 0.0
        if labelled is not None:
            loss = loss + supervised_loss(self.config, self.plan, labelled, prediction, record)
        if lesson is not None:
            count = 0 if labelled is None else len(labelled.image)
            learnt = self._learn(logits[count:], lesson[1], record)
            record.note("teacher", learnt)
            loss = loss + weight_of(self.config, self.plan) * learnt
        return loss

    @abstractmethod
    def _lesson(self, unlabelled: UnlabelledBatch, record: StepRecord) -> tuple[Tensor, Taught]:
        """The patches (B, 1, X, Y, Z) that S is to see, and what the teacher says of them."""

    def _learn(self, logits: Tensor, taught: Taught, record: StepRecord) -> Tensor:
        """The teacher's loss of S's logits of these patches; scalar."""
        note_agreement(logits, taught.label, record)
        return learnt_loss(self.config, logits, taught.label, taught.belief)

    def _taught(self, image: Tensor, record: StepRecord) -> Taught:
        """What the teacher says of weak views (B, 1, X, Y, Z), gated as the study has it."""
        maps = self.teacher.maps(image)
        label = argmax_channels(maps)
        trust = self._trust(maps, image, label)
        over = trusted_voxels(trust, trust_threshold(self.config, self.plan, trust, label))
        record.note_trusted(label, over, maps.shape[1])
        belief = trust if self.config.gate == "weight" else over.float()
        return Taught(label=label, belief=belief, maps=maps)

    @torch.no_grad()
    def _trust(self, maps: Tensor, image: Tensor, label: Tensor) -> Tensor:
        """M, the maximum softmax, or 1 where the study believes everything; (B, 1, X, Y, Z)."""
        if self.config.gate == "none":
            return torch.ones_like(image)
        if self.config.gate == "softmax":
            return maps.gather(1, label)
        assert self.networks.confidence is not None
        logits = confidence_logits(self.networks.confidence, maps, image)
        return confidence_map(logits, maps, softmax_prior=self.networks.softmax_prior)

    def _step_confidence(self, labelled: LabelledBatch, record: StepRecord) -> None:
        maps = self.teacher.maps(labelled.image)
        part = Patches(labelled=labelled, unlabelled=None)
        optimiser = self.networks.confidence_optimiser
        assert optimiser is not None
        with unseen_weights_kept(self.networks.confidence, labelled.unannotated):
            loss = confidence_step_loss(self.networks, self.config, part, maps, record)
            take_step(optimiser, loss, "confidence")


def weight_of(method: MethodConfig, plan: LossSchedule) -> float:
    """Of what a teacher or a second network says, this round."""
    return method.lambda_region * plan.region_ramp


def learnt_loss(method: MethodConfig, logits: Tensor, label: Tensor, belief: Tensor) -> Tensor:
    """What labels are learnt by, of voxels (B, 1, X, Y, Z) that are believed so much; scalar."""
    entropy = method.supervised == "dice+ce"
    return believed_loss(logits, label, belief, method.class_weight, entropy=entropy).mean()


@torch.no_grad()
def note_agreement(
    logits: Tensor, label: Tensor, record: StepRecord, where: Tensor | None = None
) -> None:
    """Where S or its teacher sees an organ, the share of voxels that are the same for both.

    Args:
        logits: S's, (B, C, X, Y, Z).
        label: The teacher's classes, (B, 1, X, Y, Z).
        record: Where it is noted.
        where: Voxels that count, alike, boolean; None: all.
    """
    own = argmax_channels(logits)
    organ = (own > 0) | (label > 0)
    if where is not None:
        organ &= where
    voxels = organ.sum()
    record.note("agreement", ((own == label) & organ).sum() / voxels.clamp_min(1), voxels)


def weak_view(unlabelled: UnlabelledBatch) -> Tensor:
    """What the teacher sees of these patches.

    Raises:
        ValueError: They came without it.
    """
    if unlabelled.plain is None:
        raise ValueError("unlabelled patches came without the views that a teacher labels")
    return unlabelled.plain
