"""The centre's machine: what its other users, and strangers who connect to it, can do.  Nothing."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest, GetNodesRequest

from flower_compat.owner import HEADER

NOBODY = 65534
# Of the machine's own Python, without our packages: as any user has it.
CALL = """
import json, ssl, sys, urllib.error, urllib.request
context = ssl._create_unverified_context()
for call in json.load(sys.stdin):
    headers = {"content-type": "application/protobuf"} | call["headers"]
    request = urllib.request.Request(call["url"], bytes.fromhex(call["body"]), headers)
    try:
        with urllib.request.urlopen(request, context=context) as answer:
            print(json.dumps([answer.status, answer.read().hex()]))
    except urllib.error.HTTPError as error:
        print(json.dumps([error.code, error.read().decode()]))
"""
REQUESTS = {
    "control/start-run": StartRunRequest(fab=Fab(hash_str="0" * 64, content=b"code of his")),
    "control/register-node": RegisterNodeRequest(public_key=b"key of his", name="A"),
    "control/list-nodes": ListNodesRequest(),
    "runtime/acquire-task": AcquireTaskRequest(supported_task_types=["flwr-serverapp"]),
    "runtime/get-nodes": GetNodesRequest(),
}
CLAIMS = [
    {},
    {HEADER: "0" * 64},
    {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https"},
]


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Deployment]:
    study = harness.tiny_study(rounds=2)
    # A machine on which an earlier owner believed a proxy, and opened the old APIs.
    careless = {
        "FORWARDED_ALLOW_IPS": "*",
        "UVICORN_FORWARDED_ALLOW_IPS": "*",
        "UVICORN_PROXY_HEADERS": "1",
        "FLWR_INTERNAL_GRPC_CONTROL_API": "1",
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        harness.federation(tmp_path_factory.mktemp("fed"), study, "A") as fed,
    ):
        for name, value in careless.items():
            patch.setenv(name, value)
        fed.start_superlink()
        yield fed


def ask(
    fed: harness.Deployment,
    calls: list[tuple[str, bytes, dict[str, str]]],
    *,
    host: str = "centre",
    address: str = "127.0.0.1",
) -> list[tuple[int, str]]:
    """Calls of the SuperLink by another user of a host; status and answer of each."""
    if os.geteuid() != 0 or not (python := shutil.which("python3", path="/usr/bin")):
        pytest.skip("being another user needs root, and a Python that all can read")
    content = [
        {"url": f"https://{address}:{fed.port}/v1/{path}", "body": body.hex(), "headers": headers}
        for path, body, headers in calls
    ]
    done = subprocess.run(
        [
            *fed.network.within(host), "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}",
            "--clear-groups", "env", "-i", python, "-I", "-c", CALL,
        ],
        input=json.dumps(content), capture_output=True, encoding="utf-8", check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_another_user_of_the_machine_starts_nothing(fed: harness.Deployment) -> None:
    calls = [
        (path, request.SerializeToString(), claim)
        for path, request in REQUESTS.items()
        for claim in CLAIMS
    ]
    answers = ask(fed, calls)
    assert [status for status, _ in answers] == [403] * len(calls)
    assert all("is for the user who runs the SuperLink" in words for _, words in answers)
    log = fed.log("superlink")
    for path in REQUESTS:
        assert f"refused: 127.0.0.1 asked for /v1/{path} without the owner's token" in log


def test_a_stranger_is_not_taken_for_one_of_the_machine(fed: harness.Deployment) -> None:
    if not fed.network.separate:
        pytest.skip("on loopback a stranger is of the centre's own machine")
    token = (fed.centre / "owner.token").read_text().strip()
    claims = [*CLAIMS, {HEADER: token}, {HEADER: token, "X-Forwarded-For": "127.0.0.1"}]
    calls = [("control/start-run", b"", claim) for claim in claims]
    answers = ask(fed, calls, host="A", address=fed.network.address("centre"))
    assert [status for status, _ in answers] == [403] * len(calls)
    assert f"refused: {fed.network.address('A')} asked for /v1/control/start-run from outside" in (
        fed.log("superlink")
    )
    assert "refused: 127.0.0.1 asked for /v1/control/start-run from outside" not in (
        fed.log("superlink")
    )


def test_the_old_apis_stay_closed(fed: harness.Deployment) -> None:
    assert not fed.reaches("centre", 9093) and not fed.reaches("centre", 9091)


def test_what_another_user_sees_of_a_run_opens_nothing(fed: harness.Deployment) -> None:
    """A ServerApp's own token is among its arguments, which every user can read."""
    fed.start_study("seen")
    fed.until(lambda: bool(fed.pids("serverapp")), 60, "a ServerApp")
    token = (fed.centre / "owner.token").read_text().strip()
    processes = [p for p in Path("/proc").iterdir() if p.name.isdigit()]
    arguments = "\n".join(_read(p / "cmdline") for p in processes)
    assert token not in arguments
    (task,) = set(re.findall(r"--token\0([0-9a-f]+)", arguments))
    body = GetNodesRequest().SerializeToString()
    call = ("runtime/get-nodes", body, {"flwr-task-token": task})
    ((status, words),) = ask(fed, [call])
    assert status == 403 and "is for the user who runs the SuperLink" in words
    # The owner's token it is that is missing, and nothing else.
    path, _, headers = call
    ((status, _),) = ask(fed, [(path, body, headers | {HEADER: token})])
    assert status == 200
    fed.server("run", "--stop", "seen", "--centre", fed.centre)
    assert token not in fed.log("superlink") + fed.log("study-seen")


def test_the_centres_folder_is_closed_to_other_users(fed: harness.Deployment) -> None:
    open_ = [
        path.relative_to(fed.centre).as_posix()
        for path in (fed.centre, fed.centre / "owner.token", fed.centre / "server.key")
        if path.stat().st_mode & 0o077
    ]
    assert open_ == []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
