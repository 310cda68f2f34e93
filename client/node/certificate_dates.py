"""Dates of certificates, and this machine's clock against the centre's."""

import math
from datetime import UTC, datetime

from cryptography import x509

from client.node.checks import Result

_EXPIRES_SOON_DAYS = 30
# The SuperLink takes a signed time stamp from 5 s in the future to 305 s in the past.
_AHEAD_S = {"failed": 5.0, "warning": 2.0}
_BEHIND_S = {"failed": 300.0, "warning": 60.0}


def certificate_dates(who: str, certificate: x509.Certificate) -> Result:
    """Today lies within the dates of the certificate, and not near the last."""
    now = datetime.now(UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    days = math.floor((last - now).total_seconds() / 86400)
    renew = f"ask the centre to renew the certificate of {who}"
    if now < first:
        finding = f"that of {who} is not valid before {first:%Y-%m-%d %H:%M} UTC"
        return "failed", finding, "correct this machine's clock; if it is right, " + renew
    if now > last:
        finding = f"that of {who} expired on {last:%Y-%m-%d}"
        return "failed", finding, renew + ", unless this machine's clock is wrong"
    finding = f"that of {who} is valid until {last:%Y-%m-%d} ({days} days)"
    return ("warning", finding, renew) if days < _EXPIRES_SOON_DAYS else ("ok", finding, "")


def clock_skew(ahead_s: float, *, within_s: float) -> Result:
    """Whether the SuperLink will take time stamps of a clock that is so far ahead."""
    side, limits = ("ahead of", _AHEAD_S) if ahead_s > 0 else ("behind", _BEHIND_S)
    within = f"to within {math.ceil(within_s)} s"
    finding = f"{abs(ahead_s):.0f} s {side} the centre, {within}"
    for status in ("failed", "warning"):
        if abs(ahead_s) > limits[status]:
            hint = "set this machine's clock by NTP: timedatectl set-ntp true"
            return status, finding, hint
    agrees = abs(ahead_s) < math.ceil(within_s)
    return "ok", f"agrees with the centre's, {within}" if agrees else finding, ""
