"""What a site signs in each round: which global weights it received, and how far its log goes.

All statements of a round are handed on with the next one.  A centre that shows two sites different
weights, and a site whose audit log loses its end, are so found by the others.
"""

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from asdnet_models.fields import Frozen
from protocol.config.site import SITE_NAME
from protocol.keys import KeyFileError, parse_openssh_line

# A statement is of about 500 characters, a signature on P-384 of 140.
_MAX_TEXT = 2048
_ALGORITHM = ec.ECDSA(hashes.SHA384())

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StatementError(ValueError):
    """A statement that is not of the agreed form, or that its site has not signed."""


class Statement(Frozen):
    """One site's word about one round."""

    run: str = Field(max_length=96, description="name of the run")
    round: PositiveInt
    site: str = Field(pattern=f"^{SITE_NAME.pattern}$")
    segmenter: Hash = Field(description="digest of the global weights of S that it received")
    confidence: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = Field(
        "", description="the same of D; empty where the method has none"
    )
    audit_seq: PositiveInt = Field(description="number of the last entry of its audit log")
    audit_head: Hash = Field(description="hash of that entry")

    def canonical_json(self) -> str:
        """Sorted and compact: equal statements are equal bytes."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))

    @property
    def digests(self) -> dict[str, str]:
        """Of what it received, by network."""
        both = {"segmenter": self.segmenter, "confidence": self.confidence}
        return {network: digest for network, digest in both.items() if digest}


class SignedStatement(Frozen):
    """A statement as it travels and as it is kept."""

    statement: str = Field(max_length=_MAX_TEXT, description="canonical JSON")
    signature: str = Field(max_length=_MAX_TEXT, description="base64 of ECDSA with SHA-384, DER")

    def read(self) -> Statement:
        """What it says; that the site says it is not checked.

        Raises:
            StatementError: If it says nothing that a statement could.
        """
        try:
            statement = Statement.model_validate_json(self.statement)
        except ValidationError as error:
            rule = error.errors()[0]["msg"]
            raise StatementError(f"statement: is not of the agreed form: {rule}") from None
        if statement.canonical_json() != self.statement:
            raise StatementError("statement: is not written in its canonical form")
        return statement

    def verified(self, keys: Mapping[str, str]) -> Statement:
        """What a site of this roster says.

        Args:
            keys: OpenSSH public key lines by site.

        Raises:
            StatementError: If the site is none of the roster's, or has not signed this.
        """
        statement = self.read()
        if statement.site not in keys:
            raise StatementError(f"statement of site {statement.site}: it is not in the roster")
        try:
            key = parse_openssh_line(keys[statement.site])
            signature = b64decode(self.signature, validate=True)
            key.verify(signature, self.statement.encode(), _ALGORITHM)
        except (KeyFileError, Base64Error, ValueError, InvalidSignature):
            raise StatementError(
                f"statement of site {statement.site}, round {statement.round}: "
                "is not signed by the site's key"
            ) from None
        return statement


_Statements = TypeAdapter(list[SignedStatement])


def sign(statement: Statement, key: ec.EllipticCurvePrivateKey) -> SignedStatement:
    """The statement with the site's signature."""
    text = statement.canonical_json()
    signature = b64encode(key.sign(text.encode(), _ALGORITHM)).decode("ascii")
    return SignedStatement(statement=text, signature=signature)


def statements_text(statements: Iterable[SignedStatement]) -> str:
    """As they travel together."""
    return _Statements.dump_json(list(statements)).decode()


def read_statements(text: str, keys: Mapping[str, str]) -> dict[str, Statement]:
    """Statements that travelled together, each verified, by site.

    Args:
        text: As `statements_text` writes it.
        keys: OpenSSH public key lines by site; there are no more statements than sites.

    Raises:
        StatementError: If one of them is bad, or a site makes two.
    """
    if len(text) > 4 * _MAX_TEXT * len(keys) + 2:
        raise StatementError(f"statements: are {len(text)} characters, too many for the roster")
    said: dict[str, Statement] = {}
    for each in parse_statements(text):
        statement = each.verified(keys)
        if statement.site in said:
            raise StatementError(f"statements: site {statement.site} makes two")
        said[statement.site] = statement
    return said


def parse_statements(text: str) -> list[SignedStatement]:
    """Statements that travelled together; nothing of them is verified.

    Raises:
        StatementError: If the text is something else.
    """
    try:
        return _Statements.validate_json(text)
    except ValidationError:
        raise StatementError("statements: are no list of signed statements") from None
