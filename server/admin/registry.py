"""Makes the SuperLink admit exactly the sites of sites.json."""

from server.admin.centre import Centre, read_sites
from server.admin.control import Node, SuperLinkRefused, SuperLinkUnreachable, connect, key_bytes

__all__ = ["SuperLinkRefused", "SuperLinkUnreachable", "sync_sites"]


def sync_sites(centre: Centre) -> list[str]:
    """Register what is missing, unregister what is not in the list; other nodes are not touched.

    Returns:
        A line for each thing done, or that could not be done.

    Raises:
        SuperLinkUnreachable: If it is not running.
        SuperLinkRefused: If it does not take a site's key; the other sites are in order then.
    """
    wanted = {key_bytes(key.public_key): (site, key) for site, key in read_sites(centre).items()}
    done: list[str] = []
    refused: list[str] = []
    with connect(centre) as control:
        present: dict[bytes, Node] = {node.public_key: node for node in control.nodes()}
        for key, node in present.items():
            if wanted.get(key, ("", None))[0] != node.name:
                try:
                    control.unregister(node.node_id)
                except SuperLinkRefused as error:
                    refused.append(f"site {node.name}: STILL admitted: {error}")
                else:
                    done.append(f"site {node.name}: no longer admitted")
        for key, (site, entry) in wanted.items():
            if key in present and present[key].name == site:
                continue
            try:
                control.register(site, entry.public_key)
            except SuperLinkRefused as error:
                refused.append(
                    f"site {site}: NOT admitted: the SuperLink refuses its key ({error}). A key "
                    "that was removed is revoked for good: have the hospital make a new one "
                    f"(python client/enrol.py --site {site} --replace), take the site out "
                    f"(python server/provision.py remove-site {site}) and add the new key"
                )
            else:
                done.append(f"site {site}: admitted")
    if refused:
        raise SuperLinkRefused("\n".join([*done, *refused]))
    return done
