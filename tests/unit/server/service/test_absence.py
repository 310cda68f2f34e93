"""Sites that have not been seen for hours."""

from datetime import UTC, datetime, timedelta

from flower_compat.control import Node, NodeStatus
from protocol.keys import make_key, openssh_fingerprint, openssh_line
from server.admin.centre import Centre, write_sites
from server.admin.registry import public_key_pem
from server.admin.site_keys import SiteKey
from server.service.absence import absent_sites

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


def site_key() -> SiteKey:
    public = make_key().public_key()
    return SiteKey(
        public_key=openssh_line(public), fingerprint=openssh_fingerprint(public), added=NOW
    )


def node(key: SiteKey, status: NodeStatus, hours: float | None) -> Node:
    seen = None if hours is None else NOW - timedelta(hours=hours)
    pem = public_key_pem(key.public_key)
    return Node(node_id=1, name="", public_key=pem, status=status, last_seen=seen)


def test_who_is_absent(centre: Centre) -> None:
    keys = {name: site_key() for name in "ABCDE"}
    write_sites(centre, {name: key for name, key in keys.items() if name != "E"})
    nodes = [
        node(keys["A"], "offline", 7.5),
        node(keys["B"], "offline", 5.9),
        node(keys["C"], "online", 9),
        node(keys["D"], "registered", None),
        node(keys["E"], "offline", 100),  # not admitted
    ]
    assert absent_sites(centre, nodes, NOW) == {"A": "for 7 hours"}
    assert absent_sites(centre, None, NOW) is None, "the SuperLink does not answer"
    centre.sites_file.write_text("{", encoding="utf-8")
    assert absent_sites(centre, nodes, NOW) is None
