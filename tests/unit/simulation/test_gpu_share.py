"""Ray's share of a GPU for a site."""

import pytest

from simulation.engine import gpu_share


@pytest.mark.parametrize("sites", [1, 2, 3, 6, 7])
def test_so_many_sites_fit_and_no_more(sites: int) -> None:
    share = gpu_share("cuda", sites)
    assert sites * share <= 1 < (sites + 1) * share


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_without_a_named_gpu_none_is_set_aside(device: str) -> None:
    assert gpu_share(device, 2) == 0
