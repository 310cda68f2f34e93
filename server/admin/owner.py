"""The owner's token: who holds it may register nodes and start runs on this machine.

It is in a file that only the user who runs the SuperLink can read.
"""

import secrets
import stat
from pathlib import Path

from protocol.files import write_text
from protocol.keys import PRIVATE_MODE
from server.admin.centre import Centre, CentreError

_BYTES = 32


def owner_file(centre: Centre) -> Path:
    """Where the token is."""
    return centre.folder / "owner.token"


def make_owner_token(centre: Centre) -> str:
    """The token, made anew where there is none, or where others could have read it.

    Raises:
        CentreError: If it belongs to another user.
    """
    path = owner_file(centre)
    try:
        private = not stat.S_IMODE(path.stat().st_mode) & 0o077
    except FileNotFoundError:
        private = False
    if not private:
        write_text(path, secrets.token_hex(_BYTES) + "\n", PRIVATE_MODE)
    return read_owner_token(centre)


def read_owner_token(centre: Centre) -> str:
    """The token, 64 hexadecimal digits.

    Raises:
        CentreError: If it is not there, belongs to another user, or is none.
    """
    path = owner_file(centre)
    try:
        token = path.read_text(encoding="ascii").strip()
        if len(bytes.fromhex(token)) != _BYTES:
            raise ValueError
    except FileNotFoundError:
        raise CentreError(f"{path}: is not there; start the SuperLink, which makes it") from None
    except PermissionError:
        raise CentreError(
            f"{path}: cannot be read; give this command as the user who runs the SuperLink"
        ) from None
    except ValueError:
        raise CentreError(
            f"{path}: is not {_BYTES} bytes in hexadecimal digits; delete it and restart the"
            " SuperLink, which makes a new one"
        ) from None
    return token
