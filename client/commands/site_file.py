"""The site's file, as every command of a site begins with it."""

from pathlib import Path

from protocol.config.site import SiteConfig, read_site
from reporting.unexpected import keep_log_in


def open_site(path: Path) -> SiteConfig:
    """Read it; what this process does not expect is logged in the site's folder from now on.

    Raises:
        ProtocolError: It cannot be read, or says what no site's file may say.
    """
    config = read_site(path)
    keep_log_in(config.state)
    return config
