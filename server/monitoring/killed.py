"""A run that a person has ended is KILLED in MLflow; its ServerApp is no longer there to say so."""

from server.monitoring.metrics import RUN_TAG, SITE_TAG, STATE_TAG
from server.monitoring.mlflow_client import OUTAGE, quieten
from server.monitoring.tracking import open_client

_MOST_RUNS = 5000


def close_as_killed(uri: str, name: str) -> bool:
    """Mark what is still open of a study's runs; finished ones stay so.

    Args:
        uri: MLflow's tracking URI.
        name: The run's name at the centre.

    Returns:
        False: MLflow cannot be reached.
    """
    quieten()
    try:
        client = open_client(uri)
        experiments = [item.experiment_id for item in client.search_experiments()]
        ours = f"tags.`{RUN_TAG}` = '{name}'"
        for run in client.search_runs(experiments, ours, max_results=_MOST_RUNS):
            if run.info.status in ("RUNNING", "SCHEDULED"):
                if SITE_TAG not in run.data.tags:
                    client.set_tag(run.info.run_id, STATE_TAG, "ended by a person")
                client.set_terminated(run.info.run_id, "KILLED")
    except OUTAGE:
        return False
    return True
