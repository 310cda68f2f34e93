"""Digests of weights: two sites that received the same weights name the same 64 digits."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from torch import Tensor


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's weights as they travel.

    Of each tensor, in the order of the names: one line of JSON with its name and shape, then its
    values as little-endian float32 in row-major order.  The line has no line end inside, and the
    shape gives the number of bytes that follow: different weights are never the same bytes.

    Args:
        weights: float32 tensors by name, of any device; of no tensors, the digest of nothing.

    Raises:
        ValueError: If a tensor is not float32, since its digest would not be that of its copy
            on the wire.
    """
    hashed = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        if str(tensor.dtype) != "torch.float32":
            raise ValueError(f"digest: {name} is {tensor.dtype}, must be torch.float32")
        hashed.update(f"{json.dumps([name, list(tensor.shape)])}\n".encode())
        values = tensor.detach().cpu().contiguous().numpy()
        hashed.update(np.ascontiguousarray(values, dtype="<f4").data)
    return hashed.hexdigest()


def digests_of(networks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """`weights_digest` of each, by network."""
    return {network: weights_digest(weights) for network, weights in networks.items()}
