"""`python simulation/run.py`: the same as `asdnet-sim run`."""

import sys

from simulation.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:]])
