"""A grid of sites whose update, made beforehand, is read from a file for each reply."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from protocol.wire.messages import pack_facts, pack_training
from protocol.wire.reports import SiteFacts, TrainReport
from server.rounds.record import StudyRecord

_FACTS = SiteFacts(labelled=2, unlabelled=0, validation=0, test=0)
_REPORT = TrainReport(labelled=2, unlabelled=0, steps=1, seconds=1.0)


class FileGrid(Grid):
    """`count` sites that each answer when they are asked for the answer."""

    def __init__(self, count: int, record: StudyRecord, folder: Path) -> None:
        self._count, self._protocol, self._folder = count, record.protocol, folder
        self._asked: dict[str, Message] = {}
        self._heads: dict[str, tuple[str, str, tuple[int, ...], str]] = {}
        segmenter = {name: weight * 1.01 for name, weight in record.segmenter.items()}
        update = pack_training("S", _REPORT, record.protocol, segmenter, record.confidence)
        self._metrics = update["metrics"]
        for network, arrays in update.items():
            if isinstance(arrays, ArrayRecord):
                ((key, array),) = arrays.items()
                (folder / network).write_bytes(array.data)
                self._heads[network] = (key, array.dtype, array.shape, array.stype)

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *_: Any, **__: Any) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return range(1, self._count + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            names.append(f"m{len(self._asked)}")
            message.metadata.__dict__["_message_id"] = names[-1]
            self._asked[names[-1]] = message
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._answer(self._asked.pop(name)) for name in message_ids]

    def _answer(self, message: Message) -> Message:
        site = f"S{message.metadata.dst_node_id}"
        content = pack_facts(site, _FACTS, self._protocol)
        if message.metadata.message_type == MessageType.TRAIN:
            content["metrics"] = self._metrics
            for network, (key, dtype, shape, stype) in self._heads.items():
                array = Array(dtype, shape, stype, (self._folder / network).read_bytes())
                content[network] = ArrayRecord(array_dict={key: array})
        return Message(RecordDict(dict(content)), reply_to=message)
