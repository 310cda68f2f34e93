"""The worker's answer as JSON and bytes: what the executor reads of a process it does not trust.

Nothing is unpickled, and nothing larger than agreed is read.  A message of the worker is not a
message of Flower yet: names, kinds and lengths are checked before one is made.
"""

import json
from typing import Annotated, Literal

from flwr.app import Error, Message
from pydantic import Field, ValidationError

from asdnet_models.fields import Frozen
from client.node.frames import Frame
from client.node.records import PackedRecord, RecordsError, pack_records, unpack_records


class AnswerError(Exception):
    """The worker's answer is none that could be let out."""


class AppError(Exception):
    """The app raised; the message is the exception's class name alone."""


class _Answer(Frozen):
    """The header: either records, or why there are none."""

    number: int
    outcome: Literal["answered", "failed", "raised", "unreadable"]
    records: tuple[PackedRecord, ...] = ()
    code: int = 0
    reason: Annotated[str, Field(max_length=2**16)] = ""


def encode_answer(reply: object, number: int) -> tuple[bytes, list[bytes]]:
    """Header and parts of the body of what an app has returned."""
    body: list[bytes] = []
    try:
        if not isinstance(reply, Message):
            raise TypeError(f"the app returned a {type(reply).__name__}")
        if reply.has_error():
            error = reply.error
            answer = _Answer(
                number=number, outcome="failed", code=error.code, reason=error.reason or ""
            )
        else:
            records = pack_records(reply.content, body)
            answer = _Answer(number=number, outcome="answered", records=records)
        # Python's own: it keeps what is no number, and every bit of what is one.
        return json.dumps(answer.model_dump()).encode(), body
    except (TypeError, ValueError, AttributeError) as error:
        return encode_failure(number, "unreadable", str(error)[:1000])


def encode_failure(
    number: int, outcome: Literal["raised", "unreadable"], reason: str
) -> tuple[bytes, list[bytes]]:
    """Header and body where there is no answer."""
    fields = {"number": number, "outcome": outcome, "reason": reason}
    return json.dumps(fields).encode(), []


def decode_answer(frame: Frame, number: int, instruction: Message) -> Message:
    """The answer as a message of Flower's, in reply to the instruction.

    Raises:
        AppError: The app raised.
        AnswerError: It is of another form than agreed, or to another message.
    """
    try:
        answer = _Answer.model_validate_json(frame.header)
        if answer.number != number:
            raise AnswerError(f"answers message {answer.number}, was asked number {number}")
        if answer.outcome == "raised":
            raise AppError(answer.reason)
        if answer.outcome == "unreadable":
            raise AnswerError(answer.reason)
        if answer.outcome == "failed":
            return Message(Error(code=answer.code, reason=answer.reason), reply_to=instruction)
        return Message(unpack_records(answer.records, frame.body), reply_to=instruction)
    except ValidationError as error:
        raise AnswerError(f"is not of the agreed form: {error.error_count()} mistakes") from None
    except (RecordsError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise AnswerError(str(error)) from None
