"""The centre's machine: what its other users, and strangers who connect to it, can do.  Nothing."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import harness
import pytest
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListNodesResponse,
    RegisterNodeRequest,
    StartRunRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest, GetNodesRequest
from flwr.supercore.primitives.asymmetric import sign_message

from flower_compat.owner import HEADER
from protocol.keys import read_private_key

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
        harness.federation(tmp_path_factory.mktemp("fed"), study, "A", others="X") as fed,
    ):
        # Kept elsewhere: the SuperLink needs it for nothing.
        (fed.centre / "ca.key").rename(fed.folder / "ca.key")
        for name, value in careless.items():
            patch.setenv(name, value)
        # As many open files as most systems let a process have.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        fed.start_superlink()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
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
    assert token not in "".join(_arguments(p.name) for p in Path("/proc").glob("[0-9]*"))
    arguments = "".join(_arguments(pid) for pid in fed.pids("serverapp"))
    (task,) = set(re.findall(r"--token\0([0-9a-f]+)", arguments))
    body = GetNodesRequest().SerializeToString()
    call = ("runtime/get-nodes", body, {"flwr-task-token": task})
    ((status, words),) = ask(fed, [call])
    assert status == 403 and "is for the user who runs the SuperLink" in words
    # The owner's token it is that is missing, and nothing else.
    path, _, headers = call
    ((status, _),) = ask(fed, [(path, body, headers | {HEADER: token})])
    assert status == 200
    an_instruction_by_a_hospital_is_refused(fed, token)
    fed.server("run", "--stop", "seen", "--centre", fed.centre)
    assert token not in fed.log("superlink") + fed.log("study-seen")


def an_instruction_by_a_hospital_is_refused(fed: harness.Deployment, token: str) -> None:
    """A registered site pushes an instruction to a site, in the centre's name."""
    ((_, answer),) = ask(fed, [("control/list-nodes", b"", {HEADER: token})])
    (node,) = ListNodesResponse.FromString(bytes.fromhex(answer)).nodes_info
    run = json.loads((fed.centre / "runs/seen/run.json").read_text())["flower_run_id"]
    key, now = read_private_key(fed.home("A") / "state/site.key"), datetime.now(UTC).isoformat()
    headers = {
        "flwr-public-key": b64encode(node.public_key).decode(),
        "flwr-timestamp": now,
        "flwr-signature": b64encode(sign_message(key, now.encode())).decode(),
    }
    metadata = Metadata(
        run_id=run, message_id="0" * 64, src_node_id=1, dst_node_id=node.node_id,
        message_type="train", ttl=600, created_at=time.time(),
    )  # fmt: skip
    body = PushMessagesRequest(
        node=Node(node_id=node.node_id),
        messages_list=[Message(metadata=metadata)],
        message_object_trees=[ObjectTree(object_id="0" * 64)],
    ).SerializeToString()
    address = fed.network.address("centre")
    call = ("fleet/push-messages", body, headers)
    ((status, words),) = ask(fed, [call], host="A", address=address)
    assert (status, "a site pushes replies of its own alone" in words) == (403, True), words
    assert f"refused: node {node.node_id} pushed a message of node 1" in fed.log("superlink")


HOLD = """
import socket, ssl, sys, time
address, port, source, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl._create_unverified_context()
held = []
for _ in range(1000):
    connection = socket.create_connection((address, port), 10, source_address=(source, 0))
    try:
        if kind != "no TLS hello":
            connection = context.wrap_socket(connection)
            connection.sendall(b"POST /v1/fleet/push-messages HTTP/1.1\\r\\nHost: x\\r\\n")
        if kind == "slow body":
            connection.sendall(b"Content-Length: 16000000\\r\\n\\r\\n" + bytes(1000))
    except OSError:
        pass
    held.append(connection)
print("held", flush=True)
time.sleep(600)
"""


HEALTH = """
import ssl, sys, time, urllib.request
start = time.monotonic()
context = ssl._create_unverified_context()
urllib.request.urlopen(sys.argv[1] + "/health", context=context, timeout=30).read()
print(time.monotonic() - start)
"""


def health(fed: harness.Deployment, host: str, address: str = "127.0.0.1") -> float:
    """Seconds until the SuperLink has answered somebody at a host."""
    url = f"https://{address}:{fed.port}"
    done = subprocess.run(
        [*fed.network.within(host), sys.executable, "-c", HEALTH, url],
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return round(float(done.stdout), 2)


@pytest.mark.parametrize("kind", ["no TLS hello", "half a head", "slow body"])
@pytest.mark.parametrize("host", ["X", "centre"])
def test_a_thousand_half_open_requests_keep_no_hospital_out(
    fed: harness.Deployment, host: str, kind: str
) -> None:
    """From outside, and by a user of the centre's own machine."""
    at = fed.network.address("centre") if host == "X" else "127.0.0.1"
    source = fed.network.address("X") if host == "X" and fed.network.separate else "127.0.0.2"
    name = f"holder-{host}-{kind}".replace(" ", "-")
    script = fed.folder / "hold.py"
    script.write_text(HOLD)
    holder = fed.start_at(host, name, str(script), at, fed.port, source, kind)
    try:
        fed.until(lambda: "held" in fed.log(name), 120, "1,000 connections")
        waits = [health(fed, "A", fed.network.address("centre")), health(fed, "centre")]
        print(f"{name}: a hospital and the centre were answered in {waits} s")
        assert max(waits) < 5, waits
    finally:
        holder.kill()
        holder.wait()
    words = f"connections of {source}, which opens or sends too many"
    fed.until(lambda: words in fed.log("superlink"), 20, "the log's line")


def test_the_centres_folder_is_closed_to_other_users(fed: harness.Deployment) -> None:
    """The SuperLink's database, its runs and logs, and what a ServerApp writes."""
    files = [fed.centre, *(path for path in fed.centre.rglob("*") if not path.is_symlink())]
    names = {path.name for path in files}
    assert {"superlink.db", "owner.token", "server.key", "run.json"} <= names
    open_ = {path for path in files if path.stat().st_mode & 0o077}
    assert open_ == set()


def _arguments(pid: int | str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
