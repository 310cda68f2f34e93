"""What a message may become in memory, looked at before it does.

Flower cuts arrays into chunks, sends equal chunks once, and names them by number, any number of
times: a chunk of 5 MiB can stand for terabytes.  Nothing in Flower 1.41 bounds what is pulled or
put together.  Here the objects are counted before they are pulled, their bytes as they come, and
what the arrays would take before one of them is made.
"""

import json
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
)

_DIVIDER = b"\0"
_ARRAY, _CHUNK = Array.__qualname__, "ArrayChunk"
# As many chunks as make 5 GiB at Flower's own size, and more names than any message of ours has.
MAX_OBJECTS = 1024
# Of everything but the arrays' values; numbers in it take 36 times their bytes in memory.
_MAX_OTHER_BYTES = 2**20


class BadMessageError(RuntimeError):
    """A message that would take more memory than any of the study's, or is none."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What one message may be, bytes of all its arrays together."""

    array_bytes: int

    def pull(
        self, object_ids: Sequence[str], pull_object_fn: Callable[[str], bytes], **options: Any
    ) -> dict[str, bytes]:
        """Stands for `pull_objects`.

        Raises:
            BadMessageError: If there are too many objects, or too many bytes in them.
        """
        ids = list(dict.fromkeys(object_ids))
        if len(ids) > MAX_OBJECTS:
            raise BadMessageError(f"has {len(ids)} objects, {MAX_OBJECTS} are allowed")
        taken = {True: 0, False: 0}
        most = {True: self.array_bytes + _MAX_OTHER_BYTES, False: _MAX_OTHER_BYTES}
        lock = threading.Lock()

        def pull(object_id: str) -> bytes:
            content = pull_object_fn(object_id)
            chunk = content.startswith(_CHUNK.encode())
            with lock:
                taken[chunk] += len(content)
                if taken[chunk] > most[chunk]:
                    what = "of values" if chunk else "beside its values"
                    raise BadMessageError(f"has over {most[chunk]} bytes {what}")
            return content

        return pull_objects(ids, pull, **options)

    def inflate(self, object_id: str, object_contents: dict[str, bytes], **options: Any) -> Message:
        """Stands for `inflate_object_from_contents`.

        Raises:
            BadMessageError: If its arrays would take too much, or it is no message.
        """
        try:
            contents = object_contents
            total = sum(_array_bytes(content, contents) for content in contents.values())
            if total > self.array_bytes:
                raise BadMessageError(
                    f"would take {total} bytes of values, {self.array_bytes} are allowed"
                )
            message = inflate_object_from_contents(object_id, contents, **options)
        except BadMessageError:
            raise
        except Exception as error:
            # The other side's bytes; Flower and its parsers may refuse them in any way.
            raise BadMessageError(f"cannot be read ({type(error).__name__})") from error
        if not isinstance(message, Message):
            raise BadMessageError(f"is a {type(message).__name__}, and no message")
        return message

    def pull_and_inflate(
        self,
        object_tree: ObjectTree,
        pull_object_fn: Callable[[str], bytes],
        confirm_object_received_fn: Callable[[str], None],
        *,
        return_type: type[Message],
    ) -> Message:
        """Stands for `pull_and_inflate_object_from_tree`.

        Raises:
            BadMessageError: As above.
        """
        ids = [tree.object_id for tree in iterate_object_tree(object_tree)]
        contents = self.pull(ids, pull_object_fn)
        confirm_object_received_fn(object_tree.object_id)
        return self.inflate(object_tree.object_id, contents)


def bound_pulls(bounds: Bounds, *modules: MutableMapping[str, Any]) -> None:
    """In these modules of Flower, given by their globals, messages are bounded from now on."""
    own = {
        "pull_objects": bounds.pull,
        "inflate_object_from_contents": bounds.inflate,
        "pull_and_inflate_object_from_tree": bounds.pull_and_inflate,
    }
    for module in modules:
        used = own.keys() & module.keys()
        if not used:
            raise RuntimeError("this version of Flower pulls messages in another way")
        module.update({name: own[name] for name in used})


def _array_bytes(content: bytes, contents: Mapping[str, bytes]) -> int:
    """What an array's values will take: its chunks, as often as it names them; 0 of all else."""
    kind, children, _ = get_object_head_values_from_object_content(content)
    if kind != _ARRAY:
        return 0
    chunks = json.loads(get_object_body(content, Array))["arraychunk_ids"]
    # All that follows the head; a copy of it is made only when the array is.
    sizes = [len(contents[child]) - contents[child].index(_DIVIDER) - 1 for child in children]
    return sum(sizes[chunk] for chunk in chunks)
