"""One study on the real engine and in simulation: the same weights, to the last bit."""

from pathlib import Path

import harness
import pytest
import torch

from protocol.config.study import merged
from protocol.model_io import load_model
from server.rounds.watchers import Watcher
from simulation.engine import simulate


@pytest.mark.parametrize(
    ("rounds", "method"),
    [
        pytest.param(10, {}, marks=pytest.mark.long),
        # What a site keeps for its teacher lies within the worker's walls, too.
        (3, {"name": "copy-paste", "gate": "mask"}),
    ],
    ids=["asdnet", "copy-paste"],
)
def test_deployment_and_simulation_give_equal_weights(
    rounds: int, method: dict[str, str], tmp_path: Path
) -> None:
    study = merged(harness.tiny_study(rounds=rounds), {"method": method})
    with harness.federation(tmp_path, study) as fed:
        fed.start_superlink()
        fed.start_sites()
        fed.start_study("ten")
        assert fed.finish("ten") == 0, fed.tails()
        _, deployed, deployed_confidence = load_model(fed.centre / "runs/ten/model/final")
        for site in fed.sites:
            seen = fed.client("audit", site, "--compare", fed.centre / "audit.jsonl")
            assert "complete and unchanged" in seen and "two sides agree" in seen
            assert fed.end(site) == 0
        sites = {
            site: fed.site_config(site).model_copy(
                update={"state": tmp_path / "simulated" / site, "min_cases_reported": 1}
            )
            for site in fed.sites
        }
    simulated = simulate(study, sites, Watcher(), workers=2)
    assert simulated.confidence is not None and deployed_confidence is not None
    for ours, theirs in (
        (deployed, simulated.segmenter),
        (deployed_confidence, simulated.confidence),
    ):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
