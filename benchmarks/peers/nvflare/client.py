"""NVFLARE's client: it sends back what it was sent, and notes when it is sent something."""

import sys
import time

import nvflare.client as flare


def main(stamps: str) -> None:
    """All rounds."""
    flare.init()
    site = flare.get_site_name()
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        with open(f"{stamps}.{site}", "a", encoding="utf-8") as file:
            file.write(f"{time.time():.3f}\n")
        sent = flare.FLModel(
            params=model.params, metrics={"accuracy": 0.0}, meta={"NUM_STEPS_CURRENT_ROUND": 1}
        )
        flare.send(sent)


if __name__ == "__main__":
    main(sys.argv[1])
