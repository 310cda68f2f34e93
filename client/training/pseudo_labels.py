"""Pseudo-labels of a site's unlabelled scans, on its own disk; they never leave the site.

Made once for each labelling that the server announces, by the global S of the first round of it
that this site trains, so that a round trained again after a crash learns from the same labels.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from asdnet_models.crf import refine
from asdnet_models.inference.sliding_window import segment_volume
from client.data.cache import CachedCase
from client.data.dataset import PseudoLabels
from client.training.state_folder import remove_old_runs
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol
from protocol.files import atomic_file


def pseudo_labels_of(
    state: Path,
    run: str,
    plan: RoundPlan,
    segmenter: nn.Module,
    protocol: StudyProtocol,
    cases: Sequence[CachedCase],
) -> PseudoLabels | None:
    """The labels of this round's labelling, made now where they are not there yet.

    Args:
        state: The site's state folder; they are kept below it by run, labelling and cache key.
        run: The run's name.
        plan: Has the labelling that is due.
        segmenter: S with the round's global weights, on its device; left as it was.
        protocol: Patch size, overlap and spacing.
        cases: The site's unlabelled cases.

    Returns:
        By cache key, memory-mapped; None before the first labelling.
    """
    everything = state / "pseudo-labels"
    number = plan.pseudo_labels
    # In round 1 whatever is there is an earlier study's, which had the same name.
    _remove_others(everything / run, but=number if plan.round > 1 else None)
    if number == 0:
        return None
    folder = everything / run / str(number)
    labels: dict[str, NDArray[np.uint8]] = {}
    for case in cases:
        path = folder / f"{case.key}.npy"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            label = label_case(segmenter, protocol, case)
            with atomic_file(path) as draft:
                np.save(draft, label)
        labels[case.key] = np.load(path, mmap_mode="r")
    if labels:
        remove_old_runs(everything)
    return labels


def label_case(
    segmenter: nn.Module, protocol: StudyProtocol, case: CachedCase
) -> NDArray[np.uint8]:
    """The whole scan as S sees it, refined by its image; class numbers, (X, Y, Z)."""
    device = next(segmenter.parameters()).device
    image = torch.from_numpy(np.array(case.image)).to(device)
    probabilities = segment_volume(segmenter, image[None, None], protocol)
    refined = refine(probabilities[0], image, protocol.spacing_mm)
    label: NDArray[np.uint8] = refined.argmax(0).to(torch.uint8).cpu().numpy()
    return label


def _remove_others(folder: Path, *, but: int | None) -> None:
    """Clear away the run's other labellings."""
    for labelling in folder.glob("*"):
        if labelling.is_dir() and labelling.name != str(but):
            shutil.rmtree(labelling)
