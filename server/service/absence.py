"""Sites that have not been seen for hours."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from flower_compat.control import Node
from protocol.wording import counted
from server.admin.centre import Centre, CentreError, read_sites
from server.admin.registry import public_key_pem

LONG = timedelta(hours=6)


def absent_sites(
    centre: Centre, nodes: Sequence[Node] | None, now: datetime | None = None
) -> dict[str, str] | None:
    """Since when each admitted site that was here before has not been seen; None: not known.

    Args:
        centre: The centre.
        nodes: What the SuperLink says; None: it does not answer.
        now: The time, with its zone.
    """
    if nodes is None:
        return None
    try:
        admitted = {
            public_key_pem(key.public_key): name for name, key in read_sites(centre).items()
        }
    except CentreError:
        return None
    now = now or datetime.now(UTC)
    gone = {
        admitted[node.public_key]: now - node.last_seen
        for node in nodes
        if node.public_key in admitted and node.status == "offline" and node.last_seen is not None
    }
    return {
        site: f"for {counted(since // timedelta(hours=1), 'hour')}"
        for site, since in sorted(gone.items())
        if since >= LONG
    }
