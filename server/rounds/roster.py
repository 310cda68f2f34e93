"""Maps nodes to sites, and knows which of them are online."""

from collections.abc import Collection
from dataclasses import dataclass

from flwr.serverapp import Grid

from protocol.wire.weights import MessageError


@dataclass(frozen=True, kw_only=True)
class Presence:
    """A node that is online."""

    registered_as: str  # the name that the centre gave its key; "" in a simulation
    since: str  # changes with each start of the node


class Roster:
    """Nodes and sites of one study; a node is the same site for as long as the study lasts.

    Args:
        grid: Flower's connection.
        only: Nodes that are registered as other sites are not seen; None: all are.
    """

    def __init__(self, grid: Grid, only: Collection[str] | None = None) -> None:
        self._grid = grid
        self._only = only
        self._site_of: dict[int, str] = {}

    def online(self) -> dict[int, Presence]:
        """The nodes that are there now."""
        return {
            node.node_id: Presence(registered_as=node.name, since=node.last_activated_at)
            for node in self._grid.get_nodes()
            if self._only is None or node.name in self._only
        }

    def register(self, node: int, site: str) -> None:
        """This node is this site from now on.

        Raises:
            MessageError: If the centre knows its key by another name, or the site is there already.
        """
        known = self.online().get(node)
        if known and known.registered_as and known.registered_as != site:
            raise MessageError(
                f"the node that is registered as site {known.registered_as} "
                f"answered in the name of site {site}"
            )
        other = self.node_of(site)
        if other is not None and other != node:
            raise MessageError(f"site {site} has joined twice; give each node its own site")
        self._site_of[node] = site

    def node_of(self, site: str) -> int | None:
        """The node of a site that has declared itself."""
        return next((node for node, name in self._site_of.items() if name == site), None)

    def name_of(self, node: int) -> str:
        """The site's name; before it has declared itself, what it is registered as."""
        if node in self._site_of:
            return self._site_of[node]
        known = self.online().get(node)
        return (known.registered_as if known else "") or f"node {node}"

    def sites_online(self) -> list[str]:
        """Declared sites that are there now, sorted."""
        return sorted(self._site_of[node] for node in self.online() if node in self._site_of)

    def unregistered(self) -> list[int]:
        """Nodes that are there and have not declared themselves, sorted."""
        return sorted(set(self.online()) - set(self._site_of))
