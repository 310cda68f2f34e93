"""What sites sign in each round: taken from their replies, handed on with the next instruction."""

from collections.abc import Mapping, Sequence

from flwr.app import Message, RecordDict

from protocol.agreement.first_weights import digests_sent
from protocol.agreement.manifest import Manifest
from protocol.agreement.statement_store import KeptStatement
from protocol.agreement.statements import StatementError
from protocol.wire.proofs import Proofs, add_proofs, take_statement
from protocol.wire.weights import MessageError
from server.rounds.membership import Membership


class RoundStatements:
    """The statements of one round; without a signed study there are none.

    Args:
        members: The sites, the record, and what the centre has signed.
        number: The round.
    """

    def __init__(self, members: Membership, number: int) -> None:
        self._members = members
        self._number = number
        self._keys = roster(members)
        record = members.record
        self._sent = digests_sent(record.protocol, record.networks) if self._keys else {}
        self._by_site: dict[str, KeptStatement] = {}

    def take(self, reply: Message) -> None:
        """Take the statement out of a reply to training, and keep it.

        Raises:
            MessageError: If the site has not signed it, or it is not about what it was sent.
        """
        site, signed = self._members.site_of(reply), take_statement(reply.content)
        if not self._keys:
            return
        if signed is None:
            raise MessageError(f"{site}: has signed no statement")
        try:
            said = signed.verified(self._keys)
        except StatementError as error:
            raise MessageError(f"{site}: {error}") from None
        due = (self._members.record.run, self._number, site)
        if (said.run, said.round, said.site) != due:
            raise MessageError(f"{site}: signed a statement of another run, round or site")
        if said.digests != self._sent:
            raise MessageError(f"{site}: signed other weights than it was sent")
        self._by_site[site] = KeptStatement(**signed.model_dump(), key=self._keys[site])

    def all(self) -> list[KeptStatement]:
        """By site."""
        return [signed for _, signed in sorted(self._by_site.items())]


def roster(members: Membership) -> Mapping[str, str]:
    """Public key lines by site; {}: nothing was signed."""
    if members.agreement is None:
        return {}
    return Manifest.model_validate_json(members.agreement.text).sites


def proven(members: Membership, sites: Sequence[str], content: RecordDict) -> dict[str, RecordDict]:
    """An instruction with the last statements; a site that made none also gets what they are about.

    Args:
        members: The sites, and the record with the statements of the last round.
        sites: Who is asked.
        content: The same for all; the statements are added to it.

    Returns:
        The instruction by site.
    """
    record, keys = members.record, roster(members)
    if not keys:
        return dict.fromkeys(sites, content)
    # A key that was replaced since has signed nothing that a site could check.
    signed = [kept for kept in record.statements if keys.get(kept.read().site) == kept.key]
    add_proofs(content, Proofs(statements=signed), record.protocol.wire)
    if not record.before:
        return dict.fromkeys(sites, content)
    made = {kept.read().site for kept in signed}
    late = [site for site in sites if site not in made]
    instructions = dict.fromkeys(sites, content)
    if late:
        longer = RecordDict(dict(content.items()))
        add_proofs(longer, Proofs(statements=signed, before=record.before), record.protocol.wire)
        instructions |= dict.fromkeys(late, longer)
    return instructions
