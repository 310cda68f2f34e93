"""Windows over a body: every voxel seen, air left out, all else as MONAI's windows have it."""

from typing import Any

import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from asdnet_models.inference.sliding_window import predict_confidence, predict_probabilities
from asdnet_models.inference.windows import ORGAN_BELOW, body_blocks, slide
from asdnet_models.networks.svnet import SVNet

PATCH = (16, 16, 8)
Shape = tuple[int, int, int]


def volume(*shape: int) -> Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(4)) + 1


def half_air() -> Tensor:
    """Body in the first 16 of 48 voxels along x; air is -2."""
    image = volume(48, 16, 8)
    image[:, :, 16:] = -2
    return image


class Position(nn.Module):
    """Depends on where a voxel lies in its window, so that a window too many or few shows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.seen.append(batch.clone())
        x = torch.arange(batch.shape[2], dtype=torch.float32)[:, None, None] / 8
        return torch.cat((batch * 0, batch + x, batch - x), 1)


def segmenter() -> nn.Module:
    torch.manual_seed(3)
    return SVNet(classes=3, levels=3, width=4, kernel=3)


@pytest.mark.parametrize("shape", [(9, 16, 3), (16, 16, 8), (31, 20, 8), (40, 17, 13), (5, 5, 5)])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
def test_without_air_it_is_monais(shape: Shape, overlap: float) -> None:
    image = volume(*shape)
    expected = predict_probabilities(Position(), image, PATCH, overlap=overlap)
    found = predict_probabilities(Position(), image, PATCH, overlap=overlap, windows="body")
    assert found.shape == (1, 3, *shape)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_real_network_too_and_it_is_not_changed() -> None:
    network, image = segmenter(), volume(30, 20, 12)
    before = {n: (t.clone(), t.stride()) for n, t in network.state_dict().items()}
    expected = predict_probabilities(network, image, PATCH)
    found = predict_probabilities(network, image, PATCH, windows="body")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    again = predict_probabilities(network, image, PATCH, windows="body")
    assert torch.equal(found, again)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.stride() == before[name][1]


def test_all_is_monais_to_the_last_bit() -> None:
    network, image = segmenter().eval(), volume(30, 20, 12)
    with torch.inference_mode():
        expected: Any = sliding_window_inference(
            image, PATCH, 1, lambda x: network(x).softmax(1), overlap=0.5, mode="gaussian"
        )
    assert torch.equal(predict_probabilities(network, image, PATCH), expected)


def test_windows_of_air_are_not_computed_and_are_background() -> None:
    network, image = Position(), half_air()
    # At 0, 8, 16, 24 and 32; those from 16 on hold no body.
    found = predict_probabilities(network, image, PATCH, windows="body")
    assert sum(len(batch) for batch in network.seen) == 2
    assert torch.equal(found[0, 0, 24:], torch.ones(24, 16, 8))
    assert torch.equal(found[0, 1:, 24:], torch.zeros(2, 24, 16, 8))
    torch.testing.assert_close(found.sum(1), torch.ones(1, 48, 16, 8))


def test_the_body_has_the_values_that_it_has_with_all_windows() -> None:
    expected = predict_probabilities(Position(), half_air(), PATCH)
    found = predict_probabilities(Position(), half_air(), PATCH, windows="body")
    torch.testing.assert_close(found[:, :, :16], expected[:, :, :16], atol=1e-6, rtol=1e-6)
    # Of the two windows at x = 20, at 8 and 16, the latter is air and says nothing.
    middle = Position()(half_air()[:, :, 8:24]).softmax(1)[0, :, 12, 8, 4]
    torch.testing.assert_close(found[0, :, 20, 8, 4], middle)


def test_noise_in_air_is_air_and_a_scan_of_air_is_body() -> None:
    image = torch.zeros(1, 1, 40, 40, 16)
    image[:, :, 8:24, 8:24] = 10
    image += 0.5 * torch.rand(image.shape, generator=torch.Generator().manual_seed(1))
    assert body_blocks(image).sum() == 4 * 4 * 4
    image[:] = 0
    image[:, :, :4, :4, :4] = 100.0
    assert body_blocks(image).all()


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_no_pass_is_larger_than_asked_for(at_once: int) -> None:
    network = Position()
    found = slide(network, volume(40, 24, 8), PATCH, overlap=0.5, in_air=0, at_once=at_once)
    sizes = [len(batch) for batch in network.seen]
    assert sum(sizes) == 4 * 2
    assert max(sizes) == min(at_once, 8)
    expected = slide(Position(), volume(40, 24, 8), PATCH, overlap=0.5, in_air=0)
    torch.testing.assert_close(found, expected)


def test_the_confidence_map_takes_the_same_path() -> None:
    class Whole(nn.Module):
        """One logit a window, as a confidence network without a map gives."""

        windows = 0

        def forward(self, maps: Tensor, image: Tensor) -> Tensor:
            self.windows += len(maps)
            return maps[:, :1].mean((2, 3, 4), keepdim=True) + image.mean((2, 3, 4), keepdim=True)

    image, network = half_air(), Whole()
    maps = torch.softmax(torch.cat((image, -image), 1), 1)
    expected = predict_confidence(Whole(), maps, image, PATCH, softmax_prior=True)
    found = predict_confidence(network, maps, image, PATCH, softmax_prior=True, windows="body")
    assert network.windows == 2
    assert found.shape == image.shape
    torch.testing.assert_close(found[:, :, :16], expected[:, :, :16], atol=1e-6, rtol=1e-6)
    assert torch.equal(found[:, :, 24:], torch.ones(1, 1, 24, 16, 8))


class Seen(nn.Module):
    """Organ 1 where the image is over .9, by a network that sees no further than a voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = 0

    def forward(self, batch: Tensor) -> Tensor:
        self.windows += len(batch)
        organ = 20 * (batch - 0.9)
        return torch.cat((-organ, organ), 1)


def organ_in_a_corner() -> Tensor:
    image = torch.full((1, 1, 64, 64, 32), 0.5)
    image[:, :, 20:28, 20:28, 10:14] = 1.0
    image[:, :, :, :, -1] = 0.0  # what is lowest is air
    return image


def test_windows_far_from_organs_are_looked_at_once() -> None:
    every, few = Seen(), Seen()
    expected = predict_probabilities(every, organ_in_a_corner(), PATCH, windows="body")
    found = predict_probabilities(few, organ_in_a_corner(), PATCH, windows="organs")
    assert every.windows == 7 * 7 * 7
    # 4 x 4 x 4 to cover it; 3 x 3 x 3 hold the organ, of which one is of the first.
    assert few.windows == 64 + 27 - 1
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
@pytest.mark.parametrize("shape", [(9, 16, 3), (33, 20, 8), (40, 37, 13)])
def test_what_may_be_an_organ_has_the_value_of_all_windows(shape: Shape, overlap: float) -> None:
    network, image = Position(), volume(*shape) - 1
    body = predict_probabilities(network, image, PATCH, overlap=overlap, windows="body")
    found = predict_probabilities(network, image, PATCH, overlap=overlap, windows="organs")
    organ = found[:, 0] < ORGAN_BELOW
    assert organ.any()
    moved = (found - body).abs().amax(1)
    assert moved[organ].max() < 1e-5
    torch.testing.assert_close(found.sum(1), torch.ones(1, *shape))


def test_an_organ_that_shows_at_the_second_look_is_followed() -> None:
    class Centre(nn.Module):
        """Sees an organ wherever the image is bright, but not near a window's edges along x."""

        def forward(self, batch: Tensor) -> Tensor:
            logit = 20 * (batch - 0.9)
            logit[:, :, :3] = logit[:, :, -3:] = -20
            return torch.cat((-logit, logit), 1)

    image = torch.full((1, 1, 128, 16, 8), 0.5)
    image[:, :, :, :, 0] = 0.0
    image[:, :, 10:14] = 1.0
    image[:, :, 14:100:1] = 1.0
    body = predict_probabilities(Centre(), image, PATCH, windows="body")
    found = predict_probabilities(Centre(), image, PATCH, windows="organs")
    torch.testing.assert_close(found, body, atol=1e-6, rtol=1e-6)


def test_the_confidence_map_looks_closer_where_organs_were_predicted() -> None:
    class Ones(nn.Module):
        windows = 0

        def forward(self, maps: Tensor, image: Tensor) -> Tensor:
            self.windows += len(maps)
            return image * 0 + 1

    image = organ_in_a_corner()
    maps = predict_probabilities(Seen(), image, PATCH, windows="organs")
    network = Ones()
    found = predict_confidence(network, maps, image, PATCH, windows="organs")
    assert network.windows == 64 + 27 - 1
    torch.testing.assert_close(found, torch.full_like(image, 1).sigmoid())


@pytest.mark.parametrize("background", [None, "in_air"])
def test_memory_beside_the_result_is_a_map_of_weights(background: Any) -> None:
    held: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor) and found._base is None:
                held.append(found.untyped_storage().nbytes())
            return found

    image = volume(160, 16, 8)
    one = image.numel() * 4
    with Sizes():
        slide(Position(), image, PATCH, overlap=0.5, in_air=0, background=background)
    # In-place results are seen again, with the same storage; a pass is of two windows.
    a_pass = 3 * 2 * 16 * 16 * 8 * 4
    assert max(held) == 3 * one
    assert {size for size in held if size > a_pass} == {one, 3 * one}
