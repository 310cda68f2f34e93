"""What the centre makes of this site's key: how its SuperNode ended, and when to try again."""

import time
from contextlib import suppress

from pydantic import ValidationError

from asdnet_models.fields import Frozen
from flower_compat.refusal import REFUSED
from protocol.config.site import SiteConfig
from protocol.files import write_text
from protocol.keys import KeyFileError, openssh_fingerprint, read_private_key

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
# The centre may admit a site again, but not from one minute to the next.
REMOVED_PAUSE_S = 600.0
# A SuperNode that is refused ends at once; one that ran so long was connected.
STEADY_S = 30.0
# A SuperNode that was killed is connected in the SuperLink's eyes until then, and refused.
_STILL_CONNECTED_S = 120.0


class _Admitted(Frozen):
    """The key by which this site was connected last, as its fingerprint."""

    key: str


class Attempts:
    """The starts of one site's SuperNode, one after the other."""

    def __init__(self, config: SiteConfig) -> None:
        self._config, self._file = config, config.state / "admitted.json"
        self._pause = FIRST_PAUSE_S
        self._put_out, self._refused_since = False, 0.0

    def connected(self) -> None:
        """The centre has taken the key; that is remembered beyond this process."""
        self._put_out, self._refused_since = False, 0.0
        key = self._key()
        if key and key != self._admitted():
            with suppress(OSError):
                write_text(self._file, _Admitted(key=key).model_dump_json() + "\n", 0o600)

    def ended(self, status: int | None, ran_s: float) -> tuple[str, float]:
        """Why the SuperNode has ended, in words and with what to do; seconds until the next try.

        Args:
            status: Its exit status; None: this site has ended it.
            ran_s: How long it ran.
        """
        if status == REFUSED and (removed := self._removed()):
            return removed, REMOVED_PAUSE_S
        why = (
            f"the SuperNode ended (status {status}); its own lines above say why. If the centre"
            " does not know this site's key, ask it to run: asdnet-centre add-site"
            f" {self._config.site}"
        )
        if status is None:
            why = "the SuperNode was ended, for it waited in vain for an answer"
        if status != REFUSED:
            # It ends with 0 where its signature is taken no more: a removed site's, for one.
            self._put_out, self._refused_since = status == 0, 0.0
        if ran_s > STEADY_S:
            self._pause = FIRST_PAUSE_S
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE_S)
        return why, pause

    def _removed(self) -> str:
        """What a refusal of a key means that was taken before; empty: not known yet."""
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        known = self._key() == self._admitted() != ""
        if not known or not (self._put_out or now - self._refused_since >= _STILL_CONNECTED_S):
            return ""
        site = self._config.site
        found = "removed by the centre, which takes this site's key no more"
        if not self._put_out:
            found += " (or a copy of the key is connected from another machine)"
        return (
            f"site {site}: {found}. Ask the centre why. To come again: asdnet-site enrol --site"
            f" {site} --replace, send the centre the new .pub file, and have it run asdnet-centre"
            f" add-site {site}; starting this site anew tries at once"
        )

    def _admitted(self) -> str:
        with suppress(OSError, ValidationError):
            return _Admitted.model_validate_json(self._file.read_bytes()).key
        return ""

    def _key(self) -> str:
        with suppress(KeyFileError):
            return openssh_fingerprint(read_private_key(self._config.key_file).public_key())
        return ""
