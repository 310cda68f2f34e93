"""Asks sites for the fingerprints that a study is planned from."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, MessageType

from protocol.agreement.manifest import SignedManifest
from protocol.config.study import StudyProtocol
from protocol.planning.fingerprint import Fingerprint
from protocol.wire.fingerprint import read_fingerprint
from protocol.wire.messages import pack_instruction, read_site_name
from protocol.wire.reports import SiteFacts
from protocol.wire.weights import MessageError
from server.rounds.channel import Channel, Exchange
from server.rounds.errors import QuorumError
from server.rounds.requirements import refuse_unapproved
from server.rounds.waiting import ASK_AGAIN_AT_MOST_S, ASK_AGAIN_S, WaitingSites

_POLL_S = 0.5


@dataclass(kw_only=True)
class Survey:
    """The sites that are asked, and what they have said so far.

    Attributes:
        channel: The connection; its time for replies is the time for all of it.
        protocol: Whose organs are asked for.
        sites: By name.
        agreement: What the centre has signed, for this alone.
        approved: By site, how many training cases it may say to have; None: any number.
    """

    channel: Channel
    protocol: StudyProtocol
    sites: Collection[str]
    agreement: SignedManifest | None
    approved: Mapping[str, int] | None
    found: dict[str, Fingerprint] = field(default_factory=dict)

    def ask(self) -> dict[str, Fingerprint]:
        """Ask all sites, and those again at which a person is waited for, within the time.

        Raises:
            QuorumError: A site is not there, refuses, or says what it cannot mean; with every
                site and its reason.
        """
        channel = self.channel
        deadline, pause = time.monotonic() + channel.timeout_s, ASK_AGAIN_S
        waiting = WaitingSites(channel.roster, channel.watcher)
        final: dict[str, str] = {}
        held: dict[str, str] = {}
        channel.watcher.sites_online(sorted(self._online().values()), len(self.sites))
        while time.monotonic() < deadline:
            now = time.monotonic()
            nodes = {
                node: name
                for node, name in self._online().items()
                if name not in self.found and name not in final and waiting.may_be_asked(node, now)
            }
            if nodes:
                failures = self._exchange(nodes)
                at_a_person = waiting.note(failures, nodes, time.monotonic() + pause)
                pause = min(2 * pause, ASK_AGAIN_AT_MOST_S)
                held |= {site: failures[site] for site in at_a_person}
                final |= {s: why for s, why in failures.items() if s not in at_a_person}
            if set(self.sites) <= self.found.keys() | final.keys():
                break
            time.sleep(_POLL_S)
        self._require_all(held | final)
        return dict(sorted(self.found.items()))

    def _require_all(self, failures: Mapping[str, str]) -> None:
        missing = {
            site: failures.get(site, "is not online")
            for site in sorted(self.sites)
            if site not in self.found
        }
        if missing:
            lines = "; ".join(f"{site}: {why}" for site, why in missing.items())
            raise QuorumError(
                f"no fingerprint of {lines}. Each site's own log says more; have it start, or"
                " approve (asdnet-site approve), or plan without it"
            )

    def _exchange(self, nodes: Mapping[int, str]) -> dict[str, str]:
        content = pack_instruction(
            self.protocol, run=self.channel.run, agreement=self.agreement, ask="fingerprint"
        )
        exchange = Exchange(self.channel, 0, MessageType.QUERY, self._accept)
        return exchange.request(dict.fromkeys(nodes, content))

    def _accept(self, reply: Message) -> None:
        site = read_site_name(reply.content)
        if site not in self.sites:
            raise MessageError(f"site {site} was not asked")
        found = read_fingerprint(reply.content, self.protocol)
        said = SiteFacts(labelled=found.labelled, unlabelled=found.unlabelled, validation=0, test=0)
        refuse_unapproved(site, said, self.approved)
        self.channel.roster.register(reply.metadata.src_node_id, site)
        self.found[site] = found

    def _online(self) -> dict[int, str]:
        """Nodes of the sites that are asked, by the name that their key is registered under."""
        names = {node: self.channel.roster.name_of(node) for node in self.channel.roster.online()}
        return {node: name for node, name in names.items() if name in self.sites}
