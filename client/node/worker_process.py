"""The process that runs approved code; started by its path, with nothing of ours to be imported.

First it gives up what the code has no business with (`client.node.confinement`), then it loads the
code, from what it was sent; then it answers one message after the other.
"""

import json
import logging
import os
import socket
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_APP = "client.app"
_CODE_BYTES = 64 * 2**20
_ANY = 2**40  # the executor is trusted


def _importer() -> ModuleType:
    """The one module of ours that is found by its path."""
    path = Path(__file__).with_name("code_importer.py")
    spec = spec_from_file_location("_code_importer", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def main(connection: socket.socket) -> None:
    """Serve until the executor is gone."""
    loader = _importer()
    root = Path(__file__).resolve().parents[2]
    loader.CodeImporter(loader.files_below(root), str(root)).install()
    import protocol.telemetry  # noqa: F401
    from client.node import frames
    from client.node.confinement.limits import Walls, confine

    first = frames.receive(connection, _CODE_BYTES)
    setup = json.loads(first.header)
    confined = confine(Walls(**setup["walls"]))
    frames.send(connection, json.dumps(vars(confined)).encode())
    from client.node import answers, records
    from flower_compat.message_bytes import context_of, envelope_of
    from flower_compat.task_identity import work_for

    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    loader.CodeImporter(_unpacked(setup["files"], first.body).get, setup["origin"]).install()
    while True:
        frame = frames.receive(connection, _ANY, header=_ANY)
        asked = json.loads(frame.header)
        try:
            work_for(tuple(asked["task"]))
            ends = asked["envelope"], asked["envelope"] + asked["context"]
            message = envelope_of(bytes(frame.body[: ends[0]]))
            context = context_of(bytes(frame.body[ends[0] : ends[1]]))
            packed = [records.PackedRecord(**record) for record in asked["records"]]
            message.content = records.unpack_records(packed, frame.body[ends[1] :])
            del frame
            reply = _answer(message, context)
            header, body = answers.encode_answer(reply, asked["number"])
        except (Exception, SystemExit) as error:  # an app's exit is its own
            logging.getLogger(__name__).exception("the app could not be run")
            header, body = answers.encode_failure(asked["number"], "raised", type(error).__name__)
        frames.send(connection, header, body)


def _answer(message: Any, context: Any) -> object:
    import importlib

    reply: object = importlib.import_module(_APP).app(message=message, context=context)
    return reply


def _unpacked(files: list[tuple[str, int]], body: memoryview) -> dict[str, bytes]:
    content, start = {}, 0
    for path, size in files:
        content[path] = bytes(body[start : start + size])
        start += size
    return content


if __name__ == "__main__":
    os.umask(0o077)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        try:
            main(connection)
        except EOFError:  # the executor is gone
            sys.exit(0)
