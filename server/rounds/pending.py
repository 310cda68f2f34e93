"""A request to one node, from its first instruction until its reply is accepted."""

from dataclasses import dataclass

from flwr.app import Message, RecordDict


@dataclass(kw_only=True)
class PendingRequest:
    """One node's instruction, until its reply is accepted."""

    node: int
    content: RecordDict
    sent_to: str = ""  # the node's start that it was sent to
    attempts: int = 0
    sent_at: float = 0.0
    absent_since: float = 0.0

    def message(self, kind: str, round_number: int, timeout_s: float) -> Message:
        """The instruction as Flower's message, with an id of its own at each call."""
        group = str(round_number)
        return Message(self.content, self.node, kind, ttl=timeout_s, group_id=group)
