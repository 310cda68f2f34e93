"""Flower's own FedAvg over ClientApps that send back what they were sent.

shapes.json in this folder lists the weights' tensors.  The ServerApp writes the time
at which each round begins, and that of the end, to the file named `stamps` in its configuration.
By itself (`python same_weights.py ROUNDS STAMPS`) it runs on Flower's simulation engine.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """No training: the weights as they came, through a state dict as in Flower's quickstart."""
    state = message.content.array_records["arrays"].to_torch_state_dict()
    content = RecordDict()
    content["arrays"] = ArrayRecord(state)
    content["metrics"] = MetricRecord({"num-examples": 1})
    return Message(content, reply_to=message)


class Stamped(FedAvg):
    """FedAvg that notes when a round begins."""

    def __init__(self, stamps: Path) -> None:
        super().__init__(fraction_evaluate=0.0)
        self._stamps = stamps

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """As FedAvg's."""
        stamp(self._stamps)
        return list(super().configure_train(server_round, arrays, config, grid))


def stamp(path: Path) -> None:
    """One more line with the time, in seconds."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{time.time():.3f}\n")


def weights() -> dict[str, torch.Tensor]:
    """Random tensors of the shapes that are asked for."""
    shapes = json.loads((Path(__file__).parent / "shapes.json").read_text())
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def serve(grid: Grid, rounds: int, stamps: Path) -> None:
    """All rounds."""
    Stamped(stamps).start(grid, ArrayRecord(weights()), num_rounds=rounds)
    stamp(stamps)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """A run on a SuperLink."""
    serve(grid, int(context.run_config["rounds"]), Path(str(context.run_config["stamps"])))


def simulate(rounds: int, stamps: Path) -> None:
    """The same on the simulation engine, started as this project starts it."""
    from flwr.simulation import run_simulation

    app = ServerApp()
    app.main()(lambda grid, _: serve(grid, rounds, stamps))
    resources: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0.0}
    start: dict[str, Any] = {"num_cpus": 2}
    backend = {"client_resources": resources, "init_args": start}
    run_simulation(app, client_app, 2, backend_config=backend)


if __name__ == "__main__":
    simulate(int(sys.argv[1]), Path(sys.argv[2]))
