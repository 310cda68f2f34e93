"""Weights of the shapes in a JSON file, as a PyTorch module."""

import json
from pathlib import Path

import torch


class Weights(torch.nn.Module):
    """A parameter for each tensor; nothing is ever computed with them."""

    def __init__(self, shapes: str) -> None:
        super().__init__()
        for name, shape in json.loads(Path(shapes).read_text(encoding="utf-8")).items():
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(torch.randn(shape)))
