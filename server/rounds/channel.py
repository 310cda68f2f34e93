"""Sends instructions and receives replies within a deadline; all are in the audit log."""

import logging
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from flower_compat.error_codes import INSTRUCTION_DROPPED, REPLY_LOST
from flower_compat.grid import UnreadableReplyError, ready, rest
from flower_compat.polling import pause_s
from protocol.audit.log import AuditLog, Direction
from protocol.escaping import printable, printable_lines
from protocol.wire.description import Description, describe
from protocol.wire.error_words import CRASHED, OTHER, error_word
from protocol.wire.weights import MessageError
from server.rounds.pace import Pace
from server.rounds.pending import PendingRequest
from server.rounds.roster import Roster
from server.rounds.watchers import Watcher

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 1.0
# Asking who is online costs a request.
_CHECK_NODES_S = 2.0
# Instructions in one request; the SuperLink answers it when it has noted all of them.
_BATCH = 32
_ATTEMPTS = 3
_LONGEST_REASON = 500  # characters

Accept = Callable[[Message], None]


@dataclass(frozen=True, kw_only=True)
class Channel:
    """The centre's connection to the sites, and who hears of what goes over it.

    Attributes:
        grid: Flower's connection.
        run: The run's name, for the log.
        timeout_s: How long replies are waited for.
        absence_s: How long a node may be offline meanwhile before it is given up.
        audit: Log of what was sent, received and refused; None in a simulation.
        watcher: Notified of the sites that are called, and of each reply.
        only: The sites that may be called; None: all.
        patience: See `Pace.patience_s`; 0: replies are waited for to the deadline.
    """

    grid: Grid
    run: str
    timeout_s: float
    absence_s: float
    audit: AuditLog | None
    watcher: Watcher
    only: Collection[str] | None = None
    patience: float = 0.0

    @cached_property
    def roster(self) -> Roster:
        """Who is who on this connection."""
        return Roster(self.grid, self.only)

    @cached_property
    def pace(self) -> Pace:
        """What the sites have taken so far."""
        return Pace()

    def log(
        self, direction: Direction, what: Description | None, node: int, reason: str = ""
    ) -> None:
        """One entry in the audit log with what `described` returned."""
        if self.audit is not None and what is not None:
            self.audit.append(
                direction, peer=self.roster.name_of(node), run=self.run, reason=reason, **what
            )

    def described(self, message: Message) -> Description | None:
        """The log's description of a message; None where there is no log."""
        return None if self.audit is None else describe(message)


class Exchange:
    """One request to many sites, and their replies.

    Args:
        channel: The connection.
        round_number: 0 before the first.
        kind: Flower's message type.
        accept: Takes one reply, and may use it up; raises MessageError for one that is not as
            agreed.
    """

    def __init__(self, channel: Channel, round_number: int, kind: str, accept: Accept) -> None:
        self._channel = channel
        self._round_number = round_number
        self._kind = kind
        self._accept = accept
        self._waiting: dict[str, PendingRequest] = {}
        self._absent: list[PendingRequest] = []
        self._failures: dict[str, str] = {}
        self._accepted = 0
        # Sites that were there, and had not answered by the deadline.
        self.late: set[str] = set()

    def request(
        self, instructions: Mapping[int, RecordDict], enough: int | None = None
    ) -> dict[str, str]:
        """Send to every node, and wait for the replies within the time.

        Args:
            instructions: Content by node.
            enough: Once so many have answered, the others are waited for by their pace; None: to
                the deadline.

        Returns:
            Why a site's reply is missing, by site.
        """
        channel, total = self._channel, len(instructions)
        sites = sorted(channel.roster.name_of(node) for node in instructions)
        channel.watcher.sites_called(self._round_number, self._kind, sites)
        started = checked = time.monotonic()
        self._send([PendingRequest(node=node, content=c) for node, c in instructions.items()])
        last_reply, waited_s = time.monotonic(), channel.timeout_s
        while self._open() and time.monotonic() < started + (waited_s := self._time_s(enough)):
            before = self._open()
            answered = self._pull()
            for done, site in enumerate(answered, total - before + 1):
                channel.watcher.site_answered(self._round_number, site, done, total)
            if time.monotonic() > checked + _CHECK_NODES_S:
                checked = time.monotonic()
                self._check_nodes()
            last_reply = time.monotonic() if answered else last_reply
            if self._open():
                pause = pause_s(time.monotonic() - last_reply, _LONGEST_PAUSE_S)
                rest(channel.grid, pause, time.sleep)
        self.late = {channel.roster.name_of(request.node) for request in self._waiting.values()}
        for request in [*self._waiting.values(), *self._absent]:
            self._failures[channel.roster.name_of(request.node)] = (
                f"no answer within {waited_s:.6g} s"
            )
        return self._failures

    def request_without_waiting(self, instructions: Mapping[int, RecordDict]) -> dict[str, str]:
        """Send to nodes that are not being asked already; take what is there, wait for nothing."""
        self._absent.clear()  # asked anew once they are there again
        self._check_nodes()
        asked = {request.node for request in self._waiting.values()}
        due = {node: content for node, content in instructions.items() if node not in asked}
        self._send([PendingRequest(node=node, content=content) for node, content in due.items()])
        self._pull()
        failures, self._failures = self._failures, {}
        return failures

    def _time_s(self, enough: int | None) -> float:
        """Since the start of the request, for those that have not answered."""
        channel = self._channel
        if enough is None or self._accepted < enough:
            return channel.timeout_s
        late = [*self._waiting.values(), *self._absent]
        sites = {channel.roster.name_of(request.node) for request in late}
        return channel.pace.patience_s(sites, self._kind, channel.patience, channel.timeout_s)

    def _open(self) -> int:
        return len(self._waiting) + len(self._absent)

    def _send(self, requests: Sequence[PendingRequest]) -> None:
        """Push the instructions; what several nodes are sent is hashed and travels once."""
        for start in range(0, len(requests), _BATCH):
            self._send_together(requests[start : start + _BATCH])

    def _send_together(self, requests: Sequence[PendingRequest]) -> None:
        channel = self._channel
        kind, number = self._kind, self._round_number
        messages = [request.message(kind, number, channel.timeout_s) for request in requests]
        # Of one kind and round, the same content has the same description.
        described: dict[int, Description | None] = {}
        for message, request in zip(messages, requests, strict=True):
            key = id(request.content)
            if key not in described:
                described[key] = channel.described(message)
            # What cannot be logged is not sent.
            channel.log("sent", described[key], request.node)
        online = channel.roster.online()
        names = channel.grid.push_messages(messages)
        for name, request in zip(names, requests, strict=True):
            known = online.get(request.node)
            request.sent_to = known.since if known else ""
            request.attempts, request.sent_at = request.attempts + 1, time.monotonic()
            if name:
                self._waiting[name] = request
            else:  # the SuperLink takes no message for a node that it has put out
                request.absent_since = request.sent_at
                self._absent.append(request)

    def _pull(self) -> list[str]:
        """Take the replies that are there; the sites that have answered.

        One at a time: no two updates are in memory at once.
        """
        names = ready(self._channel.grid, self._waiting)
        taken = (self._pull_one(name) for name in names)
        return [site for site in taken if site is not None]

    def _pull_one(self, name: str) -> str | None:
        """The site whose reply to this message is here, and taken."""
        try:
            replies = list(self._channel.grid.pull_messages([name]))
        except UnreadableReplyError:
            return self._refuse(self._waiting.pop(name), None, "sent what cannot be read")
        for reply in replies:
            request = self._waiting.pop(name)
            if not (reply.has_error() and reply.error.code in INSTRUCTION_DROPPED):
                return self._take(reply, request)
            request.absent_since = time.monotonic()
            self._absent.append(request)
        return None

    def _take(self, reply: Message, request: PendingRequest) -> str:
        """Accept or refuse one reply; the site's name."""
        channel = self._channel
        site = channel.roster.name_of(request.node)
        # Before it is read: reading may use it up.
        what = channel.described(reply)
        if reply.has_error():
            reason = _word(reply.error)
            channel.log("received", what, request.node, reason)
            lost = reply.error.code in REPLY_LOST or reason == CRASHED
            if not (lost and self._send_again(request, reason)):
                self._failures[site] = reason
            return site
        try:
            self._accept(reply)
        except MessageError as error:
            return self._refuse(request, what, str(error))
        except (OSError, MemoryError):  # this machine's
            raise
        except Exception as error:
            # What a reply does to its reader ends that reply, and not the study.
            trace = printable_lines(traceback.format_exc())
            log.error("round %d: %s: a reply was not read: %s", self._round_number, site, trace)
            return self._refuse(request, what, f"could not be read ({type(error).__name__})")
        channel.log("received", what, request.node)
        self._accepted += 1
        # Before its first declaration it was named by its key.
        site = channel.roster.name_of(request.node)
        channel.pace.note(site, self._kind, time.monotonic() - request.sent_at)
        return site

    def _refuse(self, request: PendingRequest, what: Description | None, reason: str) -> str:
        """Note why a reply does not count; the site's name."""
        channel = self._channel
        site = channel.roster.name_of(request.node)
        # It may quote what the site sent.
        self._failures[site] = shown = printable(reason, most=_LONGEST_REASON)
        unreadable = Description(
            what=f"{self._kind} reply", round=self._round_number, sha256="", bytes=0, items={}
        )
        channel.log("refused", what or unreadable, request.node, shown)
        return site

    def _send_again(self, request: PendingRequest, why: str) -> bool:
        """False once it has been asked often enough."""
        if request.attempts >= _ATTEMPTS:
            return False
        site = self._channel.roster.name_of(request.node)
        log.warning("round %d: %s: %s; asked again", self._round_number, site, why)
        self._send([request])
        return True

    def _check_nodes(self) -> None:
        """Ask those again that are back or were started anew; give up those that stay away."""
        online = self._channel.roster.online()
        for request in list(self._absent):
            if request.node in online and self._send_again(request, "is back"):
                self._absent.remove(request)
            elif time.monotonic() > request.absent_since + self._channel.absence_s:
                self._absent.remove(request)
                site = self._channel.roster.name_of(request.node)
                self._failures[site] = f"offline for over {self._channel.absence_s:g} s"
        for name, request in list(self._waiting.items()):
            known = online.get(request.node)
            # A node that was started anew has forgotten what it was doing.
            restarted = known is not None and known.since != request.sent_to
            if restarted and self._send_again(request, "was started anew"):
                del self._waiting[name]


def _word(error: Error) -> str:
    """Why a site did not answer, in a word of the list: a text of its own is repeated nowhere."""
    word = error_word(error.reason)
    return "ReplyLost" if word == OTHER and error.code in REPLY_LOST else word
