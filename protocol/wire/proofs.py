"""What lets a site check an instruction, and what it signs in its reply for the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, RecordDict
from pydantic import ValidationError

from protocol.agreement.manifest import StudyFile
from protocol.agreement.statements import SignedStatement, statements_text
from protocol.config.study import WireConfig
from protocol.wire.compression import pack_global
from protocol.wire.messages import CONFIDENCE, SEGMENTER, STUDY
from protocol.wire.weights import MessageError, Weights

MANIFEST, SIGNATURE, STATEMENTS = "manifest", "manifest_signature", "statements"
SIGNED = "signed"
# A network's weights of the round before, for a site that missed it.
BEFORE = {SEGMENTER: f"{SEGMENTER}_before", CONFIDENCE: f"{CONFIDENCE}_before"}


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """What the centre sends beside the weights.

    Attributes:
        statements: Of the round that led to these weights.
        before: Weights that the statements are about, by network; {}: the site has them.
    """

    statements: Sequence[SignedStatement] = ()
    before: Mapping[str, Weights] = field(default_factory=dict)


def add_proofs(content: RecordDict, proofs: Proofs, wire: WireConfig) -> None:
    """Into an instruction that `pack_instruction` made."""
    study = content[STUDY]
    assert isinstance(study, ConfigRecord)
    if proofs.statements:
        study[STATEMENTS] = statements_text(proofs.statements)
    for network, weights in proofs.before.items():
        content[BEFORE[network]] = pack_global(weights, wire)


def read_study_file(content: RecordDict) -> StudyFile:
    """The signed study that an instruction says it is of; nothing of it is verified.

    Raises:
        MessageError: If there is none.
    """
    study = content.get(STUDY)
    record = study if isinstance(study, ConfigRecord) else {}
    try:
        return StudyFile.model_validate(
            {
                "manifest": record.get(MANIFEST),
                "signature": record.get(SIGNATURE),
                "protocol": record.get("protocol"),
            }
        )
    except ValidationError:
        raise MessageError(
            "instruction: comes without a signed manifest and its protocol; ask the centre to sign"
            " the study and to run this version"
        ) from None


def add_statement(content: RecordDict, signed: SignedStatement) -> None:
    """Into a site's reply."""
    content[SIGNED] = ConfigRecord(signed.model_dump())


def take_statement(content: RecordDict) -> SignedStatement | None:
    """The statement out of a reply, so that the rest can be read; None where there is none.

    Raises:
        MessageError: If what is in its place is no statement.
    """
    record = content.pop(SIGNED, None)
    if record is None:
        return None
    if not isinstance(record, ConfigRecord):
        raise MessageError(f"reply: record {SIGNED!r} must be a ConfigRecord")
    try:
        return SignedStatement.model_validate(dict(record))
    except ValidationError:
        raise MessageError(f"reply: record {SIGNED!r} is no signed statement") from None
