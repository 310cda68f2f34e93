"""The rooms of the house, for every test that reads their source."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = (
    "asdnet_models",
    "client",
    "flower_compat",
    "protocol",
    "reporting",
    "server",
    "simulation",
)
