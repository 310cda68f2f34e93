"""Sliding-window inference on volumes whose answer is known."""

import pytest
import torch
from torch import Tensor, nn

from asdnet_models.inference.sliding_window import predict_probabilities

PATCH = (16, 16, 8)


def one_voxel_network() -> nn.Module:
    network = nn.Conv3d(1, 3, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([1.0, -1.0, 0.5]).reshape(3, 1, 1, 1, 1))
        network.bias.copy_(torch.tensor([0.0, 0.3, -0.2]))
    return network


def volume(*shape: int) -> Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("shape", [(9, 16, 3), (16, 16, 8), (31, 20, 8), (40, 17, 13)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_of_a_voxelwise_network_equal_one_pass(
    shape: tuple[int, int, int], overlap: float
) -> None:
    network, image = one_voxel_network(), volume(*shape)
    found = predict_probabilities(network, image, PATCH, overlap=overlap, windows_at_once=3)
    assert found.shape == (1, 3, *shape)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(1, *shape))
    torch.testing.assert_close(found, torch.softmax(network(image), 1).detach())


def test_a_constant_network_gives_a_constant_map() -> None:
    class Constant(nn.Module):
        def forward(self, patch: Tensor) -> Tensor:
            logits = torch.log(torch.tensor([0.7, 0.1, 0.2])).reshape(1, 3, 1, 1, 1)
            return logits.expand(len(patch), 3, *patch.shape[2:])

    found = predict_probabilities(Constant(), volume(25, 18, 11), PATCH)
    for channel, value in enumerate((0.7, 0.1, 0.2)):
        torch.testing.assert_close(found[0, channel], torch.full((25, 18, 11), value))


def test_the_network_sees_patches_and_padding_of_air() -> None:
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def forward(self, patch: Tensor) -> Tensor:
            seen.append(patch)
            return patch.repeat(1, 2, 1, 1, 1)

    image = volume(8, 16, 8) + 5
    predict_probabilities(Watching(), image, PATCH)
    assert [tuple(patch.shape) for patch in seen] == [(1, 1, *PATCH)]
    assert seen[0].min() == image.min()
    assert (seen[0] == image.min()).sum() == 1 + 8 * 16 * 8


def test_a_voxel_near_a_windows_centre_follows_that_window() -> None:
    class First(nn.Module):
        """Class 1 in the first window, class 0 in the second."""

        calls = 0

        def forward(self, patch: Tensor) -> Tensor:
            self.calls += 1
            sign = 20.0 if self.calls == 1 else -20.0
            return torch.cat((torch.zeros_like(patch), torch.full_like(patch, sign)), 1)

    # Two windows along x, at 0 to 15 and 8 to 23: the weights fall off from 7.5 and 15.5.
    along_x = predict_probabilities(First(), volume(24, 16, 8), PATCH)[0, 1, :, 8, 4]
    torch.testing.assert_close(along_x[:8], torch.ones(8))
    torch.testing.assert_close(along_x[16:], torch.zeros(8))
    shared = along_x[8:16]
    assert (shared[:-1] > shared[1:]).all()
    torch.testing.assert_close(shared + shared.flip(0), torch.ones(8))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_network_is_given_back(training: bool) -> None:
    class Modes(nn.Module):
        seen: bool | None = None

        def forward(self, patch: Tensor) -> Tensor:
            self.seen = self.training
            return patch.repeat(1, 2, 1, 1, 1)

    network = Modes().train(training)
    found = predict_probabilities(network, volume(*PATCH), PATCH)
    assert network.seen is False
    assert network.training is training
    assert not found.requires_grad


def test_the_mode_is_given_back_after_a_failure() -> None:
    class Broken(nn.Module):
        def forward(self, patch: Tensor) -> Tensor:
            raise RuntimeError("broken")

    network = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        predict_probabilities(network, volume(*PATCH), PATCH)
    assert network.training
