"""Signed statements on one side's disk: a file a run, appended to and never changed."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from protocol.agreement.statements import SignedStatement, StatementError
from protocol.files import append_line

# Of a run at the centre.
STATEMENTS_FILE = "statements.jsonl"

_PRIVATE_FOLDER = 0o700


class KeptStatement(SignedStatement):
    """A statement with the key that it was verified by when it came."""

    key: str = Field(max_length=1024, description="OpenSSH public key line of its site")


def keep_statements(
    path: Path, statements: Iterable[SignedStatement], keys: Mapping[str, str]
) -> None:
    """Append statements, each of a site of these keys; they are on the disk then.

    Args:
        path: The file.
        statements: Verified.
        keys: OpenSSH public key lines by site.
    """
    append_statements(
        path,
        [
            KeptStatement(
                statement=signed.statement,
                signature=signed.signature,
                key=keys[signed.read().site],
            )
            for signed in statements
        ],
    )


def append_statements(path: Path, statements: Iterable[KeptStatement]) -> None:
    """As they are."""
    path.parent.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    for kept in statements:
        append_line(path, kept.model_dump_json())


def kept_statements(path: Path) -> tuple[list[KeptStatement], int]:
    """What a file holds, and how many of its lines are none; a crash can tear one.

    Raises:
        StatementError: If it cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise StatementError(f"{path}: cannot be read ({error.strerror})") from None
    kept, torn = [], 0
    for line in filter(None, lines):
        try:
            kept.append(KeptStatement.model_validate_json(line))
        except ValidationError:
            torn += 1
    return kept, torn
