"""What a site compares before it answers: nothing of a message is stored or run before that.

The guard is of the installed version, never of what the centre sends.
"""

import logging

from flwr.app import Message, MessageType

from client.node.guard.form import Instruction, read_instruction
from client.node.guard.history import (
    History,
    Mark,
    Record,
    keep_last_signed,
    last_signed,
)
from client.node.guard.order import (
    MOST_QUERIES,
    followed,
    require_fewer,
    require_order,
    require_same,
    text_digest,
)
from client.node.guard.refusal import Refusal
from client.node.guard.studies import StudyNotApprovedError, check_study, verified_study
from client.node.guard.weights import Checker, logs_seen
from protocol.agreement.first_weights import first_weights
from protocol.agreement.manifest import AbsurdStudyError, ManifestError, Study
from protocol.agreement.statement_store import keep_statements
from protocol.agreement.statements import SignedStatement, Statement, parse_statements, sign
from protocol.audit.log import AuditEntry, AuditLog
from protocol.config.site import SiteConfig
from protocol.keys import read_private_key
from protocol.wire.compression import Shapes, shapes_of
from protocol.wire.error_words import (
    BEYOND_LIMITS,
    LOG_CUT,
    NOT_AS_SIGNED,
    NOT_SIGNED,
    STUDY_NOT_APPROVED,
    WEIGHTS_DIFFER,
)
from protocol.wire.messages import CONFIDENCE, SEGMENTER, read_run
from protocol.wire.proofs import add_statement, read_study_file
from protocol.wire.weights import MessageError

log = logging.getLogger(__name__)


class Guard:
    """Compares instructions with what this site has agreed to; remembers what it answered.

    Args:
        config: This site.
        installed: Digest of the code that is installed here.
    """

    def __init__(self, config: SiteConfig, installed: str = "") -> None:
        self._config, self._installed = config, installed
        self._shapes: tuple[str, dict[str, Shapes]] = ("", {})

    def recognise(self, message: Message) -> Study:
        """The study that an instruction is of: signed by the pinned centre, and of this site.

        Nothing is stored.

        Raises:
            Refusal: If it is not.
        """
        try:
            return verified_study(self._config, read_study_file(message.content))
        except AbsurdStudyError as error:
            raise Refusal(BEYOND_LIMITS, str(error)) from None
        except (ManifestError, MessageError) as error:
            raise Refusal(NOT_SIGNED, str(error)) from None

    def require_approval(self, study: Study) -> None:
        """Somebody here has approved this study; else it waits for that.

        Raises:
            Refusal: If nobody has.
        """
        try:
            check_study(self._config, study, self._installed)
        except StudyNotApprovedError as error:
            raise Refusal(STUDY_NOT_APPROVED, str(error)) from None

    def admit(self, study: Study, message: Message, code: str) -> None:
        """Let an instruction pass that an honest centre could send now.

        Args:
            study: What `recognise` returned; approved.
            message: The instruction.
            code: Digest of the bundle that would answer it.

        Raises:
            Refusal: With the word for the centre and the sentence for this site.
            HistoryError: If this site's record of the run is damaged.
        """
        manifest = study.manifest
        if read_run(message.content) != manifest.run:
            raise Refusal(
                NOT_AS_SIGNED,
                f"run {manifest.run}: the instruction is of another run; ask the centre",
            )
        if code != manifest.code:
            raise Refusal(
                NOT_AS_SIGNED,
                f"run {manifest.run}: comes with code {code[:12]}, signed is {manifest.code[:12]};"
                " have the centre send what it has signed",
            )
        history = History(self._config.state, manifest.run)
        past = history.load()
        if past.stopped:
            raise Refusal(past.stopped, past.why)
        self._require_own_log()
        asked = read_instruction(message, study.protocol, self._shapes_of(study))
        if asked.asks != manifest.asks:
            raise Refusal(
                NOT_AS_SIGNED,
                f"run {manifest.run}: was signed for {manifest.asks}, the instruction asks for"
                f" {asked.asks}; nothing was approved but that: ask the centre",
            )
        if asked.kind == MessageType.QUERY:
            return require_fewer(past.queries, MOST_QUERIES, f"run {manifest.run}: declarations")
        require_order(asked, past, manifest.evaluation_rounds, self._config.limits)
        self._admit_weights(study, asked, history, past)
        return None

    def sealed(self, study: Study, reply: Message, message: Message, last: AuditEntry) -> Message:
        """The reply as it leaves, counted; in answer to training with this site's statement.

        Args:
            study: What `recognise` returned.
            reply: As `filter_reply` made it.
            message: The instruction, which `admit` has let pass.
            last: The last entry of this site's audit log.
        """
        history = History(self._config.state, study.manifest.run)
        past, kind = history.load(), message.metadata.message_type
        if kind == MessageType.QUERY:
            history.save(past.model_copy(update={"queries": past.queries + 1}))
        elif kind == MessageType.EVALUATE:
            history.save(past.model_copy(update={"evaluations": past.evaluations + 1}))
        else:
            history.save(past.model_copy(update={"trainings": past.trainings + 1}))
            add_statement(reply.content, self._signed(study, past, last))
        return reply

    # ---- the audit log --------------------------------------------------------------------------

    def _require_own_log(self) -> None:
        """The entry that this site's last statement names is still in its log."""
        mark = last_signed(self._config.state)
        path = self._config.audit_file
        if mark is None or (path.exists() and mark.stands_in(path.read_bytes())):
            return
        raise Refusal(
            LOG_CUT,
            f"{path}: this site's own audit log was cut: entry {mark.seq} ({mark.head[:16]}), which"
            " its last statement names, is gone; put the log back from a backup, or, if you know"
            " why it is gone, go on with asdnet-site audit --resume RUN",
        )

    def _note_cut_logs(self, study: Study, sentences: list[str]) -> None:
        """Another site's fault is recorded and said; the study goes on."""
        audit = AuditLog(self._config.audit_file)
        for sentence in sentences:
            log.error("run %s: %s; tell that site and the centre", study.manifest.run, sentence)
            audit.append(
                "note",
                "another site's audit log was cut",
                peer=str(self._config.centre),
                run=study.manifest.run,
                reason=sentence,
            )

    # ---- weights --------------------------------------------------------------------------------

    def _admit_weights(
        self, study: Study, asked: Instruction, history: History, past: Record
    ) -> None:
        checker = Checker(
            site=self._config.site,
            manifest=study.manifest,
            protocol=study.protocol,
            history=history,
        )
        try:
            compared = checker.check(asked, past)
        except Refusal as refusal:
            if refusal.word == WEIGHTS_DIFFER:
                stopped = {"stopped": refusal.word, "why": str(refusal)}
                history.save(past.model_copy(update=stopped))
            raise
        require_same(asked, past, compared.digests)
        logs, cut = logs_seen(self._config.site, compared.said, past.logs)
        self._note_cut_logs(study, cut)
        self._keep_statements(study, asked.statements, past.statements)
        history.keep_weights(asked.number, asked.weights, compared.digests)
        history.save(followed(past, asked, compared).model_copy(update={"logs": logs}))

    def _keep_statements(self, study: Study, text: str, last: str) -> None:
        """Those of other sites; the own ones are there."""
        if text and text_digest(text) != last:
            others = [s for s in parse_statements(text) if s.read().site != self._config.site]
            path = self._config.statements / f"{study.manifest.run}.jsonl"
            keep_statements(path, others, study.manifest.sites)

    def _signed(self, study: Study, past: Record, last: AuditEntry) -> SignedStatement:
        """This site's word about the round that it was told to train in; kept before it leaves."""
        digests, manifest = past.digests[past.round], study.manifest
        statement = Statement(
            run=manifest.run,
            round=past.round,
            site=self._config.site,
            segmenter=digests[SEGMENTER],
            confidence=digests.get(CONFIDENCE, ""),
            audit_seq=last.seq,
            audit_head=last.hash,
        )
        signed = sign(statement, read_private_key(self._config.key_file))
        path = self._config.statements / f"{manifest.run}.jsonl"
        keep_statements(path, [signed], manifest.sites)
        keep_last_signed(self._config.state, Mark(seq=last.seq, head=last.hash))
        return signed

    def _shapes_of(self, study: Study) -> dict[str, Shapes]:
        """Of the study's networks, which are built once for a study."""
        digest, shapes = self._shapes
        if digest != study.manifest.protocol_digest:
            shapes = {n: shapes_of(weights) for n, weights in first_weights(study.protocol).items()}
            self._shapes = study.manifest.protocol_digest, shapes
        return shapes
