"""Error feedback: the rounding errors of a site's updates are kept for the next one."""

import logging
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save

from asdnet_models.model_files import part, prefixed
from client.training.clipping import clip_update
from client.training.state_folder import RoundFiles
from protocol.config.study import WireConfig
from protocol.wire.compression import Packed, pack_update
from protocol.wire.weights import Weights

log = logging.getLogger(__name__)


def pack_with_feedback(
    state: Path,
    run: str,
    number: int,
    wire: WireConfig,
    trained: Mapping[str, Weights],
    sent: Mapping[str, Weights],
    bounds: Mapping[str, float],
) -> dict[str, Packed]:
    """The networks' updates as they travel, within their bounds.

    What rounding takes off is added to the next round's; what the bound takes off is not.

    Args:
        state: The site's state folder; what is left is kept below it, by run and round.
        run: The run's name.
        number: The round.
        wire: The study's format.
        trained: Weights after the round, by network.
        sent: Weights that the site was sent for the round, by network.
        bounds: L2 norm that the round's update may have, by network (`update_bound`).

    Returns:
        A record for each network of `trained`.
    """
    files = RoundFiles(state / "residuals", run, ".safetensors")
    before = None if wire.format == "fp32" else files.before(number)
    kept = {} if before is None else load_file(before)
    records: dict[str, Packed] = {}
    left: dict[str, Weights | None] = {}
    for network, weights in trained.items():
        residual = part(kept, network)
        clipped, residual = clip_update(weights, sent[network], residual, bounds[network])
        if clipped is not weights:
            log.warning(
                "round %d: %s: the update is over the study's bound, %.3g, and is shortened to it",
                number,
                network,
                bounds[network],
            )
        records[network], left[network] = pack_update(clipped, sent[network], wire, residual)
    if wire.format != "fp32":
        # On the disk before the update can leave: an update without its residual would be lost.
        with files.written(number) as file:
            file.write(save(prefixed(**left)))
    return records
