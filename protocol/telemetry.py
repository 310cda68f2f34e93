"""Switches off the usage reports of the libraries.

Import this module before Flower, Ray, MLflow or MONAI (which imports MLflow): they read the
environment when they are imported.  A value that the user has set is left alone.
"""

import os

_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


def switch_off() -> None:
    """Set what is not set."""
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)


switch_off()
