"""Registers exactly the sites of sites.json at the SuperLink."""

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from flower_compat.control import Node, SuperLinkRefused, SuperLinkUnreachable, connect
from protocol.keys import parse_openssh_line
from server.admin.centre import Centre, read_sites
from server.admin.owner import owner_file, read_owner_token


def sync_sites(centre: Centre) -> list[str]:
    """Register what is missing, unregister what is not in the list; other nodes are not touched.

    Returns:
        A line for each thing done, or that could not be done.

    Raises:
        CentreError: If the owner's token cannot be read.
        SuperLinkUnreachable: If it is not running.
        SuperLinkRefused: If it does not take a site's key; the other sites are in order then.
    """
    if not owner_file(centre).exists():
        raise SuperLinkUnreachable("the SuperLink was never started: asdnet-centre superlink")
    wanted = {public_key_pem(key.public_key): site for site, key in read_sites(centre).items()}
    done: list[str] = []
    refused: list[str] = []
    with connect(centre.port, centre.ca_file, read_owner_token(centre)) as control:
        present: dict[bytes, Node] = {node.public_key: node for node in control.nodes()}
        for key, node in present.items():
            if wanted.get(key) != node.name:
                try:
                    control.unregister(node.node_id)
                except SuperLinkRefused as error:
                    refused.append(f"site {node.name}: STILL admitted: {error}")
                else:
                    done.append(f"site {node.name}: no longer admitted")
        for key, site in wanted.items():
            if key in present and present[key].name == site:
                continue
            try:
                control.register(site, key)
            except SuperLinkRefused as error:
                refused.append(
                    f"site {site}: NOT admitted: the SuperLink refuses its key ({error}). A key "
                    "that was removed is revoked for good: have the hospital make a new one "
                    f"(asdnet-site enrol --site {site} --replace), take the site out "
                    f"(asdnet-centre remove-site {site}) and add the new key"
                )
            else:
                done.append(f"site {site}: admitted")
    if refused:
        raise SuperLinkRefused("\n".join([*done, *refused]))
    return done


def public_key_pem(openssh_line: str) -> bytes:
    """A site's public key in the form that Flower stores."""
    key = parse_openssh_line(openssh_line)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
