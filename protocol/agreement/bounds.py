"""How far one round may move a network's weights: the bound that sites and centre both hold to.

A step of Adam moves a weight by about its rate at most, so honest training stays within
`max_update` times rate * steps in each weight, root mean square.  A site clips its update to that,
the centre clips what it receives and what it makes of it, and a site checks what it gets.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol, WireConfig
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.weights import Weights

# Values of a tensor that are in memory as float64 at once: 1 MiB.
_NUMBERS_HELD = 2**17
# Float32 rounds each sum of a weight and its change.
_ROUNDING = 2.0**-20


def update_bound(
    protocol: StudyProtocol, plan: RoundPlan, network: str, weights: Mapping[str, Tensor]
) -> float:
    """The L2 norm that one round's update of a network may have.

    max_update * rate * lr_factor * local_steps * sqrt(number of values).

    Args:
        protocol: The study.
        plan: The round's.
        network: "segmenter" or "confidence".
        weights: As they travel; only their number counts.

    Raises:
        ValueError: For another network.
    """
    training = protocol.training
    rates = {SEGMENTER: training.lr_segmenter, CONFIDENCE: training.lr_confidence}
    if network not in rates:
        raise ValueError(f"network must be {' or '.join(rates)}, not {network!r}")
    values = sum(tensor.numel() for tensor in weights.values())
    a_weight = rates[network] * plan.lr_factor * training.local_steps
    return protocol.aggregation.max_update * a_weight * math.sqrt(values)


def distance(update: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> float:
    """Euclidean norm of what an update changes, in float64."""
    return math.sqrt(
        math.fsum(
            float(((new - old).double() ** 2).sum())
            for name, tensor in current.items()
            for new, old in zip(
                torch.split(update[name].flatten(), _NUMBERS_HELD),
                torch.split(tensor.flatten(), _NUMBERS_HELD),
                strict=True,
            )
        )
    )


def clip(update: Weights, current: Weights, limit: float) -> tuple[Weights, float]:
    """The update, moved towards the current weights until it changes them by no more than a limit.

    Args:
        update: Weights after the change.
        current: Weights before it.
        limit: L2 norm that the change may have.

    Returns:
        The weights, the very same where they are within the limit; and by what their change was
        multiplied, 1 where it was left alone.
    """
    norm = distance(update, current)
    if norm <= limit:
        return update, 1.0
    factor = limit / norm
    return {name: scaled_change(w, current[name], factor) for name, w in update.items()}, factor


def scaled_change(update: Tensor, current: Tensor, factor: float) -> Tensor:
    """current + factor * (update - current), worked out in float64."""
    old = current.double()
    return (old + factor * (update.double() - old)).to(current.dtype)


def within_bound(
    protocol: StudyProtocol,
    plan: RoundPlan,
    network: str,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
) -> bool:
    """Whether two global weights, as a site read them, can be one round apart.

    Args:
        protocol: The study.
        plan: Of the round that led from one to the other.
        network: "segmenter" or "confidence".
        before: Weights that the round began with.
        after: Weights that it ended with.
    """
    wire = protocol.wire
    slack = rounding_norm(before, wire) + rounding_norm(after, wire)
    return distance(after, before) <= update_bound(protocol, plan, network, before) + slack


def rounding_norm(weights: Mapping[str, Tensor], wire: WireConfig) -> float:
    """L2 norm of what sending these weights, or a change of them, can have rounded at most.

    Biases and norms, of one axis, travel as float32 in any format.
    """
    return math.sqrt(math.fsum(_rounding(tensor, wire) for tensor in weights.values()))


def _rounding(tensor: Tensor, wire: WireConfig) -> float:
    """Largest sum of squared errors of one tensor."""
    if not tensor.numel():
        return 0.0
    squares = float((tensor.double() ** 2).sum())
    if wire.format == "fp32" or tensor.dim() < 2:
        return _ROUNDING**2 * squares
    if wire.format == "bf16":
        # Half of the last of eight digits.
        return 2.0**-16 * squares
    # Half a step, of 127 to the largest of each output channel.
    steps = tensor.detach().flatten(1).abs().amax(1).double() / 127
    return float((steps**2).sum()) / 4 * (tensor.numel() // tensor.shape[0])
