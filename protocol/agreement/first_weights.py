"""The weights that a study begins with: whoever has its protocol can make them from the seed."""

from collections.abc import Mapping

from torch import Tensor

from asdnet_models.networks import build_confidence, build_segmenter
from protocol.agreement.digests import digests_of
from protocol.config.study import StudyProtocol
from protocol.wire.compression import as_sent
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.weights import Weights, wire_weights

# Of a tensor's largest magnitude.  The draws are integers and equal on every machine; the
# multiplication that scales them may round otherwise on another CPU, by half of the last of 24
# binary digits (6e-8).  Sixteen times that is allowed.
_OTHER_MACHINE = 2.0**-20
_ROUNDING = {"fp32": 0.0, "bf16": 2.0**-8, "int8": 0.5 / 127}


def first_weights(protocol: StudyProtocol) -> dict[str, Weights]:
    """The seeded networks of a study, by name; the confidence network where it is trained."""
    networks = {SEGMENTER: wire_weights(build_segmenter(protocol).state_dict())}
    if protocol.method.trains_confidence:
        networks[CONFIDENCE] = wire_weights(build_confidence(protocol).state_dict())
    return networks


def digests_sent(protocol: StudyProtocol, networks: Mapping[str, Weights]) -> dict[str, str]:
    """Digests of these networks as a site receives them: `wire` may round."""
    return digests_of({n: as_sent(weights, protocol.wire) for n, weights in networks.items()})


def same_start(
    protocol: StudyProtocol, received: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> bool:
    """Whether received first weights are this machine's own, but for rounding.

    Args:
        protocol: The study; its `wire` may round each weight once.
        received: One network as it came.
        own: The same network of `first_weights`, not rounded.
    """
    if received.keys() != own.keys():
        return False
    share = _OTHER_MACHINE + _ROUNDING[protocol.wire.format]
    return all(
        received[name].shape == own[name].shape and _close(received[name], own[name], share)
        for name in own
    )


def _close(received: Tensor, own: Tensor, share: float) -> bool:
    if not own.numel():
        return True
    return bool((received - own).abs().max() <= share * own.abs().max())
