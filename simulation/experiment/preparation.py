"""Checks and prepares every site's data before training."""

import os
from collections.abc import Mapping

from rich.console import Console

from client.data.dataset import prepare_site
from client.data.layout import LayoutError
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from simulation.processes import all_results, spawned_pool


def threads_of_site(workers: int) -> int:
    """Threads of each site where so many train at the same time."""
    return max(1, (os.cpu_count() or 1) // workers)


def prepare_sites(
    configs: Mapping[str, SiteConfig], protocol: StudyProtocol, workers: int, console: Console
) -> None:
    """Check and cache every site's data before anything is trained.

    Raises:
        LayoutError: With the mistakes of all sites.
    """
    with (
        console.status("checking and preprocessing the scans"),
        spawned_pool(workers) as pool,
    ):
        jobs = [pool.submit(_mistakes, config, protocol) for config in configs.values()]
        by_site = zip(configs, all_results(jobs), strict=True)
    mistakes = [f"site {site}: {mistake}" for site, of_site in by_site for mistake in of_site]
    if mistakes:
        raise LayoutError(mistakes)


def _mistakes(config: SiteConfig, protocol: StudyProtocol) -> tuple[str, ...]:
    try:
        prepare_site(config, protocol)
    except LayoutError as error:
        return error.mistakes
    return ()
