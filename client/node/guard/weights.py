"""Whether weights can only have come from averaging, and are those that the other sites have."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from client.node.guard.form import Instruction
from client.node.guard.history import Digests, History, LogEnd, Record
from client.node.guard.refusal import Refusal
from protocol.agreement.bounds import distance, update_bound, within_bound
from protocol.agreement.digests import digests_of
from protocol.agreement.first_weights import first_weights, same_start
from protocol.agreement.manifest import Manifest
from protocol.agreement.statements import Statement, StatementError, read_statements
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol
from protocol.wire.compression import as_sent
from protocol.wire.error_words import (
    NOT_SIGNED,
    WEIGHTS_DIFFER,
    WEIGHTS_JUMPED,
    WRONG_WEIGHTS,
)
from protocol.wire.weights import Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Weights that passed.

    Attributes:
        digests: Of them, by network.
        before: Of those of the round before; {} for the first.
        said: The statements of the round before, by site.
    """

    digests: Digests
    before: Digests
    said: Mapping[str, Statement]


@dataclass(frozen=True, kw_only=True)
class Checker:
    """The checks of one run at one site.

    Attributes:
        site: Its name.
        manifest: Verified and approved.
        protocol: That of the manifest.
        history: What this site remembers of the run.
    """

    site: str
    manifest: Manifest
    protocol: StudyProtocol
    history: History

    def check(self, asked: Instruction, past: Record) -> Compared:
        """The weights of an instruction, against those before it and what other sites signed.

        Raises:
            Refusal: WRONG_WEIGHTS, WEIGHTS_JUMPED, WEIGHTS_DIFFER, or NOT_SIGNED for a statement.
        """
        digests = digests_of(asked.weights)
        if asked.number == 1:
            self._require_first(asked.weights, digests)
            return Compared(digests=digests, before={}, said={})
        number, said = asked.number - 1, self._statements(asked)
        known = self._known(number, past)
        before = known or digests_of(asked.before)
        self._require_agreement(number, said, before)
        self._require_enough(number, said, known is not None)
        if past.digests.get(asked.number) != digests:
            weights = self._before(number, known, asked.before)
            for network, after in asked.weights.items():
                self._require_near(asked.number, network, weights[network], after)
        return Compared(digests=digests, before=before, said=said)

    def _known(self, number: int, past: Record) -> Digests | None:
        """Of a round's weights, where this site knows by itself which they were.

        What it only scored after the round before is not that: a centre that was killed then may
        have trained that round again.
        """
        if number in (past.round, past.evaluation_round) and number in past.digests:
            return past.digests[number]
        return self.manifest.weights.digests if number == 1 else None

    # ---- the first weights ----------------------------------------------------------------------

    def _require_first(self, weights: Mapping[str, Weights], digests: Digests) -> None:
        if digests != self.manifest.weights.digests:
            raise Refusal(
                WRONG_WEIGHTS,
                "round 1: the weights are not those whose digests the centre has signed; ask the"
                " centre who has changed them",
            )
        own = first_weights(self.protocol)
        for network, received in weights.items():
            if not same_start(self.protocol, received, own[network]):
                raise Refusal(
                    WRONG_WEIGHTS,
                    f"round 1: the {network} does not begin with the weights that the study's seed"
                    " gives here; the centre has signed weights of another making, or runs another"
                    " version of the networks: ask it which",
                )

    # ---- what other sites signed -----------------------------------------------------------------

    def _statements(self, asked: Instruction) -> dict[str, Statement]:
        """Of the round before, by site; each is signed by its site."""
        try:
            said = read_statements(asked.statements or "[]", self.manifest.sites)
        except StatementError as error:
            raise Refusal(
                NOT_SIGNED, f"round {asked.number}: {error}; ask the centre and the site named"
            ) from None
        for site, statement in said.items():
            if (statement.run, statement.round) != (self.manifest.run, asked.number - 1):
                raise Refusal(
                    WRONG_WEIGHTS,
                    f"round {asked.number}: the statement of site {site} is of round"
                    f" {statement.round} of run {statement.run}, must be of round"
                    f" {asked.number - 1} of this run",
                )
        return said

    def _require_agreement(
        self, number: int, said: Mapping[str, Statement], received: Digests
    ) -> None:
        """All sites that signed had the weights that this site had, or is now given as those."""
        others = [site for site, word in said.items() if word.digests != received]
        if others and received:
            raise Refusal(
                WEIGHTS_DIFFER,
                f"round {number}: the centre sent other sites other weights: {', '.join(others)}"
                " signed digests that are not those of the weights that came here; nothing of this"
                " run is answered any more: telephone those sites, compare with asdnet-site audit"
                " --statements, and only then go on with asdnet-site audit --resume",
            )

    def _require_enough(self, number: int, said: Mapping[str, Statement], known: bool) -> None:
        """So many other sites as a round needs have signed these weights.

        While sites without labels still rest, a round may have one site alone; once they do not,
        a centre that has kept a site by itself until then has no statements that fit.
        """
        least = self.protocol.aggregation.min_sites - 1
        last = plan_round(self.protocol, self.protocol.training.rounds)
        now = plan_round(self.protocol, number)
        if last.learns_from_unlabelled and not now.learns_from_unlabelled:
            least = 0 if known else min(1, least)
        others = len(said.keys() - {self.site})
        if others < least:
            raise Refusal(
                WRONG_WEIGHTS,
                f"round {number + 1}: {others} other sites have signed the weights of round"
                f" {number}, at least {least} must (min_sites - 1); ask the centre for their"
                " statements; min_sites must not be more than the sites that train",
            )

    # ---- the round before ------------------------------------------------------------------------

    def _before(
        self, number: int, known: Digests | None, given: Mapping[str, Weights]
    ) -> Mapping[str, Weights]:
        """The weights of the round before, from this site's disk, the seed, or those sent along."""
        if known is not None:
            kept = self.history.weights(number, known)
            if kept is None and number == 1:
                kept = self._first()
            if kept is not None:
                return kept
        if not given or (known is not None and digests_of(given) != known):
            raise Refusal(
                WRONG_WEIGHTS,
                f"round {number + 1}: this site does not have the weights of round {number}, and"
                " they did not come with the statements of the sites that have them; the centre"
                " sends them with the next round",
            )
        return given

    def _first(self) -> dict[str, Weights] | None:
        sent = {n: as_sent(w, self.protocol.wire) for n, w in first_weights(self.protocol).items()}
        return sent if digests_of(sent) == self.manifest.weights.digests else None

    def _require_near(self, number: int, network: str, before: Weights, after: Weights) -> None:
        plan = plan_round(self.protocol, number - 1)
        if not within_bound(self.protocol, plan, network, before, after):
            moved, bound = (
                distance(after, before),
                update_bound(self.protocol, plan, network, after),
            )
            raise Refusal(
                WEIGHTS_JUMPED,
                f"round {number}: the {network} moved by {moved:.4g} since round {number - 1}, a"
                f" mean of updates can move it by {bound:.4g} at most (max_update of the protocol);"
                " these weights were not averaged: ask the centre",
            )


def logs_seen(
    site: str, said: Mapping[str, Statement], seen: Mapping[str, LogEnd]
) -> tuple[dict[str, LogEnd], list[str]]:
    """Where the other sites' logs end now, and a sentence for each that has lost its end."""
    logs, cut = dict(seen), []
    for other, statement in said.items():
        now = LogEnd(round=statement.round, seq=statement.audit_seq, head=statement.audit_head)
        last = logs.get(other)
        # A round that is trained again comes with the statements of the round before it again.
        if other == site or (last is not None and now.round < last.round):
            continue
        if (
            last is not None
            and (now.seq, now.head) != (last.seq, last.head)
            and now.seq <= last.seq
        ):
            cut.append(
                f"site {other}'s audit log was cut: it had {last.seq} entries or more, and ends at"
                f" {now.seq} now (hash {now.head[:16]}, before {last.head[:16]})"
            )
        logs[other] = now
    return logs, cut
