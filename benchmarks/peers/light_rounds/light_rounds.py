"""Rounds of this project's own exchange, with light sites: random bytes down, a small answer up.

The ServerApp adds a line for each round, its seconds and the answers, to the file named `rounds` in
its configuration.  No site runs the ClientApp: `benchmarks.light_sites` answers in its place.
"""

import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from flower_compat.chunks import send_large_chunks
from flower_compat.grid import PromptGrid
from flower_compat.polling import pull_objects_soon
from server.rounds.channel import Channel, Exchange
from server.rounds.watchers import Watcher

client_app = ClientApp()
server_app = ServerApp()

_LONGEST_S = 300.0
_LARGEST_REPLY = 2**28


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Rounds without end; the run is stopped from outside."""
    config = context.run_config
    pull_objects_soon()
    send_large_chunks()
    channel = Channel(
        grid=PromptGrid(grid, _LARGEST_REPLY),
        run="light",
        timeout_s=_LONGEST_S,
        absence_s=_LONGEST_S,
        audit=None,
        watcher=Watcher(),
    )
    while len(channel.roster.online()) < int(config["sites"]):
        time.sleep(1)
    numbers = np.random.default_rng(1)
    number = 0
    while True:
        number += 1
        answers: list[str] = []

        def accept(reply: Message, answers: list[str] = answers) -> None:
            answers.append(reply.metadata.message_id)

        # Other bytes in each round: Flower sends what it has sent before no second time.
        array = np.frombuffer(numbers.bytes(int(config["kib"]) * 1024), np.uint8)
        content = RecordDict({"weights": ArrayRecord([array])})
        nodes = sorted(channel.roster.online())
        started = time.monotonic()
        exchange = Exchange(channel, number, MessageType.TRAIN, accept)
        exchange.request(dict.fromkeys(nodes, content))
        with Path(str(config["rounds"])).open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic() - started:.3f} {len(answers)} {len(nodes)}\n")
        time.sleep(float(config["pause"]))
