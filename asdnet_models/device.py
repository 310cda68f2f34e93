"""The device that networks run on, by the name that a person gives it."""

import re

import torch


class DeviceError(ValueError):
    """A device that is not there."""


def torch_device(name: str) -> torch.device:
    """The device of that name; auto is the first GPU where there is one.

    Raises:
        DeviceError: Another name, or a GPU that this machine does not have.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    known = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if known is None:
        raise DeviceError(f"device {name!r}: is unknown; give auto, cpu, cuda or cuda:N")
    if name != "cpu" and int(known[1] or 0) >= count:
        raise DeviceError(
            f"device {name}: PyTorch sees {count} GPUs on this machine; take auto or cpu, or"
            " install its driver and the build of PyTorch for it"
        )
    return torch.device(name)
