"""semiFCN: train, let S label the unlabelled scans, train on both, and so on.

Source: Bai et al., MICCAI 2017.  The labels are made by the site at rounds that the server
announces (client/training/pseudo_labels.py); here S only learns from them.
"""

import torch
from torch import Tensor

from asdnet_models.config import LossSchedule, MethodConfig
from asdnet_models.losses import dice_loss, one_hot_maps
from asdnet_models.methods.common import (
    LabelledBatch,
    Networks,
    Proximal,
    StepRecord,
    UnlabelledBatch,
    predict,
    supervised_loss,
    take_step,
)


class SemiFCN:
    """L = L_AttDice + lambda_region * generalised Dice against pseudo-labels, once they exist."""

    def __init__(
        self,
        networks: Networks,
        config: MethodConfig,
        plan: LossSchedule,
        *,
        proximal: Proximal | None,
        generator: torch.Generator,
    ) -> None:
        self._networks, self._config, self._plan, self._proximal = networks, config, plan, proximal

    def step(
        self, labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None
    ) -> StepRecord:
        """One step of S.

        Raises:
            NonFiniteLossError: Before the optimiser has stepped on a non-finite loss.
            ValueError: If there is nothing to learn from, or a pseudo-label is missing.
        """
        # Before the first labelling unlabelled patches rest, whatever comes with them.
        taught = unlabelled if self._plan.pseudo_labels > 0 else None
        images = [batch.image for batch in (labelled, taught) if batch is not None]
        if not images:
            raise ValueError("a step needs labelled patches, or unlabelled ones once labelled anew")
        record = StepRecord()
        prediction = predict(self._networks.segmenter, torch.cat(images))
        probabilities = prediction.probabilities
        count = len(labelled.image) if labelled else 0
        loss = probabilities.sum() * 0.0
        if labelled is not None:
            loss = loss + supervised_loss(self._config, self._plan, labelled, prediction, record)
        if taught is not None:
            pseudo = self._pseudo_loss(probabilities[count:], taught.pseudo_label)
            record.note("pseudo", pseudo)
            loss = loss + self._config.lambda_region * pseudo
        record.note("total", loss)
        if self._proximal is not None:
            loss = loss + self._proximal(self._networks.segmenter)
        take_step(self._networks.segmenter_optimiser, loss, "segmenter")
        return record

    def _pseudo_loss(self, probabilities: Tensor, label: Tensor | None) -> Tensor:
        """Eq. 1 with the pseudo-labels for reference; mean over samples."""
        if label is None:
            raise ValueError(
                f"labelling {self._plan.pseudo_labels}: unlabelled patches came without "
                "pseudo-labels; cut both from the same place"
            )
        target = one_hot_maps(label, probabilities.shape[1])
        return dice_loss(probabilities, target, self._config.class_weight).mean()
