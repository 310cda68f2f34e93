"""How a site's launcher stands, for whoever watches it."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class Standing:
    """Written by the launcher's loop, read by others.

    Attributes:
        connected: The centre has taken this site's key, and the SuperNode runs.
        answering: A process is there that answers messages.
        starts: Of the SuperNode since this process began.
    """

    connected: bool = False
    answering: bool = False
    starts: int = 0
