"""Data sets of a study as MLflow shows them: what sites have declared, and no more."""

import protocol.telemetry  # isort: skip

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException

from protocol.wire.metrics import COUNTS
from protocol.wire.reports import SiteFacts

_DIGEST_CHARACTERS = 36  # that MLflow takes


def log_site_data(client: MlflowClient, run_id: str, site: str, facts: SiteFacts) -> None:
    """A site's data set as an input of its run: what the site has declared, and no more.

    The digest is of the declaration: none of a scan leaves a site.
    """
    declared = {name: getattr(facts, name) for name in COUNTS}
    profile = {**declared, "refused": dict(facts.refused), "annotated": dict(facts.annotated)}
    _log_data(
        client,
        run_id,
        name=f"site {site}",
        digest=hashlib.sha256(_canonical(profile).encode()).hexdigest(),
        source={"kept_at": site, "digest_of": "the site's declaration of its cases"},
        profile=profile,
    )


def log_cohort(client: MlflowClient, run_id: str, name: str, digest: str) -> None:
    """All data of a simulation, which has a digest of them."""
    source = {"kept_at": "this machine", "digest_of": "the cohort's cases"}
    _log_data(client, run_id, name=name, digest=digest, source=source, profile={})


def _log_data(
    client: MlflowClient,
    run_id: str,
    *,
    name: str,
    digest: str,
    source: Mapping[str, Any],
    profile: Mapping[str, Any],
) -> None:
    data = Dataset(
        name=name,
        digest=digest[:_DIGEST_CHARACTERS],
        source_type="site",
        source=json.dumps(source),
        profile=_canonical(profile),
    )
    context = [InputTag("mlflow.data.context", "training")]
    with suppress(MlflowException):  # an old server has none; of one that is away others will tell
        client.log_inputs(run_id, datasets=[DatasetInput(data, context)])


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)
