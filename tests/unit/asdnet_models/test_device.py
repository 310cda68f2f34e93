"""The device by its name, or one clear error."""

import pytest
import torch

from asdnet_models.device import DeviceError, torch_device


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cuda:", "cpu0", ""])
def test_a_device_that_is_not_there_is_reported(name: str) -> None:
    with pytest.raises(DeviceError, match=r"(PyTorch sees \d+ GPUs|is unknown; give auto)"):
        torch_device(name)


def test_auto_is_a_device() -> None:
    assert torch_device("auto").type in ("cpu", "cuda")
    assert torch_device("cpu") == torch.device("cpu")
