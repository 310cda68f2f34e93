"""Sites that are a thread each: they speak Flower's Fleet API, and answer without any training.

Connection, signatures, heartbeats and pauses are a real SuperNode's; it has no executor, and no
database of its own.  Run as a process: `python -m benchmarks.light_sites`.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import pull_objects, push_objects
from flwr.supernode.fleet_http_connection import http_request_response

from benchmarks.common import replaced
from flower_compat.chunks import send_large_chunks
from flower_compat.polling import SuperNodePolling, pull_objects_soon
from flower_compat.task_identity import work_for
from protocol.keys import read_private_key

Connection = Any
_LONG_S = 3.0  # as Flower's SuperNode waits while there is no message


def answer_until_ended(
    address: str, ca_file: str, key: ec.EllipticCurvePrivateKey, kib: int
) -> None:
    """One site: takes every instruction whole, and answers with an array of `kib` KiB."""
    polling = SuperNodePolling()
    keys = (key, key.public_key())
    with http_request_response(address, False, ca_file, keys) as connection:
        while True:
            instruction = connection[1]()
            if instruction is None:
                polling.sleep(_LONG_S)
            else:
                _answer(connection, *instruction, kib)


def _answer(connection: Connection, message: Message, tree: Any, kib: int) -> None:
    _, _, send, _, _, pull_object, push_object, confirm = connection
    run = message.metadata.run_id
    ids = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
    pull_objects(ids, lambda name: pull_object(run, name))
    confirm(run, message.metadata.message_id)
    numbers = np.random.default_rng(time.monotonic_ns())
    array = np.frombuffer(numbers.bytes(kib * 1024), np.uint8)
    reply = Message(RecordDict({"weights": ArrayRecord([array])}), reply_to=message)
    with no_object_id_recompute():
        reply.metadata.__dict__["_message_id"] = reply.object_id
        missing, session = send(reply, get_object_tree(reply), 0.0)
        push_objects(
            get_all_nested_objects(reply),
            lambda name, content: push_object(run, session, name, content),
            object_ids_to_push=missing,
        )


class _Counted:
    """Counts what goes out, and keeps the number in a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._plain = path, httpx.Client.send
        self._lock, self._count = threading.Lock(), 0

    def method(self) -> Callable[..., httpx.Response]:
        def send(client: httpx.Client, *args: Any, **options: Any) -> httpx.Response:
            with self._lock:
                self._count += 1
            return self._plain(client, *args, **options)

        return send

    def write(self) -> None:
        self._path.write_text(f"{self._count}\n", encoding="utf-8")


def main(address: str, ca_file: str, keys: str, kib: int, count_file: str) -> None:
    """A site for each key of the folder, until this process is ended."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    work_for((1, 1, 1))
    pull_objects_soon()
    send_large_chunks()
    counted = _Counted(Path(count_file))
    with replaced(httpx.Client, "send", counted.method()):
        for path in sorted(Path(keys).glob("*.key")):
            given = (address, ca_file, read_private_key(path), kib)
            threading.Thread(target=answer_until_ended, args=given, daemon=True).start()
        while True:
            counted.write()
            time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
