"""The worker's answer as JSON and bytes: what the executor reads of a process it does not trust.

Nothing is unpickled, and nothing larger than agreed is read.  A message of the worker is not a
message of Flower yet: names, kinds and lengths are checked before one is made.
"""

import json
from typing import Annotated, Literal

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from pydantic import Field, NonNegativeInt, ValidationError

from asdnet_models.config import Frozen
from client.node.frames import Frame

_Text = Annotated[str, Field(max_length=2**16)]
_Value = bool | int | float | _Text | list[bool] | list[int] | list[float] | list[_Text]


class AnswerError(Exception):
    """The worker's answer is none that could be let out."""


class AppError(Exception):
    """The app raised; the message is the exception's class name alone."""


class _Array(Frozen):
    name: _Text
    dtype: Annotated[str, Field(max_length=32)]
    shape: Annotated[tuple[NonNegativeInt, ...], Field(max_length=8)]
    stype: Annotated[str, Field(max_length=64)]
    size: NonNegativeInt


class _Record(Frozen):
    name: _Text
    kind: Literal["arrays", "metrics", "config"]
    arrays: tuple[_Array, ...] = ()
    values: dict[_Text, _Value] = Field({})


class _Answer(Frozen):
    """The header: either records, or why there are none."""

    number: int
    outcome: Literal["answered", "failed", "raised", "unreadable"]
    records: tuple[_Record, ...] = ()
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
            records = tuple(_packed(name, reply.content[name], body) for name in reply.content)
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
        return Message(_unpacked(answer, frame.body), reply_to=instruction)
    except ValidationError as error:
        raise AnswerError(f"is not of the agreed form: {error.error_count()} mistakes") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise AnswerError(str(error)) from None


def _packed(name: str, record: object, body: list[bytes]) -> _Record:
    if not isinstance(record, ArrayRecord):
        kind: Literal["metrics", "config"] = (
            "metrics" if isinstance(record, MetricRecord) else "config"
        )
        assert isinstance(record, MetricRecord | ConfigRecord)
        return _Record(name=name, kind=kind, values=dict(record))
    arrays = []
    for key, array in record.items():
        body.append(array.data)
        arrays.append(
            _Array(
                name=key,
                dtype=array.dtype,
                shape=tuple(array.shape),
                stype=array.stype,
                size=len(array.data),
            )
        )
    return _Record(name=name, kind="arrays", arrays=tuple(arrays))


def _unpacked(answer: _Answer, body: memoryview) -> RecordDict:
    """Arrays take the body from its start to its end, without a gap."""
    content = RecordDict()
    start = 0
    for record in answer.records:
        if record.name in content:
            raise AnswerError(f"has two records {record.name!r}")
        if record.kind == "metrics":
            content[record.name] = MetricRecord(dict(record.values))  # type: ignore[arg-type]
        elif record.kind == "config":
            content[record.name] = ConfigRecord(dict(record.values))
        else:
            arrays = ArrayRecord()
            for array in record.arrays:
                end = start + array.size
                if end > len(body) or array.name in arrays:
                    raise AnswerError(f"its array {array.name!r} is not in its body, or is twice")
                arrays[array.name] = Array(
                    dtype=array.dtype,
                    shape=array.shape,
                    stype=array.stype,
                    data=bytes(body[start:end]),
                )
                start = end
            content[record.name] = arrays
    if start != len(body):
        raise AnswerError(f"has {len(body) - start} bytes that are of no array")
    return content
