"""How the audit log describes a message: kind, round, size, parts, digest; equal at both ends."""

import hashlib
import json
import re
from typing import TypedDict

from flwr.app import ArrayRecord, Message, MessageType, RecordDict

from protocol.wire.compression import short_names
from protocol.wire.fingerprint import is_of_fingerprint
from protocol.wire.messages import CONFIDENCE, SEGMENTER, SITE, STUDY
from protocol.wire.metrics import METRICS
from protocol.wire.proofs import BEFORE, SIGNED
from protocol.wire.weights import count_tensors

_SHORT = short_names()
_RECORDS = (SEGMENTER, CONFIDENCE, METRICS, STUDY, SITE, SIGNED, *BEFORE.values())
_KINDS = {
    MessageType.QUERY: "facts",
    MessageType.TRAIN: "train",
    MessageType.EVALUATE: "evaluate",
}
_ROUND = re.compile(r"[0-9]{1,9}")


class Description(TypedDict):
    """A message as the audit log names it."""

    what: str
    round: int
    sha256: str
    bytes: int
    items: dict[str, int]


def describe(message: Message) -> Description:
    """Kind, round, size, parts and SHA-256 of a message's content: equal at both ends.

    The digest is taken over records, names and values in sorted order.
    """
    # Of a reply it is the other side's word.
    kind = _KINDS.get(message.metadata.message_type, "unknown")
    content = message.content if message.has_content() else RecordDict()
    if kind == "facts" and is_of_fingerprint(content):
        kind = "fingerprint"
    is_reply = bool(message.metadata.reply_to_message_id)
    group = message.metadata.group_id
    whole = hashlib.sha256()
    size = 0
    items: dict[str, int] = {}
    for key in sorted(content):
        record = content[key]
        # What is not ours to name could be any text.
        name = key if key in _RECORDS else "unknown"
        if isinstance(record, ArrayRecord):
            lines = [
                f"{item} {array.dtype} {array.shape} {hashlib.sha256(array.data).hexdigest()}"
                for item, array in sorted(record.items())
            ]
            weight = sum(len(array.data) for array in record.values())
            # Only a file of the plain kind has their number.
            if not _SHORT & record.keys():
                items[f"{name} tensors"] = count_tensors(record)
            items[f"{name} bytes"] = weight
        else:
            lines = [json.dumps(dict(record), sort_keys=True, default=repr)]
            weight = len(lines[0])
            items[f"{name} values"] = len(record)
        whole.update("\n".join([key, *lines, ""]).encode())
        size += weight
    return Description(
        what=f"{kind} {'reply' if is_reply else 'instruction'}"
        if message.has_content()
        else f"{kind} error reply",
        round=int(group) if _ROUND.fullmatch(group) else 0,
        sha256=whole.hexdigest() if message.has_content() else "",
        bytes=size,
        items=items,
    )
