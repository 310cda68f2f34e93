"""Which sites take part in a study: joined nodes, their declarations, the quorum."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message, MessageType, RecordDict

from protocol.agreement.manifest import SignedManifest
from protocol.config.schedule import RoundPlan
from protocol.wire.messages import pack_instruction, read_facts, read_site_name
from protocol.wire.weights import MessageError
from server.rounds.channel import Channel, Exchange
from server.rounds.errors import QuorumError, RequirementsNotMetError
from server.rounds.record import StudyRecord
from server.rounds.requirements import broken_requirements

log = logging.getLogger(__name__)

_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Attendance:
    """Who is there for one round.

    Attributes:
        members: Sites that have work in it.
        online: Those of them that are there.
        needed: How many updates the round needs.
    """

    members: list[str]
    online: list[str]
    needed: int


class Membership:
    """The sites of one study; what they declare is kept in the record."""

    def __init__(
        self, channel: Channel, record: StudyRecord, agreement: SignedManifest | None = None
    ) -> None:
        self.channel = channel
        self.record = record
        self.agreement = agreement
        self._rules = record.protocol.aggregation
        self._broken: list[str] = []
        # Newcomers are asked in passing, over many rounds.
        self._newcomers = Exchange(channel, 0, MessageType.QUERY, self._admit)

    def await_nodes(self, expected: int | None) -> None:
        """Wait for nodes, never longer than the joining time.

        Raises:
            QuorumError: If there are too few by then.
        """
        rules = self._rules
        deadline = time.monotonic() + rules.join_timeout_s
        reported: list[str] | None = None
        while True:
            online = self.channel.roster.online()
            names = sorted(there.registered_as or str(node) for node, there in online.items())
            if names != reported:
                reported = names
                self.channel.watcher.sites_online(names, expected or rules.min_sites)
            if expected is not None and len(online) >= expected:
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL_S)
        if len(online) < rules.min_sites:
            raise QuorumError(
                f"joining: {len(online)} sites are online, at least {rules.min_sites} must be, "
                f"after {rules.join_timeout_s:g} s; start the missing sites or lower min_sites"
            )

    def collect_facts(self, *, wait: bool = True) -> None:
        """Every site that has not done so checks and caches its data and declares its counts.

        Args:
            wait: For all of them; else a declaration, which may take the time of preparing the
                site's cache, is taken when it has come, and holds no round up.
        """
        channel, record = self.channel, self.record
        content = pack_instruction(record.protocol, run=record.run, agreement=self.agreement)
        instructions = dict.fromkeys(channel.roster.unregistered(), content)
        if wait:
            failures = Exchange(channel, 0, MessageType.QUERY, self._admit).request(instructions)
            self._require_met()
            self.require_quorum("declaring the data", len(record.facts), failures)
        else:
            failures = self._newcomers.request_without_waiting(instructions)
        if failures:
            log.warning("not part of the study: %s", listed(failures))
        record.facts = dict(sorted(record.facts.items()))

    def _admit(self, reply: Message) -> None:
        site = read_site_name(reply.content)
        facts = read_facts(reply.content, self.record.protocol)
        broken = broken_requirements(site, facts, self.record.protocol)
        if broken:
            self._broken += broken
            raise MessageError("; ".join(broken))
        self.channel.roster.register(reply.metadata.src_node_id, site)
        self.record.facts[site] = facts

    def _require_met(self) -> None:
        """A study is not begun on data that are not what was agreed; one under way goes on."""
        record = self.record
        if self._broken and record.protocol.contract.unmet == "stop" and not record.rounds:
            raise RequirementsNotMetError(
                "the study's requirements are not met:\n"
                + "\n".join(self._broken)
                + "\nasdnet-site check at the site shows which cases, and what to do; or set "
                "contract.unmet to leave-out"
            )

    def await_quorum(self, plan: RoundPlan) -> Attendance:
        """Wait for enough of the sites that have work, within the joining time.

        Newcomers are welcome meanwhile.

        Raises:
            QuorumError: If there are too few by then.
        """
        rules = self._rules
        deadline = time.monotonic() + rules.join_timeout_s
        warned = False
        while True:
            members = [site for site in self.record.facts if self._has_work(site, plan)]
            # Where the plan has work for a few sites only, the quorum is those.
            needed = max(1, min(rules.min_sites, len(members)))
            present = set(self.channel.roster.sites_online())
            online = [site for site in members if site in present]
            if len(online) >= needed:
                return Attendance(members=members, online=online, needed=needed)
            if time.monotonic() >= deadline:
                raise QuorumError(
                    f"round {plan.round}: {len(online)} sites are online, at least {needed} must "
                    f"be, after waiting {rules.join_timeout_s:g} s; offline: "
                    f"{', '.join(sorted(set(members) - present))}"
                )
            if not warned:
                warned = True
                log.warning(
                    "round %d: %d of at least %d sites are online; waiting for at most %.0f s",
                    *(plan.round, len(online), needed, rules.join_timeout_s),
                )
            time.sleep(_POLL_S)
            self.collect_facts(wait=False)

    def _has_work(self, site: str, plan: RoundPlan) -> bool:
        """A label-free site rests while its scans have no target: its update weighs nothing."""
        facts = self.record.facts[site]
        return facts.labelled > 0 or (facts.unlabelled > 0 and plan.learns_from_unlabelled)

    def require_quorum(
        self, doing: str, count: int, failures: Mapping[str, str], needed: int | None = None
    ) -> None:
        """So many sites have answered.

        Raises:
            QuorumError: If that is too few.
        """
        needed = self._rules.min_sites if needed is None else needed
        if count < needed or count == 0:
            raise QuorumError(
                f"{doing}: {count} sites answered, at least {max(needed, 1)} must; "
                f"{listed(failures) or 'no site failed'}; each site's own log has more"
            )

    def addressed(self, sites: Iterable[str], content: RecordDict) -> dict[int, RecordDict]:
        """The same instruction for each of these sites, by node."""
        nodes = [self.channel.roster.node_of(site) for site in sites]
        return {node: content for node in nodes if node is not None}

    def site_of(self, reply: Message) -> str:
        """The site by its node; the name in the reply must agree.

        Raises:
            MessageError: If it does not.
        """
        name = read_site_name(reply.content)
        if self.channel.roster.node_of(name) != reply.metadata.src_node_id:
            raise MessageError(f"a node that is not site {name} answered in its name")
        return name


def listed(failures: Mapping[str, str]) -> str:
    """Sites with the reason of each, on one line."""
    return ", ".join(f"{site} ({reason})" for site, reason in sorted(failures.items()))
