"""Flower's records as JSON and bytes, for the pipe between the executor and its worker.

Each array is copied once, where Flower's own protobuf copies it for every level of its nesting.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import Field, NonNegativeInt

from asdnet_models.fields import Frozen

Value = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]


class RecordsError(ValueError):
    """Records that are not of the agreed form."""


class _Array(Frozen):
    name: str
    dtype: Annotated[str, Field(max_length=32)]
    shape: Annotated[tuple[NonNegativeInt, ...], Field(max_length=8)]
    stype: Annotated[str, Field(max_length=64)]
    size: NonNegativeInt


class PackedRecord(Frozen):
    """One record: its numbers and texts, and where in the body its arrays are."""

    name: str
    kind: Literal["arrays", "metrics", "config"]
    arrays: tuple[_Array, ...] = ()
    values: dict[str, Value] = Field({})


def pack_records(content: RecordDict, body: list[bytes]) -> tuple[PackedRecord, ...]:
    """The records, whose arrays' bytes are added to `body`.

    Raises:
        ValueError: A value is of a kind that no study has, such as bytes.
    """
    return tuple(_packed(name, content[name], body) for name in content)


def _packed(name: str, record: object, body: list[bytes]) -> PackedRecord:
    if not isinstance(record, ArrayRecord):
        kind: Literal["metrics", "config"] = (
            "metrics" if isinstance(record, MetricRecord) else "config"
        )
        assert isinstance(record, MetricRecord | ConfigRecord)
        if any(bytes in map(type, v if isinstance(v, list) else [v]) for v in record.values()):
            raise RecordsError(f"record {name!r} holds bytes")
        return PackedRecord(name=name, kind=kind, values=dict(record))
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
    return PackedRecord(name=name, kind="arrays", arrays=tuple(arrays))


def unpack_records(records: Sequence[PackedRecord], body: memoryview) -> RecordDict:
    """The records back; their arrays take the body from its start to its end, without a gap.

    Raises:
        RecordsError: They do not, or a name is there twice.
    """
    content = RecordDict()
    start = 0
    for record in records:
        if record.name in content:
            raise RecordsError(f"has two records {record.name!r}")
        if record.kind == "metrics":
            content[record.name] = MetricRecord(dict(record.values))  # type: ignore[arg-type]
        elif record.kind == "config":
            content[record.name] = ConfigRecord(dict(record.values))
        else:
            arrays = ArrayRecord()
            for array in record.arrays:
                end = start + array.size
                if end > len(body) or array.name in arrays:
                    raise RecordsError(f"its array {array.name!r} is not in its body, or is twice")
                arrays[array.name] = Array(
                    dtype=array.dtype,
                    shape=array.shape,
                    stype=array.stype,
                    data=bytes(body[start:end]),
                )
                start = end
            content[record.name] = arrays
    if start != len(body):
        raise RecordsError(f"has {len(body) - start} bytes that are of no array")
    return content
