"""The complete list of the words that may say why a site did not answer.

The site sends no other (`client/node/egress.py`), and the centre repeats no other on its screens,
in its logs and in its reports (`server/rounds/channel.py`): an exception's text may hold a
patient's name, and a hostile site's text anything at all.
"""

import builtins

NOT_APPROVED, REFUSED = "NotApproved", "OutgoingRefused"
CRASHED, STOPPED = "ClientAppCrashed", "SiteStopped"
# Why a site does not follow an instruction (`client/node/guard`): no manifest of the pinned centre;
# another run, protocol or code than was signed; more than the site allows, or at another hour; not
# approved by a person; records, a plan, a round or weights that an honest centre does not send;
# weights that no averaging gives; weights that other sites did not have; asked too often; the
# site's own audit log has lost its end.
NOT_SIGNED, NOT_AS_SIGNED = "NotSigned", "NotAsSigned"
BEYOND_LIMITS, OUTSIDE_HOURS = "BeyondLimits", "OutsideHours"
STUDY_NOT_APPROVED = "StudyNotApproved"
WRONG_FORM, WRONG_PLAN = "WrongForm", "WrongPlan"
WRONG_ROUND, WRONG_WEIGHTS = "WrongRound", "WrongWeights"
WEIGHTS_JUMPED, WEIGHTS_DIFFER = "WeightsJumped", "WeightsDiffer"
TOO_OFTEN, LOG_CUT = "TooOften", "LogCut"
# Any error that is not on the list.
OTHER = "OtherError"

ERROR_WORDS = frozenset(
    [
        *(name for name, kind in vars(builtins).items() if isinstance(kind, type)),
        *(NOT_APPROVED, REFUSED, CRASHED, STOPPED, OTHER),
        *(NOT_SIGNED, NOT_AS_SIGNED, BEYOND_LIMITS, OUTSIDE_HOURS, STUDY_NOT_APPROVED),
        *(WRONG_FORM, WRONG_PLAN, WRONG_ROUND, WRONG_WEIGHTS, WEIGHTS_JUMPED, WEIGHTS_DIFFER),
        *(TOO_OFTEN, LOG_CUT, "HistoryError", "KeyFileError"),
        *("CohortChanged", "CohortFileError"),
        *("AuditError", "CacheError", "LayoutError", "MessageError", "ProtocolError"),
        *("NonFiniteLossError", "NothingToTrainError", "ScanError", "ValidationError"),
        *("AcceleratorError", "DeviceError", "OutOfMemoryError"),
    ]
)


def error_word(reason: str | None) -> str:
    """The reason if it is on the list, else "OtherError"."""
    return reason if reason in ERROR_WORDS else OTHER
