"""The DSC that a confidence map expects, by hand."""

import pytest
import torch

from asdnet_models.expected_dice import expected_dsc


def volume(*voxels: tuple[float, ...]) -> torch.Tensor:
    """(1, C, n, 1, 1) of voxels along x, each with its channels."""
    return torch.tensor(voxels).T[None, :, :, None, None]


def test_by_hand_with_a_map_of_its_own() -> None:
    p = volume((0.2, 0.8, 0.0), (0.4, 0.6, 0.0), (0.7, 0.2, 0.1))
    trust = volume((0.9,), (0.5,), (0.4,))
    # Organ 1: two voxels, 1.4 of them right; of the third's doubt of .6 it gets .2 of .3.
    # Organ 2: none, and .1 of .3 of that doubt; a voxel of organ 1 gives it nothing.
    found = expected_dsc(p, trust)
    assert found.tolist() == pytest.approx([2 * 1.4 / (2 + 1.4 + 0.4), 0.0])


def test_with_the_softmax_it_is_the_dice_of_prediction_and_probabilities() -> None:
    torch.manual_seed(1)
    p = torch.softmax(4 * torch.randn(1, 3, 5, 6, 7), 1)
    found = expected_dsc(p, p.amax(1, keepdim=True))
    for organ in (1, 2):
        drawn = p.argmax(1) == organ
        soft = p[:, organ].double()
        dice = 2 * soft[drawn].sum() / (drawn.sum() + soft.sum())
        assert float(found[organ - 1]) == pytest.approx(float(dice), rel=1e-5)


def test_it_is_what_is_right_on_average() -> None:
    """Truths drawn as the map says: their mean true positives over mean sizes are what it gives."""
    torch.manual_seed(2)
    p = torch.softmax(2 * torch.randn(1, 3, 6, 6, 6), 1)
    found = expected_dsc(p, p.amax(1, keepdim=True))
    classes = p.flatten(2)[0].T
    predicted = classes.argmax(1)
    drawn = torch.multinomial(classes, 2000, replacement=True)
    for organ in (1, 2):
        hits = ((drawn == organ) & (predicted == organ)[:, None]).sum(0).double()
        sizes = (drawn == organ).sum(0) + (predicted == organ).sum()
        assert float((2 * hits / sizes).mean()) == pytest.approx(float(found[organ - 1]), abs=0.01)


def test_what_is_certain() -> None:
    sure = volume((0.0, 1.0), (1.0, 0.0))
    assert expected_dsc(sure, torch.ones(1, 1, 2, 1, 1)).tolist() == [1.0]
    nowhere = volume((1.0, 0.0), (1.0, 0.0))
    assert expected_dsc(nowhere, torch.ones(1, 1, 2, 1, 1)).tolist() == [1.0]


def test_two_volumes_are_refused() -> None:
    with pytest.raises(ValueError, match="one volume"):
        expected_dsc(torch.zeros(1, 2, 3, 3, 3), torch.zeros(1, 1, 3, 3, 4))


@pytest.mark.parametrize("margin", [10.0, 17.0, 20.0, 40.0])
def test_a_softmax_that_is_full_in_32_bits_changes_nothing(margin: float) -> None:
    """What a voxel's doubt gives to other classes is never more than that doubt."""
    logits = torch.zeros(1, 2, 6, 6, 6)
    logits[:, 0] = margin
    logits[:, 1, :3, :3, :3] = 2 * margin
    trust = torch.full((1, 1, 6, 6, 6), 0.95)
    found = expected_dsc(torch.softmax(logits, 1), trust)
    organ, others = 27, 6**3 - 27
    by_hand = 2 * 0.95 * organ / (organ + 0.95 * organ + 0.05 * others)
    assert float(found[0]) == pytest.approx(by_hand, rel=1e-5)
