"""Which sites take part in a study: joined nodes, their declarations, the quorum."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message, MessageType, RecordDict

from protocol.agreement.manifest import SignedManifest
from protocol.config.schedule import RoundPlan
from protocol.wire.messages import pack_instruction, read_facts, read_site_name
from protocol.wire.weights import MessageError
from server.rounds.channel import Channel, Exchange
from server.rounds.errors import QuorumError, RequirementsNotMetError
from server.rounds.record import StudyRecord
from server.rounds.requirements import (
    broken_requirements,
    refuse_unapproved,
    too_few_for_the_rule,
)
from server.rounds.schedule import has_work
from server.rounds.silence import NOT_CALLED, Silence
from server.rounds.waiting import ASK_AGAIN_AT_MOST_S, ASK_AGAIN_S, WaitingSites

log = logging.getLogger(__name__)

_POLL_S = 0.2

Approved = Callable[[], Mapping[str, int] | None]


@dataclass(frozen=True, kw_only=True)
class Attendance:
    """Who is there for one round.

    Attributes:
        online: Sites that have work in it, and are there.
        absent: Why the others that have work are not called, by site.
        needed: How many updates the round needs.
    """

    online: list[str]
    absent: Mapping[str, str]
    needed: int


class Membership:
    """The sites of one study; what they declare is kept in the record.

    Args:
        channel: The connection.
        record: Of the study.
        agreement: What the centre has signed; None in a simulation.
        approved: By site, how many training cases it may declare, asked at each declaration; None:
            as many as it likes.
    """

    def __init__(
        self,
        channel: Channel,
        record: StudyRecord,
        agreement: SignedManifest | None = None,
        approved: Approved = lambda: None,
    ) -> None:
        self.channel = channel
        self.record = record
        self.agreement = agreement
        self._approved = approved
        self._rules = record.protocol.aggregation
        self._broken: list[str] = []
        self._waiting = WaitingSites(channel.roster, channel.watcher)
        self.silence = Silence(record, channel.roster, channel.watcher)
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

    def collect_facts(self, *, wait: bool = True, expected: int | None = None) -> None:
        """Every site that has not done so checks and caches its data and declares its counts.

        Args:
            wait: For all of them; else a declaration, which may take the time of preparing the
                site's cache, is taken when it has come, and holds no round up.
            expected: Wait no longer for approvals at sites once so many have declared theirs.
        """
        record = self.record
        if wait:
            failures = self._ask_until_approved(expected)
            self.require_quorum("declaring the data", len(record.facts), failures)
        else:
            now = time.monotonic()
            nodes = [n for n in self._unregistered() if self._waiting.may_be_asked(n, now)]
            failures = self._newcomers.request_without_waiting(self._questions(nodes))
            again = time.monotonic() + ASK_AGAIN_S
            self._waiting.note(failures, self._unregistered(), again)
        if failures:
            log.warning("not part of the study: %s", listed(failures))
        record.facts = dict(sorted(record.facts.items()))

    def _ask_until_approved(self, expected: int | None) -> dict[str, str]:
        """Ask all, and within the joining time those again that wait for their own people."""
        deadline = time.monotonic() + self._rules.join_timeout_s
        pause = ASK_AGAIN_S
        failures: dict[str, str] = {}
        nodes, by_name = self._unregistered(), dict[str, int]()
        while True:
            asked_at = time.monotonic()
            by_name |= {self.channel.roster.name_of(node): node for node in nodes}
            query = Exchange(self.channel, 0, MessageType.QUERY, self._admit)
            failures |= query.request(self._questions(nodes))
            self._require_met()
            # A node may have had another name before it declared itself.
            failures = {
                name: why
                for name, why in failures.items()
                if not self._is_here(by_name.get(name, -1))
            }
            again = time.monotonic() + pause
            waiting = self._waiting.note(failures, self._unregistered(), again)
            here = sum(self.channel.roster.node_of(s) is not None for s in self.record.facts)
            enough = expected is not None and here >= expected
            if not waiting or enough or asked_at >= deadline:
                return failures
            time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
            pause = min(2 * pause, ASK_AGAIN_AT_MOST_S)
            # With them those that have come meanwhile.
            final = failures.keys() - waiting
            nodes = [n for n in self._unregistered() if self.channel.roster.name_of(n) not in final]

    def _is_here(self, node: int) -> bool:
        """It has declared itself since this start; a resumed record knows it from before."""
        roster = self.channel.roster
        return roster.node_of(roster.name_of(node)) == node

    def _unregistered(self) -> list[int]:
        """Nodes that have not declared themselves, but for those that are not called."""
        roster, silent = self.channel.roster, self.silence.sites()
        return [node for node in roster.unregistered() if roster.name_of(node) not in silent]

    def sites_to_call(self) -> set[str]:
        """The sites that are there, and answer."""
        return set(self.channel.roster.sites_online()) - self.silence.sites()

    def _questions(self, nodes: Iterable[int]) -> dict[int, RecordDict]:
        record = self.record
        content = pack_instruction(record.protocol, run=record.run, agreement=self.agreement)
        return dict.fromkeys(nodes, content)

    def _admit(self, reply: Message) -> None:
        site = read_site_name(reply.content)
        facts = read_facts(reply.content, self.record.protocol)
        broken = broken_requirements(site, facts, self.record.protocol)
        if broken:
            self._broken += broken
            raise MessageError("; ".join(broken))
        refuse_unapproved(site, facts, self._approved())
        self.channel.roster.register(reply.metadata.src_node_id, site)
        self.record.facts[site] = facts

    def _require_met(self) -> None:
        """A study is not begun on data that are not what was agreed; one under way goes on."""
        record = self.record
        too_few = too_few_for_the_rule(record.facts, record.protocol)
        if too_few and not record.rounds:
            raise RequirementsNotMetError(too_few)
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
        reported: list[str] | None = None
        while True:
            members = [site for site, facts in self.record.facts.items() if has_work(facts, plan)]
            # Where the plan has work for a few sites only, the quorum is those.
            needed = max(1, min(rules.min_sites, len(members)))
            present, silent = self.sites_to_call(), self.silence.sites()
            online = [site for site in members if site in present]
            absent = {
                site: NOT_CALLED if site in silent else "offline"
                for site in sorted(set(members) - present)
            }
            if len(online) >= needed:
                return Attendance(online=online, absent=absent, needed=needed)
            if time.monotonic() >= deadline:
                raise QuorumError(
                    f"round {plan.round}: {len(online)} sites are online, at least {needed} must "
                    f"be, after waiting {rules.join_timeout_s:g} s; {_by_reason(absent)}"
                )
            if reported is None:
                log.warning(
                    "round %d: %d of at least %d sites are online; waiting for at most %.0f s",
                    *(plan.round, len(online), needed, rules.join_timeout_s),
                )
            if online != reported:
                reported = online
                self.channel.watcher.sites_online(online, needed)
            time.sleep(_POLL_S)
            self.collect_facts(wait=False)

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

    def addressed(self, instructions: Mapping[str, RecordDict]) -> dict[int, RecordDict]:
        """Instructions by node, from those by site."""
        nodes = {site: self.channel.roster.node_of(site) for site in instructions}
        return {node: instructions[site] for site, node in nodes.items() if node is not None}

    def site_of(self, reply: Message) -> str:
        """The site by its node; the name in the reply must agree.

        Raises:
            MessageError: If it does not.
        """
        name = read_site_name(reply.content)
        if self.channel.roster.node_of(name) != reply.metadata.src_node_id:
            raise MessageError(f"a node that is not site {name} answered in its name")
        return name


def _by_reason(absent: Mapping[str, str]) -> str:
    """Each reason with its sites."""
    reasons: dict[str, list[str]] = {}
    for site, reason in absent.items():
        reasons.setdefault(reason, []).append(site)
    return "; ".join(f"{reason}: {', '.join(sites)}" for reason, sites in reasons.items())


def listed(failures: Mapping[str, str]) -> str:
    """Sites with the reason of each, on one line."""
    return ", ".join(f"{site} ({reason})" for site, reason in sorted(failures.items()))
