"""`python client/run.py --site A`: the same as `asdnet-site run --site A`."""

import sys

from client.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:]])
