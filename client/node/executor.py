"""Takes the centre's messages from the SuperNode and has approved code answer them.

Flower's own SuperExec would unpack and import whatever bundle the centre sends, and send an
exception's text back.  This one looks at the bundle first, runs it in a process of its own, and
lets out what `client.node.egress` made anew, once it stands in the audit log.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from flwr.app import Context, Message

from client.node.answers import AnswerError, AppError
from client.node.approval import ApprovedCode, NotApprovedError, check_bundle
from client.node.egress import error_reply, filter_reply
from client.node.guard.allowed import require_allowed, require_enough_cases
from client.node.guard.guard import Guard
from client.node.guard.history import HistoryError
from client.node.guard.refusal import Refusal
from client.node.worker import SiteStopped, Worker, WorkerDied
from flower_compat.runtime import RuntimeApi
from protocol.agreement.bundle import BundleError, installed_bundle
from protocol.agreement.manifest import Study
from protocol.audit.log import AuditEntry, AuditError, AuditLog, Direction
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.escaping import printable
from protocol.files import write_text
from protocol.keys import KeyFileError
from protocol.wire.description import describe
from protocol.wire.error_words import CRASHED, NOT_APPROVED, REFUSED, STOPPED
from protocol.wire.messages import read_plan, read_run
from protocol.wire.weights import MessageError
from reporting.logs import say_about

log = logging.getLogger(__name__)

Stop = Callable[[], bool]

_POLL_S = 1.0
# The SuperNode looks for replies twice a second; when stopped, it should take the last one along.
_LAST_WORD_S = 2.0


class Executor:
    """Answers one message at a time, until `stop`.

    Args:
        config: This site.
        address: host:port of the SuperNode's Runtime API, on loopback.
        secret: What the SuperNode knows its executor by.
    """

    def __init__(self, config: SiteConfig, address: str, secret: bytes) -> None:
        self._config = config
        self._runtime = RuntimeApi(address, secret, config.limits.instruction_bytes)
        self._audit = AuditLog(config.audit_file)
        self._installed = installed_bundle().digest
        self._guard = Guard(config, self._installed)
        self._worker = Worker(config)

    def poll(self, stop: Stop, token: str = "") -> bool:
        """Take and answer what waits; returns when nothing does.

        The SuperNode may be starting or gone: then nothing waits.

        Args:
            stop: Asked again and again; once it is true, an answer is waited for no longer.
            token: Of a message that was taken already.

        Returns:
            Whether anything waited.
        """
        waited = False
        while not stop():
            token = token or self._runtime.acquire()
            if not token:
                break
            waited = True
            try:
                token = self._serve(token, stop)
            except Exception:
                # Whatever a message or a dying SuperNode can cause: the next one is taken.
                log.exception("a message could not be answered")
                token = ""
        return waited

    def close(self) -> None:
        """End the worker."""
        self._worker.close()
        self._runtime.close()

    def _serve(self, token: str, stop: Stop) -> str:
        """Answer one message; the token of a newer one for which it was given up, if any."""
        with self._runtime.task(token) as task:
            pulling = task.pull()
            while not wait([pulling], _POLL_S).done and not stop():
                # The SuperNode brings one message at a time: where there is a newer one, it has
                # given up this one's content, as it does when the centre's run has ended.
                newer = self._runtime.acquire()
                if newer:
                    log.warning("a message was withdrawn before it was here; on to the next")
                    task.give_up("withdrawn")
                    return newer
            if not pulling.done():
                return ""
            taken = pulling.result()
            reply = self._answer(taken.message, taken.context, taken.bundle, stop)
            task.complete(reply, taken.context)
            if stop():
                time.sleep(_LAST_WORD_S)
        return ""

    def _answer(self, message: Message, context: Context, fab: bytes, stop: Stop) -> Message:
        """The reply that may leave; it stands in the log by then."""
        say_about(**_about(message))
        try:
            received = self._log("received", message, message)
            reply = self._answer_if_admitted(message, context, fab, stop, received)
            self._log("sent", reply, message)
        except AuditError:
            log.exception("the audit log cannot be written: no content leaves this site")
            return error_reply(message, "AuditError")
        finally:
            say_about()
        return reply

    def _answer_if_admitted(
        self,
        message: Message,
        context: Context,
        fab: bytes,
        stop: Stop,
        received: AuditEntry,
    ) -> Message:
        try:
            study, code = self._admitted(message, fab)
            if study.manifest.asks == "training":
                _keep(self._config.protocol_file, study.protocol)
        except Refusal as refusal:
            return self._refused(message, refusal)
        except (NotApprovedError, BundleError) as error:
            log.error("%s", error)
            self._audit.append(
                "refused",
                "bundle",
                peer=str(self._config.centre),
                run=_run_of(message),
                bytes=len(fab),
                sha256=getattr(error, "digest", ""),
                reason="not approved at this site",
            )
            return error_reply(message, NOT_APPROVED)
        except AuditError:
            raise
        except OSError:
            log.exception("the instruction could not be looked at")
            return error_reply(message, "OSError")
        except Exception as error:
            # Whatever a message can cause, it has caused before anything was run.
            log.exception("the instruction could not be looked at")
            return error_reply(message, type(error).__name__)
        reply = self._run(code, message, context, stop)
        if reply.has_error():
            return reply
        try:
            require_enough_cases(self._config, study.protocol, message, reply)
            return self._guard.sealed(study, reply, message, received)
        except Refusal as refusal:
            return self._refused(message, refusal)
        except (OSError, KeyFileError, HistoryError) as error:
            log.exception("the answer could not be signed and remembered: it does not leave")
            return error_reply(message, type(error).__name__)

    def _refused(self, message: Message, refusal: Refusal) -> Message:
        """One word to the centre, the whole sentence for this site."""
        log.error("refused (%s): %s", refusal.word, refusal)
        self._log("refused", message, message, refusal.word)
        return error_reply(message, refusal.word)

    def _admitted(self, message: Message, fab: bytes) -> tuple[Study, ApprovedCode]:
        """The study and the code of an instruction that an honest centre could send now.

        Raises:
            Refusal: If it could not, or nobody has approved the study.
            NotApprovedError: Nobody has approved the code.
            BundleError: The bundle is none.
        """
        now = datetime.now()
        study = self._guard.recognise(message)
        require_allowed(self._config, study.protocol, message, now)
        unapproved = None
        try:
            self._guard.require_approval(study)
        except Refusal as refusal:
            unapproved = refusal
        # Code that nobody has approved waits too, so that a person decides on both at once.
        code = check_bundle(self._config, fab, self._installed)
        if unapproved is not None:
            raise unapproved
        self._guard.admit(study, message, code.digest)
        return study, code

    def _run(self, code: ApprovedCode, message: Message, context: Context, stop: Stop) -> Message:
        log.info("answering a %s message", message.metadata.message_type)
        try:
            answer = self._worker.answer(code, message, context, stop)
        except SiteStopped:
            return error_reply(message, STOPPED)
        except WorkerDied as error:
            log.error("%s; the next message gets a new one", error)
            return error_reply(message, CRASHED)
        except AnswerError as error:
            log.error("the worker's answer was refused: %s", printable(str(error)))
            refusal = error_reply(message, REFUSED)
            self._log("refused", refusal, message)
            return refusal
        except AppError as error:
            # The worker has logged the rest.
            return error_reply(message, str(error))
        except Exception as error:
            log.exception("the worker could not be started or asked")
            return error_reply(message, type(error).__name__)
        reply = filter_reply(answer, message, self._config.site, self._config.min_cases_reported)
        if reply.has_error() and reply.error.reason == REFUSED:
            # An app may return anything; what is no message has nothing to describe.
            self._log("refused", answer if isinstance(answer, Message) else reply, message)
        return reply

    def _log(
        self, direction: Direction, what: Message, instruction: Message, reason: str = ""
    ) -> AuditEntry:
        own = (what.error.reason or "") if what.has_error() else ""
        return self._audit.append(
            direction,
            peer=str(self._config.centre),
            run=_run_of(instruction),
            reason=reason or own,
            **describe(what),
        )


def _keep(path: Path, protocol: StudyProtocol) -> None:
    """The protocol, for the preflight to go by."""
    text = protocol.canonical_json()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _about(instruction: Message) -> dict[str, str | int]:
    """Run and round, as far as the instruction says them; for lines of the log."""
    facts: dict[str, str | int] = {}
    with suppress(Exception):  # whatever an instruction may be
        facts["run"] = printable(read_run(instruction.content), most=96)
        facts["round"] = read_plan(instruction.content).round
    return facts


def _run_of(instruction: Message) -> str:
    try:
        return read_run(instruction.content)
    except (MessageError, ValueError):
        return ""
