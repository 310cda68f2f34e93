"""The label values of a folder's organs: by an option, its own description, or a study's file."""

from collections.abc import Mapping
from pathlib import Path

from asdnet_models.organs import parse_organs
from protocol.config.study import ProtocolError
from protocol.config.study_file import read_study


def organs_of(
    data: Path | None, organs: str | None, option: str, study: Path | None = None
) -> dict[str, int] | None:
    """The label values of a folder: by --organs, its dataset.json, PROMISE12's, or the study's.

    Returns:
        None for the phantom, whose organs are fixed.

    Raises:
        ProtocolError: If they are missing, not valid, given for the phantom, or others than
            dataset.json says.
        ScanError: If dataset.json is needed and says no organs.
    """
    from client.data.folder.dataset_json import read_dataset_json
    from simulation.layouts import PROMISE12_ORGANS, is_promise12

    if data is None:
        if organs is not None:
            raise ProtocolError(f"--organs: goes with {option}; the phantom's organs are fixed")
        return None
    if organs is None and is_promise12(data):
        return dict(PROMISE12_ORGANS)
    described = read_dataset_json(data)
    if organs is None and described is not None:
        return described.organs()
    if organs is None:
        written = _organs_in(study)
        if written is None:
            raise ProtocolError(
                f"{option}: needs --organs with the label values of that folder, as "
                "anterior=1,posterior=2, a --study that names them, or a dataset.json that says "
                "them"
            )
        return written
    try:
        given = parse_organs(organs)
    except ValueError as error:
        raise ProtocolError(f"--organs: {error}") from None
    if described is not None and (said := described.contradiction(given)):
        raise ProtocolError(
            f"--organs: says {as_text(given)}, but {data / 'dataset.json'} says {said}; look into "
            "the label maps, give --organs that are right, and correct dataset.json or take it away"
        )
    return given


def refuse_other_organs(study: Path | None, organs: dict[str, int]) -> None:
    """A study's file may name the organs too; without --organs nobody has said which are meant."""
    written = _organs_in(study)
    if written is not None and written != organs:
        raise ProtocolError(
            f"{study}: organs are {as_text(written)}, the folder's are {as_text(organs)}; "
            "make them equal, or say by --organs which are meant"
        )


def _organs_in(study: Path | None) -> dict[str, int] | None:
    """The organs that a study's file names; None where it leaves them out."""
    content = read_study(study) if study else None
    return dict(content.organs) if content and "organs" in content.model_fields_set else None


def as_text(organs: Mapping[str, int]) -> str:
    """As `--organs` takes them."""
    return ",".join(f"{name}={value}" for name, value in organs.items())
