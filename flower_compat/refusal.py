"""How a SuperNode says that it is connected, or that the SuperLink refuses its key.

It logs the one, and ends with the same status for every error of a connection.
"""

from http import HTTPStatus

import httpx

# A line of its log, before the number of the node.
CONNECTED = "SuperNode ID"
# EX_NOPERM of sysexits.h: our status of a SuperNode whose key is not admitted, or not twice.
REFUSED = 77


def is_refusal(end: SystemExit) -> bool:
    """Whether Flower has ended the process because its key was refused."""
    error = end.__context__
    return (
        isinstance(error, httpx.HTTPStatusError)
        and error.response.status_code == HTTPStatus.PRECONDITION_FAILED
        and error.request.url.path.endswith("/activate-node")
    )
