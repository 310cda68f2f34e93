"""The random field on images of two intensities, where the right answer is plain."""

import pytest
import torch
from torch import Tensor

from asdnet_models.crf import refine

ISOTROPIC = (1.0, 1.0, 1.0)
EDGE = 12


def maps_of(label: Tensor, sure: float) -> Tensor:
    """(2, X, Y, Z): the label's class has the probability `sure`."""
    one = torch.where(label == 1, sure, 1 - sure)
    return torch.stack((1 - one, one))


def halves() -> Tensor:
    label = torch.zeros(EDGE, EDGE, EDGE, dtype=torch.long)
    label[EDGE // 2 :] = 1
    return label


def test_salt_and_pepper_is_cleaned_and_the_edge_stays() -> None:
    truth = halves()
    wrong = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < 0.15
    noisy = maps_of(torch.where(wrong, 1 - truth, truth), 0.8)
    assert (noisy.argmax(0) != truth).sum() == wrong.sum() > 200
    refined = refine(noisy, truth * 3.0, ISOTROPIC)
    assert (refined.argmax(0) != truth).sum() <= 2


def test_an_edge_of_the_image_stops_smoothing() -> None:
    """A doubtful plane joins its neighbours where it looks like them, and where not, does not."""
    label = torch.zeros(EDGE, EDGE, EDGE, dtype=torch.long)
    label[6] = 1
    maps = maps_of(label, 0.7)
    flat, edged = torch.zeros(EDGE, EDGE, EDGE), label * 3.0
    assert refine(maps, flat, ISOTROPIC)[1, 6].max() < 0.5
    assert refine(maps, edged, ISOTROPIC)[1, 6].min() > 0.5


def test_it_measures_in_mm() -> None:
    """Neighbours across the same plane count less where they are farther away."""
    label = torch.zeros(EDGE, EDGE, EDGE, dtype=torch.long)
    label[:, :, 6] = 1
    maps, image = maps_of(label, 0.7), torch.zeros(EDGE, EDGE, EDGE)
    assert refine(maps, image, ISOTROPIC)[1, :, :, 6].max() < 0.5
    assert refine(maps, image, (1.0, 1.0, 6.0))[1, :, :, 6].min() > 0.5


def test_probabilities_stay_normalised() -> None:
    generator = torch.Generator().manual_seed(2)
    maps = torch.softmax(4 * torch.randn(4, 7, 5, 3, generator=generator), 0)
    maps[:, 0] = torch.eye(4)[0][:, None, None]  # sure beyond any doubt
    refined = refine(maps, torch.randn(7, 5, 3, generator=generator), (1.0, 2.0, 3.0))
    assert refined.shape == maps.shape
    assert torch.isfinite(refined).all()
    torch.testing.assert_close(refined.sum(0), torch.ones(7, 5, 3))
    assert not torch.equal(refined, maps)


def test_one_iteration_of_two_voxels_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each hears the other alone, and a mean of one is that one: log P_i + (1 + 2) P_j.
    monkeypatch.setattr("asdnet_models.crf._ITERATIONS", 1)
    maps = torch.tensor([[0.9, 0.4], [0.1, 0.6]]).reshape(2, 2, 1, 1)
    refined = refine(maps, torch.tensor([0.0, 1.0]).reshape(2, 1, 1), ISOTROPIC)
    logits = maps.log() + 3 * maps.flip(1)
    torch.testing.assert_close(refined, torch.softmax(logits, 0))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 2)])
def test_a_scan_smaller_than_the_window(shape: tuple[int, int, int]) -> None:
    maps = torch.full((2, *shape), 0.5)
    maps[0], maps[1] = 0.7, 0.3
    refined = refine(maps, torch.zeros(shape), ISOTROPIC)
    assert (refined.argmax(0) == 0).all()


def test_far_apart_voxels_do_not_hear_each_other() -> None:
    maps = torch.softmax(torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(3)), 0)
    torch.testing.assert_close(refine(maps, torch.zeros(4, 4, 4), (99.0, 99.0, 99.0)), maps)


def test_an_image_on_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image is \(4, 4, 5\), must be \(4, 4, 4\)"):
        refine(torch.ones(2, 4, 4, 4), torch.ones(4, 4, 5), ISOTROPIC)
