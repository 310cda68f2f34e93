"""How Flower's SuperNode says that its key was refused: the words and numbers that we go by."""

import inspect
import sys

import httpx
import pytest
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supernode import start_client_internal

import flower_compat.supernode
from flower_compat.refusal import CONNECTED, REFUSED, is_refusal


def refused(status: int = 412, path: str = "/v1/fleet/activate-node") -> httpx.HTTPStatusError:
    request = httpx.Request("POST", f"https://centre.example.org:9092{path}")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status))


def ended(error: Exception | None) -> SystemExit:
    """As Flower ends: within the handling of the error."""
    try:
        if error is None:
            sys.exit(1)
        try:
            raise error
        except Exception:
            sys.exit(1)
    except SystemExit as end:
        return end


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (refused(), True),
        (refused(401), False),
        (refused(503), False),
        (refused(path="/v1/fleet/pull-messages"), False),
        (httpx.ConnectError("no route"), False),
        (None, False),
    ],
)
def test_which_end_is_a_refusal(
    error: Exception | None, is_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_refusal(ended(error)) is is_one

    def supernode() -> None:
        raise ended(error)

    monkeypatch.setattr(flower_compat.supernode, "flower_supernode", supernode)
    for name in ("pull_objects_soon", "bound_pulls"):
        monkeypatch.setattr(flower_compat.supernode, name, lambda *_: None)
    monkeypatch.setattr(start_client_internal, "time", start_client_internal.time)
    with pytest.raises(SystemExit) as end:
        flower_compat.supernode.run_supernode(1)
    assert end.value.code == (REFUSED if is_one else 1)


def test_flower_still_says_it_so() -> None:
    assert f'"{CONNECTED}: %s"' in inspect.getsource(start_client_internal)
    assert API_ERROR_MAP[ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED].http_status_code == 412
