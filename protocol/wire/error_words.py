"""The complete list of the words that may say why a site did not answer.

The site sends no other (`client/node/egress.py`), and the centre repeats no other on its screens,
in its logs and in its reports (`server/rounds/channel.py`): an exception's text may hold a
patient's name, and a hostile site's text anything at all.
"""

import builtins

NOT_APPROVED, REFUSED = "NotApproved", "OutgoingRefused"
CRASHED, STOPPED = "ClientAppCrashed", "SiteStopped"
# Any error that is not on the list.
OTHER = "OtherError"

ERROR_WORDS = frozenset(
    [
        *(name for name, kind in vars(builtins).items() if isinstance(kind, type)),
        *(NOT_APPROVED, REFUSED, CRASHED, STOPPED, OTHER),
        *("AuditError", "CacheError", "LayoutError", "MessageError", "ProtocolError"),
        *("NonFiniteLossError", "NothingToTrainError", "ScanError", "ValidationError"),
        *("AcceleratorError", "DeviceError", "OutOfMemoryError"),
    ]
)


def error_word(reason: str | None) -> str:
    """The reason if it is on the list, else "OtherError"."""
    return reason if reason in ERROR_WORDS else OTHER
