"""The folders in which a site's data lie are its user's alone."""

import os
import stat
from pathlib import Path

from protocol.config.site import SiteConfig

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_folders(config: SiteConfig) -> list[Path]:
    """Those of state and cache that somebody besides their user can enter or list."""
    folders = (config.state, config.cache)
    return [path for path in folders if path.is_dir() and path.stat().st_mode & _OTHERS]


def close_folders(config: SiteConfig) -> list[Path]:
    """Close them, and with them all that is in them; those that were open and are this user's.

    Files are made for their user alone from the first byte on (the commands' umask): this is for
    folders of older versions.
    """
    closed = []
    for path in open_folders(config):
        facts = path.stat()
        if facts.st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(facts.st_mode) & ~_OTHERS)
            closed.append(path)
    return closed
