"""How this program deals with MLflow's client: briefly, quietly, and without its addresses."""

import protocol.telemetry  # isort: skip

import logging
import os

import mlflow.store.db.utils
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

# MLflow reads these at every request.  A value that the user has set is left alone.
for _name, _value in {
    # A lost round is sent again by us, who look first; MLflow would repeat the request blindly,
    # and "create a run" answered too late would make two.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # A proxy may say: come back in an hour.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # A link for each site, in the middle of the terminal's progress.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A bar for each upload, likewise.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)

# Ten attempts at a database that is away would hold up the study for 100 s; no setting exists.
mlflow.store.db.utils.MAX_RETRY_COUNT = 2

_LOG_LEVELS = {
    # Database migrations, logged step by step at INFO.
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    # An outage, with a traceback or a line for every request of every round; we log it once.
    "mlflow.store.db.utils": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}
# OSError has the errors of sockets and of requests; an ImportError is a missing database driver.
OUTAGE = (MlflowException, SQLAlchemyError, OSError, ImportError)


def quieten() -> None:
    """Keep MLflow's own log to what a user can act on."""
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def reason(error: BaseException) -> str:
    """The name of the transport's error; MLflow's own words only where it refuses.

    Never the transport's words: they have the address, which may have a password.
    """
    while isinstance(error, MlflowException) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, MlflowException):
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    return type(error).__name__
