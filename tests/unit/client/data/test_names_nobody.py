"""What a site keeps beside its scans: cache, states, page and JSON hold no patient's identifier."""

import json
from collections.abc import Callable
from pathlib import Path

import bad_cases as bad
import dicom_phantoms as ph
import numpy as np
import SimpleITK as sitk
import yaml
from click.testing import CliRunner

from asdnet_models.networks import build_confidence, build_segmenter
from client.cli import app
from client.data.dataset import prepare_site
from client.training.round import train_round
from protocol.config.schedule import plan_round
from protocol.config.site import read_site
from protocol.config.study import StudyProtocol
from protocol.wire.weights import wire_weights

MakeProtocol = Callable[..., StudyProtocol]

# Of dicom_phantoms' header, of files' and folders' names, and of free text in NIfTI.
NOBODY = ("Doe", "Jane", "4711", "19500101", "Muster", "1951-03-04", "Mueller", "t2_tse_tra")


def make_site(folder: Path, protocol: StudyProtocol) -> Path:
    """A DICOM case, a NIfTI and a NRRD, all of them full of names; and a bad one."""
    root = folder / "Mueller_study" / "A"
    root.mkdir(parents=True)
    location = bad.Place(root=root, name="Muster_Max_1951-03-04", seed=1)
    ph.write_classic(location.image("") / "Doe_Jane" / "1.2.3", ph.phantom((9, 20, 24)))
    label = np.zeros((9, 20, 24), np.uint8)
    label[2:6, 4:9, 4:9], label[2:6, 11:16, 4:9] = 2, 5
    grid = ph.phantom((9, 20, 24)).image
    written = sitk.GetImageFromArray(label)
    written.CopyInformation(grid)
    bad.save(written, location.label(".nrrd"))
    other = bad.Place(root=root, name="4711_Mueller", seed=2)
    image = sitk.GetImageFromArray(np.random.default_rng(2).normal(size=(9, 20, 24)))
    image.CopyInformation(grid)
    for key in ("descrip", "aux_file", "0010|0010", "PatientName"):
        image.SetMetaData(key, "Doe^Jane")
    bad.save(image, other.image(".nii.gz", "Un"))
    again = bad.Place(root=root, name="Jane_Doe_2", seed=3)
    bad.save(image * 2, again.image(".nrrd", "Un"))
    bad.Place(root=root, name="Doe_cut", seed=4).image(".nii.gz", "Un").write_bytes(b"Doe")
    facts = {"site": "A", "data": str(root), "cache": "cache", "state": "state"}
    (folder / "A.yaml").write_text(yaml.safe_dump(facts))
    (folder / "study.yaml").write_text(yaml.safe_dump(protocol.model_dump(mode="json")))
    return folder


def test_cache_states_page_and_json(tmp_path: Path, make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(contract={"max_refused_share": 0.5})
    folder = make_site(tmp_path, protocol)
    config = read_site(folder / "A.yaml")
    data = prepare_site(config, protocol)
    assert (len(data.labelled), len(data.unlabelled), len(data.refused)) == (1, 2, 1)
    segmenter, confidence = build_segmenter(protocol), build_confidence(protocol)
    weights = [wire_weights(network.state_dict()) for network in (segmenter, confidence)]
    train_round(config, protocol, plan_round(protocol, 1), data, *weights, run="tiny-1")
    options = ["--site", "A", "--configs", str(folder), "--study", str(folder / "study.yaml")]
    shown = CliRunner().invoke(app, ["check", *options, "--workers", "1", "--names"])
    piped = CliRunner().invoke(app, ["check", *options, "--workers", "1", "--no-page"])
    told = CliRunner().invoke(app, ["check", *options, "--workers", "1", "--json"])
    assert (shown.exit_code, told.exit_code) == (1, 1)
    assert json.loads(told.stdout)["summary"]["header_identifiers"]["PatientName"] >= 1
    files = [
        path for path in folder.rglob("*") if path.is_file() and config.data not in path.parents
    ]
    kept = [path for path in files if path.suffix != ".yaml"]
    assert {path.suffix for path in kept} >= {".npy", ".json", ".key", ".html"}
    printed = {"json": told.stdout.encode(), "a pipe": piped.stdout.encode()}
    contents = {path.name: path.read_bytes() for path in kept} | printed
    for name, content in contents.items():
        # The page and the JSON name the header's fields, which is the point of it.
        content = content.replace(b"PatientName", b"").replace(b"PatientBirthDate", b"")
        for word in NOBODY:
            assert word.encode() not in content, (name, word)
    for path in folder.rglob("*"):
        if config.data not in path.parents and path.name not in ("Mueller_study", "A"):
            assert not any(word in path.name for word in NOBODY)


def test_the_same_words_are_in_the_sources(tmp_path: Path, make_protocol: MakeProtocol) -> None:
    """Else the test above would find nothing because there is nothing."""
    folder = make_site(tmp_path, make_protocol())
    contents = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    names = "".join(str(path) for path in folder.rglob("*"))
    for word in NOBODY:
        assert word.encode() in contents or word in names, word
