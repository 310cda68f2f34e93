"""Sends one alert to one URL by apprise; started by its path, in a process that can be ended.

The URL comes on the input and not as an argument, which other users of the machine could read.
What apprise says about a failure may quote the URL: only a word of ours about it is printed.
"""

import json
import logging
import re
import sys
from typing import Any

UNKNOWN = "apprise does not know this URL"


def main(asked: dict[str, Any]) -> str:
    """Why it was not sent; empty: it was."""
    import apprise

    logging.getLogger("apprise").addHandler(logging.NullHandler())
    asset = apprise.AppriseAsset(
        app_id="ASDNet",
        app_desc="ASDNet federation",
        app_url="",
        image_url_mask=False,
        async_mode=False,
        service_timeout=asked["time_limit_s"],
    )
    sender = apprise.Apprise(asset=asset)
    if not sender.add(asked["url"]):
        return UNKNOWN
    result = sender.notify(
        title=asked["title"],
        body=asked["body"],
        body_format=apprise.NotifyFormat.TEXT,
        notify_type=apprise.NotifyType.WARNING,
    )
    return "" if result else _why(" ".join(entry.message for entry in result.logs()))


def _why(words: str) -> str:
    if status := re.search(r"\berror=(\d{3})\b", words):
        return f"refused with status {status[1]}"
    if "onnection error" in words:
        return "no connection, or user and password are not accepted"
    return "not accepted"


if __name__ == "__main__":
    reason = main(json.load(sys.stdin))
    print(reason)
    sys.exit(1 if reason else 0)
