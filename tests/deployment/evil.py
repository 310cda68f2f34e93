"""What a hostile hospital could run: its SuperNode is registered, its own code is of its making.

Appended to a copy of client/node/executor.py: no guard, and replies spoiled as the file EVIL says.
"""

import os as _os
import pickle as _pickle
from pathlib import Path as _Path

import numpy as _np
import torch as _torch
from flwr.app import Array as _Array
from flwr.app import ArrayRecord as _ArrayRecord
from flwr.app import ConfigRecord as _ConfigRecord
from flwr.app import Error as _Error
from flwr.app import Message as _Message
from flwr.app import MetricRecord as _MetricRecord

from client.node.approval import ApprovedCode
from protocol.agreement.bundle import installed_bundle
from protocol.wire.weights import pack_weights as _pack
from protocol.wire.weights import raw_weights as _raw

_FILES = {
    "a pickle": lambda: _pickle.dumps(_os.getcwd),
    # One chunk, which is sent once and named 40 times.
    "200 MiB of zeros": lambda: bytes(200 * 2**20),
}


def _spoiled(reply, instruction):  # type: ignore[no-untyped-def]
    mode = _Path(_os.environ["EVIL"]).read_text(encoding="utf-8").strip()
    if reply.has_error() or instruction.metadata.message_type != "train":
        return reply
    content = reply.content
    weights = _raw(content, "segmenter")
    sent = _raw(instruction.content, "segmenter")
    name = sorted(weights)[0]
    if mode == "NaN":
        weights[name][...] = float("nan")
    elif mode == "wrong shapes":
        weights[name] = _torch.zeros(3, 3)
    elif mode == "10x norm":
        weights = {n: sent[n] + 10 * (weights[n] - sent[n]) for n in weights}
    content["segmenter"] = _pack(weights)
    if mode == "extra record":
        content["scans"] = _ArrayRecord([_np.zeros((8, 8, 8), _np.float32)])
    elif mode == "a metric of 24 MB":
        # One list: as many metrics of their own take longer to make than a round waits.
        content["metrics"] = _MetricRecord({"scan": [0.0] * 3_000_000})
    elif mode in _FILES:
        data = _FILES[mode]()
        content["segmenter"] = _ArrayRecord(
            array_dict={"safetensors": _Array("uint8", (len(data),), "numpy.ndarray", data)}
        )
    elif mode == "another site's name":
        content["site"] = _ConfigRecord({"name": "A"})
    elif mode == "a path beside the name":
        content["site"] = _ConfigRecord({"name": "C", "from": "/data/Mueller_Hans_1950.nii.gz"})
    elif mode == "a metric of its own":
        content["metrics"]["volume_of_Mueller_Hans_ml"] = 41.5
    content["metrics"].update(_NUMBERS.get(mode, {}))
    return reply


_NUMBERS = {
    "counts it did not declare": {"labelled": 900.0},
    "a loss without end": {"loss/total/sum": 1e308},
}


def _answer(reply, instruction, *_):  # type: ignore[no-untyped-def]
    mode = _Path(_os.environ["EVIL"]).read_text(encoding="utf-8").strip()
    if mode == "an error text" and instruction.metadata.message_type == "train":
        text = "\x1b[2J[bold]Mueller Hans[/] [/nothing] <script>x</script>\r\n" * 2**14
        return _Message(_Error(code=2, reason=text), reply_to=instruction)
    return _spoiled(reply, instruction)


def _admitted(self, message, _):  # type: ignore[no-untyped-def]
    """Whatever the centre sends, this site runs its own, and signs as if it had run the other."""
    study = self._guard.recognise(message)
    self._guard.admit(study, message, study.manifest.code)
    return study, ApprovedCode(self._installed, installed_bundle().files)


def _enough_cases(*_):  # type: ignore[no-untyped-def]
    """Says nothing of its own reply."""


filter_reply = _answer
require_enough_cases = _enough_cases
Executor._admitted = _admitted  # type: ignore[name-defined]  # noqa: F821
