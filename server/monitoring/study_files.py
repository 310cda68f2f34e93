"""What MLflow gets of a study beside its numbers: report, tables, and the models.

Imported late, at a study's end: MLflow's models and the figures of a report take a second and
memory that no round needs.  A model is MLflow's flavour `python_function` by the name of a module
of ours: safetensors, JSON and a file MLmodel, no pickle and no code.
"""

import protocol.telemetry  # isort: skip

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Schema, TensorSpec

from protocol.files import write_text
from protocol.model_io import model_digest
from reporting.blocks import write_tables
from server.monitoring.federation_page import report_page, sections_of
from server.monitoring.metrics import RUN_TAG
from server.monitoring.model_card import KINDS, Kind, model_card, round_of, summary
from server.monitoring.run_folder import save_best, save_final
from server.monitoring.tracked import TrackedStudy
from server.rounds.record import StudyRecord

_LOADER = "asdnet_models.inference.pyfunc"
_DATA, _CARD, _MODELS = "data", "README.md", "model"
_ANY = -1
_ATTEMPTS = 2
_WEIGHTS_TAG, _KIND_TAG = "weights_sha256", "kind"


class StudyFiles:
    """One study's files, on their way to MLflow.

    Args:
        client: Of the tracking server.
        run: MLflow's, the study's parent run.
        mark: The run's name, which its versions in the registry are known by.
        record: The study.
        tags: What identifies it, for the models' cards and versions.
    """

    def __init__(
        self,
        client: MlflowClient,
        run: Any,
        mark: str,
        record: StudyRecord,
        tags: Mapping[str, str],
    ) -> None:
        self._client, self._mark = client, mark
        self._run_id, self._place = str(run.info.run_id), str(run.info.artifact_uri)
        self._record, self._tags = record, tags

    def send(self, study: TrackedStudy, *, register: bool) -> dict[str, Exception]:
        """Whatever can be sent; what went wrong with the rest, by what it is.

        Each kind of artifact store raises errors of its own kind, and none of them is worth more
        than a warning: the run's folder at the centre has the same models.
        """
        parts: dict[str, Callable[[], None]] = {
            "the report": partial(self._send_report, study),
            "the tables": partial(self._send_tables, study),
        }
        for kind in KINDS:
            if round_of(self._record, kind) is not None:
                parts[f"the {kind} model"] = partial(self._send_model, kind, register=register)
        failed: dict[str, Exception] = {}
        for _ in range(_ATTEMPTS):  # the answer to a request may have been lost
            failed = _failures(parts)
            parts = {name: parts[name] for name in failed}
        return failed

    def _send_report(self, study: TrackedStudy) -> None:
        self._client.log_text(self._run_id, report_page(study), "report.html")

    def _send_tables(self, study: TrackedStudy) -> None:
        with TemporaryDirectory() as folder:
            write_tables(sections_of(study), Path(folder))
            self._client.log_artifacts(self._run_id, folder, "tables")

    def _send_model(self, kind: Kind, *, register: bool) -> None:
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            save = save_best if kind == "best" else save_final
            save(folder / _DATA, self._record)
            digest = model_digest(folder / _DATA)
            tags = self._version_tags(kind, digest)
            write_text(folder / _CARD, model_card(self._record, kind, self._tags))
            write_model_file(folder, self._record, tags, self._run_id)
            self._client.log_artifacts(self._run_id, temporary, f"{_MODELS}/{kind}")
        if register:
            self._register(kind, tags)

    def _version_tags(self, kind: Kind, digest: str) -> dict[str, str]:
        record = self._record
        dsc = record.best_dsc if kind == "best" else record.rounds[-1].validation_dsc
        return {
            RUN_TAG: self._mark,
            _KIND_TAG: kind,
            "round": str(round_of(record, kind)),
            **({} if dsc is None else {"validation_dsc": f"{dsc:.6f}"}),
            "method": record.protocol.method.name,
            "protocol_sha256": record.protocol.digest,
            _WEIGHTS_TAG: digest,
            **self._tags,
        }

    def _register(self, kind: Kind, tags: Mapping[str, str]) -> None:
        """A version of the study's model, unless there is one of these weights, and its alias."""
        client, name = self._client, self._record.protocol.name
        try:
            client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            organs = ", ".join(self._record.protocol.organ_names)
            text = f"Segments {organs}; a version for the best and the final model of each run."
            client.create_registered_model(name, description=text)
        known = (RUN_TAG, _KIND_TAG, _WEIGHTS_TAG)
        same = [
            version
            for version in client.search_model_versions(f"name = '{name}'")
            if all(version.tags.get(tag) == tags[tag] for tag in known)
        ]
        version = same[0] if same else self._new_version(kind, tags)
        client.set_registered_model_alias(name, kind, version.version)

    def _new_version(self, kind: Kind, tags: Mapping[str, str]) -> Any:
        return self._client.create_model_version(
            self._record.protocol.name,
            f"{self._place.rstrip('/')}/{_MODELS}/{kind}",
            self._run_id,
            tags=dict(tags),
            description=summary(self._record, kind, self._tags),
            await_creation_for=0,
        )


def _failures(parts: Mapping[str, Callable[[], None]]) -> dict[str, Exception]:
    failed: dict[str, Exception] = {}
    for name, part in parts.items():
        try:
            part()
        except Exception as error:
            failed[name] = error
    return failed


def write_model_file(
    folder: Path, record: StudyRecord, tags: Mapping[str, str], run_id: str | None = None
) -> None:
    """MLmodel: how MLflow loads the folder, which arrays go in and come out, what they mean."""
    protocol = record.protocol
    one_scan = (1, 1, _ANY, _ANY, _ANY)
    signature = ModelSignature(
        inputs=Schema(
            [
                TensorSpec(np.dtype(np.float32), one_scan, "image"),
                TensorSpec(np.dtype(np.float64), (3,), "spacing_zyx_mm"),
            ]
        ),
        outputs=Schema(
            [
                TensorSpec(np.dtype(np.uint8), one_scan, "label"),
                TensorSpec(np.dtype(np.float32), one_scan, "confidence"),
            ]
        ),
    )
    model = Model(
        run_id=run_id,
        signature=signature,
        metadata={
            "axes": "batch, channel, Z, Y, X; identity direction in SimpleITK's LPS",
            "organs": {organ: protocol.organs[organ] for organ in protocol.organ_names},
            "spacing_xyz_mm": list(protocol.spacing_mm),
            "patch_xyz_voxels": list(protocol.patch_voxels),
            "study": dict(tags),
            "library": "asdnet_models",
        },
        model_size_bytes=sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
    )
    mlflow.pyfunc.add_to_model(model, _LOADER, data=_DATA, model_config={"device": "auto"})
    model.save(str(folder / "MLmodel"))
