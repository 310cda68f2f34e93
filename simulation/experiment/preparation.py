"""What comes before training, of one run or of an experiment: the grid, a check of all data."""

import os
from collections.abc import Mapping, Sequence

from rich.console import Console

from client.data.dataset import prepare_site
from client.data.layout import ContractError
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from simulation.experiment.methods import Row
from simulation.experiment.options import CommonOptions
from simulation.experiment.plan import on_shared_grid
from simulation.layouts import StudyCase
from simulation.processes import all_results, spawned_pool


def fitted_protocol(
    options: CommonOptions,
    rows: Mapping[str, Row],
    cases: Sequence[StudyCase],
    left_out: frozenset[str] = frozenset(),
) -> StudyProtocol:
    """The protocol with a quorum that the sites can meet, and with the one grid of all methods.

    Scans of sites that are left out count for the grid: with and without them it is the same.

    Raises:
        ProtocolError: If a method cannot be trained on this grid.
    """
    protocol = options.protocol
    # One site alone is a study too: central training.
    sites = len({case.site for case in cases} - left_out)
    least = min(protocol.aggregation.min_sites, sites)
    aggregation = protocol.aggregation.model_copy(update={"min_sites": least})
    return on_shared_grid(
        protocol.model_copy(update={"aggregation": aggregation}),
        rows,
        [case.image for case in cases],
        None if options.fixed_grid else options.preset,
    )


def threads_of_site(workers: int) -> int:
    """Threads of each site where so many train at the same time."""
    return max(1, (os.cpu_count() or 1) // workers)


def prepare_sites(
    configs: Mapping[str, SiteConfig], protocol: StudyProtocol, workers: int, console: Console
) -> None:
    """Check and cache every site's data before anything is trained.

    Raises:
        ContractError: With the mistakes of all sites.
    """
    with (
        console.status("checking and preprocessing the scans"),
        spawned_pool(workers) as pool,
    ):
        jobs = [pool.submit(_mistakes, config, protocol) for config in configs.values()]
        by_site = zip(configs, all_results(jobs), strict=True)
    mistakes = [f"site {site}: {mistake}" for site, of_site in by_site for mistake in of_site]
    if mistakes:
        raise ContractError(mistakes)


def _mistakes(config: SiteConfig, protocol: StudyProtocol) -> tuple[str, ...]:
    try:
        prepare_site(config, protocol)
    except ContractError as error:
        return error.mistakes
    return ()
