"""`asdnet-site predict`: what it writes, what it leaves alone, and what it never tells."""

import csv
import gzip
import io
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result
from PIL import Image
from pydicom import dcmread

import client.segmenting.batch
import client.segmenting.results
from asdnet_models.networks import build_confidence, build_segmenter
from client.cli import app
from client.data.dicom.labels.segments import read_segments
from client.data.dicom.series import find_series
from client.data.files.geometry import same_grid_error
from client.data.files.image_io import read_image
from client.data.pseudonyms import Pseudonyms, read_or_make_key
from client.segmenting.results import CaseResult, read_result, write_confidence
from protocol.config.study import StudyProtocol
from protocol.model_io import model_digest, save_model

MakeProtocol = Callable[..., StudyProtocol]

EDGE = 12
SECRET = "Mustermann"  # pragma: allowlist secret
FILES = ["confidence.nii.gz", "overview.png", "result.json", "segmentation.nii.gz"]


def scan(seed: int = 0) -> sitk.Image:
    voxels = np.random.default_rng(seed).normal(100, 20, (EDGE, EDGE + 2, EDGE + 4))
    image = sitk.GetImageFromArray(voxels.astype(np.float32))
    image.SetSpacing((2.0, 2.0, 2.5))
    image.SetOrigin((3.0, -4.0, 5.0))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    return image


def dicom_series(
    folder: Path, *, modality: str = "MR", series: str = "1.2.3.4.5", description: str = "t2"
) -> None:
    folder.mkdir(parents=True)
    image = sitk.Cast(scan(4), sitk.sitkInt16)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    axes = image.GetDirection()
    for z in range(image.GetSize()[2]):
        cut = image[:, :, z]
        position = image.TransformIndexToPhysicalPoint((0, 0, z))
        for tag, value in {
            "0008|0060": modality,
            "0010|0010": f"{SECRET}^Erika",
            "0010|0020": f"{SECRET}-4711",
            "0008|0080": f"{SECRET} Hospital",
            "0008|103e": f"{description} {SECRET}",
            "0018|0050": "2.5",
            "0020|000d": "1.2.3.4",
            "0020|000e": series,
            "0008|0018": f"{series}.{z + 1}",
            "0020|0052": "1.2.3.4.9",
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(f"{mm:g}" for mm in position),
            "0020|0037": "\\".join(str(axes[i]) for i in (0, 3, 6, 1, 4, 7)),
        }.items():
            cut.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{SECRET}{z}.dcm"))
        writer.Execute(cut)


class Bench:
    """A model, some scans, and the command."""

    def __init__(self, folder: Path, protocol: StudyProtocol) -> None:
        self.folder = folder
        self.protocol = protocol
        self.model = folder / "model"
        self.scans = folder / "scans"
        self.out = folder / "out"
        self.key = folder / "settings" / "asdnet" / "pseudonym.key"
        torch.manual_seed(3)
        save_model(
            self.model,
            protocol,
            build_segmenter(protocol).state_dict(),
            build_confidence(protocol).state_dict(),
            {"round": 1},
        )
        self.scans.mkdir()

    def add(self, name: str, seed: int = 0) -> Path:
        path = self.scans / name
        sitk.WriteImage(scan(seed), str(path))
        return path

    def run(self, *options: str, inputs: tuple[Path, ...] = ()) -> Result:
        names = [str(path) for path in inputs or (self.scans,)]
        given = ["--model", str(self.model), *names, "--out", str(self.out), "--device", "cpu"]
        return CliRunner().invoke(app, ["predict", *given, *options])

    def case(self, name: str) -> Path:
        return self.out / Pseudonyms(read_or_make_key(self.key)).of(name)

    def result(self, name: str) -> CaseResult:
        found = read_result(self.case(name))
        assert found is not None
        return found

    def summary(self) -> list[dict[str, str]]:
        with (self.out / "summary.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def bench(
    make_protocol: MakeProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    yield Bench(tmp_path, make_protocol())


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# ---- what is written ----------------------------------------------------------------------------


def test_a_case_s_folder_and_its_grid(bench: Bench) -> None:
    path = bench.add("014.nii.gz")
    ran = bench.run("--formats", "nifti", inputs=(path,))
    assert ran.exit_code == 0, ran.output
    assert names(bench.out) == sorted([bench.case("014").name, "summary.csv"])
    assert names(bench.case("014")) == FILES
    original = sitk.ReadImage(str(path))
    label = sitk.ReadImage(str(bench.case("014") / "segmentation.nii.gz"))
    confidence = sitk.ReadImage(str(bench.case("014") / "confidence.nii.gz"))
    for image in (label, confidence):
        assert image.GetSize() == original.GetSize()
        np.testing.assert_allclose(image.GetSpacing(), original.GetSpacing(), atol=1e-5)
        np.testing.assert_allclose(image.GetOrigin(), original.GetOrigin(), atol=1e-5)
        np.testing.assert_allclose(image.GetDirection(), original.GetDirection(), atol=1e-5)
    assert set(np.unique(sitk.GetArrayFromImage(label))) <= {0, 2, 5}
    found = sitk.GetArrayFromImage(confidence)
    assert 0 <= found.min() < found.max() <= 1


def test_the_result_says_what_was_found_and_by_what(bench: Bench) -> None:
    bench.add("014.nii.gz")
    assert bench.run("--formats", "nifti,rtstruct").exit_code == 0
    result = json.loads((bench.case("014") / "result.json").read_text())
    assert result["notice"] == "AI-made, not for clinical use"
    assert result["case"] == bench.case("014").name
    assert result["model_sha256"] == model_digest(bench.model)
    assert result["protocol_sha256"] == bench.protocol.digest
    assert result["confidence_map"] == "confidence network"
    assert result["files"] == [name for name in FILES if name != "result.json"]
    assert result["not_written"] == {
        "rtstruct": "the scan is no DICOM series, whose header it would need"
    }
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(bench.case("014") / "segmentation.nii.gz")))
    for organ, value in {"ball": 2, "rod": 5}.items():
        count = int((label == value).sum())
        assert result["organs"][organ]["volume_ml"] == pytest.approx(count * 0.01)
        assert result["organs"][organ]["value"] == value
        assert (result["organs"][organ]["mean_confidence"] is None) == (count == 0)


def test_the_summary_begins_with_what_failed_and_what_is_least_sure(bench: Bench) -> None:
    for number in range(3):
        bench.add(f"{number}.nii.gz", number)
    (bench.scans / "broken.nii.gz").write_bytes(b"no scan")
    assert bench.run("--formats", "nifti").exit_code == 1
    rows = bench.summary()
    assert len(rows) == 4
    assert (rows[0]["case"], rows[0]["status"]) == (bench.case("broken").name, "failed")
    assert rows[0]["failed_rule"] == "damaged"
    lowest = [bench.result(str(number)).least_confidence for number in range(3)]
    by_pseudonym = {bench.case(str(n)).name: value for n, value in enumerate(lowest)}
    assert [by_pseudonym[row["case"]] for row in rows[1:]] == sorted(lowest)
    assert rows[1]["model_sha256"] == model_digest(bench.model)
    assert "ball_volume_ml" in rows[1]


def test_a_dicom_source_gets_dicom_files_of_its_own_patient(bench: Bench) -> None:
    dicom_series(bench.scans / "014" / "t2")
    dicom_series(bench.scans / "014" / "dwi", series="1.2.3.4.6", description="dwi")
    ran = bench.run("--series", "t2*", "--names", inputs=(bench.scans / "014",))
    assert ran.exit_code == 0, ran.output
    folder = bench.case("014")
    assert names(folder) == sorted([*FILES, "segmentation.seg.dcm", "segmentation.rtstruct.dcm"])
    assert bench.result("014").not_written == {}
    label = sitk.ReadImage(str(folder / "segmentation.nii.gz"))
    image = read_image(bench.scans / "014" / "t2", case="014")
    assert same_grid_error(label, image) is None
    series = find_series(bench.scans / "014" / "t2", location="case 014")
    masks = read_segments(folder / "segmentation.seg.dcm", image, location="it", series=series)
    for organ, value in bench.protocol.organs.items():
        np.testing.assert_array_equal(masks[organ], sitk.GetArrayFromImage(label) == value)
    for name in ("seg", "rtstruct"):
        header = pydicom.dcmread(folder / f"segmentation.{name}.dcm")
        assert header.PatientID == f"{SECRET}-4711"
        assert header.StudyInstanceUID == "1.2.3.4"


def test_a_side_product_that_cannot_be_made_costs_a_status_only_where_it_was_asked_for(
    bench: Bench,
) -> None:
    dicom_series(bench.scans / "014")
    for file in (bench.scans / "014").iterdir():
        header = pydicom.dcmread(file)
        header.FrameOfReferenceUID = ""
        header.save_as(file)
    for options, status in ((), 0), (("--formats", "nifti,seg"), 1), (("--formats", "nifti"), 0):
        ran = bench.run(*options, inputs=(bench.scans / "014",))
        assert ran.exit_code == status, ran.output
        assert names(bench.case("014")) == FILES
        assert ("no seg: its series names no frame of reference" in ran.stderr) == (
            options != ("--formats", "nifti")
        )
    assert bench.run("--formats", "seg,nifti", inputs=(bench.scans / "014",)).exit_code == 1
    assert bench.summary()[0]["not_written"] == "seg"


def test_what_is_seldom_meant_is_on_the_case_s_line_and_in_its_result(bench: Bench) -> None:
    path = bench.add("014.nii.gz")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:256] = bytes(4)  # qform_code, sform_code (nifti1.h)
    path.write_bytes(gzip.compress(bytes(content)))
    ran = bench.run("--formats", "nifti", inputs=(path,))
    assert ran.exit_code == 0, ran.output
    (note,) = bench.result("014").notes
    assert "codes" in note
    assert f"note: {note}" in " ".join(ran.stderr.split())


def test_another_modality_is_refused(bench: Bench) -> None:
    dicom_series(bench.scans / "014", modality="CT")
    ran = bench.run()
    assert ran.exit_code == 1
    assert "is of modality CT, but the model was trained on MR" in ran.stderr
    assert bench.summary()[0]["failed_rule"] == "modality"


def test_confidence_is_a_byte_a_voxel_with_a_slope(tmp_path: Path) -> None:
    values = np.linspace(0, 1, EDGE * (EDGE + 2) * (EDGE + 4), dtype=np.float32)
    values = values.reshape(EDGE, EDGE + 2, EDGE + 4)
    write_confidence(values, scan(), tmp_path / "c.nii.gz")
    content = gzip.decompress((tmp_path / "c.nii.gz").read_bytes())
    assert struct.unpack_from("<h", content, 70) == (2,)  # unsigned bytes
    assert struct.unpack_from("<f", content, 112)[0] == pytest.approx(1 / 255)
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "c.nii.gz")))
    np.testing.assert_allclose(read, values, atol=0.5 / 255 + 1e-6)
    assert names(tmp_path) == ["c.nii.gz"]


# ---- again, and what fails ----------------------------------------------------------------------


def made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that are segmented from now on."""
    found: list[str] = []
    make = client.segmenting.batch.make_result

    def note(source: Any, *args: Any, **kwargs: Any) -> CaseResult:
        found.append(source.name)
        return make(source, *args, **kwargs)

    monkeypatch.setattr(client.segmenting.batch, "make_result", note)
    return found


def test_what_is_there_stays_until_something_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add("a.nii.gz", 1)
    bench.add("b.nii.gz", 2)
    segmented = made(bench, monkeypatch)

    def now(*options: str) -> list[str]:
        segmented.clear()
        assert bench.run("--formats", "nifti", *options).exit_code == 0
        return list(segmented)

    assert now() == ["a", "b"]
    assert now() == []
    assert [row["status"] for row in bench.summary()] == ["kept", "kept"]
    assert now("--again") == ["a", "b"]
    bench.add("a.nii.gz", 3)
    assert now() == ["a"]
    (bench.case("b") / "segmentation.nii.gz").unlink()
    assert now() == ["b"]
    (bench.case("b") / "result.json").write_text("{")
    assert now() == ["b"]
    assert now("--largest-component") == ["a", "b"]
    weights = build_segmenter(bench.protocol).state_dict()
    save_model(bench.model, bench.protocol, weights, None, {"round": 2})
    assert now("--largest-component") == ["a", "b"]
    assert bench.result("a").confidence_map == "maximum softmax"
    assert bench.result("a").largest_component


def test_one_bad_case_stops_no_other(bench: Bench) -> None:
    bench.add("a.nii.gz", 1)
    (bench.scans / "b.nii.gz").write_bytes(b"no scan")
    bench.add("c.nii.gz", 2)
    ran = bench.run("--names", "--formats", "nifti")
    assert ran.exit_code == 1
    assert len(names(bench.out)) == 3
    assert f"2/3 {bench.case('b').name} (b): failed: case b: image b.nii.gz" in ran.stderr
    assert "2 segmented, 0 there already, 1 failed" in ran.stderr
    assert "Traceback" not in ran.output


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/home/x"), "(no space left on device)"),
        (MemoryError(), "out of memory: the scan is too large"),
        (torch.OutOfMemoryError("x"), "give --device cpu"),
        (KeyError("/home/x"), "this program did not expect (KeyError in "),
        (KeyError("/home/x"), "unexpected.log; please report it"),
    ],
)
def test_nothing_half_written_stays_and_an_older_result_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    bench.add("a.nii.gz")
    ran = bench.run("--formats", "nifti")
    assert ran.exit_code == 0, ran.output
    before = {name: (bench.case("a") / name).read_bytes() for name in FILES}

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(client.segmenting.results, "draw_overview", fails)
    ran = bench.run("--formats", "nifti", "--again")
    assert ran.exit_code == 1
    assert said in ran.stderr
    assert "/home/x" not in ran.output
    assert names(bench.out) == sorted([bench.case("a").name, "summary.csv"])
    assert {name: (bench.case("a") / name).read_bytes() for name in FILES} == before


# ---- the command --------------------------------------------------------------------------------


def test_json_is_whole_and_names_nobody(bench: Bench) -> None:
    bench.add(f"{SECRET}.nii.gz")
    (bench.scans / "b.nii.gz").write_bytes(b"no scan")
    ran = bench.run("--json", "--names", "--formats", "nifti")
    assert ran.exit_code == 1
    told = json.loads(ran.stdout)
    assert [case["status"] for case in told["cases"]] == ["failed", "done"]
    assert told["cases"][0]["rule"] == "damaged"
    assert CaseResult.model_validate(told["cases"][1]["result"]) == bench.result(SECRET)
    assert SECRET not in ran.stdout
    assert SECRET in ran.stderr


def test_a_site_s_file_gives_key_series_and_device(bench: Bench, tmp_path: Path) -> None:
    bench.add("a.nii.gz")
    (tmp_path / "A.yaml").write_text(
        "site: A\ndata: data\ncache: cache\nstate: state\ndevice: cpu\nthreads: 1\n"
    )
    given = ["--model", str(bench.model), str(bench.scans), "--out", str(bench.out)]
    site = ["--site", "A", "--configs", str(tmp_path), "--formats", "nifti"]
    ran = CliRunner().invoke(app, ["predict", *given, *site])
    assert ran.exit_code == 0, ran.output
    key = read_or_make_key(tmp_path / "state" / "pseudonym.key")
    assert (bench.out / Pseudonyms(key).of("a")).is_dir()
    assert not bench.key.exists()


def test_a_site_s_file_says_what_was_cut_on_purpose(bench: Bench, tmp_path: Path) -> None:
    for name in ("cut", "other"):
        dicom_series(bench.scans / name)
        for file in (bench.scans / name).iterdir():
            header = dcmread(file)
            header.ImagesInAcquisition = 99
            header.save_as(file)
    (tmp_path / "A.yaml").write_text(
        "site: A\ndata: data\ncache: cache\nstate: state\nincomplete: [cut]\n"
    )
    without = bench.run(inputs=(bench.scans / "cut",))
    assert without.exit_code == 1
    assert "cut on purpose, convert it to .nii.gz" in " ".join(without.stderr.split())
    both = (bench.scans / "cut", bench.scans / "other")
    ran = bench.run("--site", "A", "--configs", str(tmp_path), inputs=both)
    said = " ".join(ran.stderr.split())
    assert "1 segmented, 0 there already, 1 failed" in said
    assert "name the case in `incomplete` of the site's file or convert it to .nii.gz" in said
    assert "as the site's file says (`incomplete`)" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--formats", "nifti,stl"], "--formats nifti,stl: stl is no format; give some of nifti"),
        (["--formats", ""], "none is no format"),
        (["--device", "gpu"], "device 'gpu': is unknown"),
        (["--site", "Z"], "Z.yaml"),
        (["--model", "/nowhere"], "/nowhere: has no protocol.json; name a folder such as"),
        (["--key", "OUT/pseudonym.key"], "whose content may be passed on; keep it elsewhere"),
    ],
)
def test_a_command_that_cannot_begin_says_why_and_writes_nothing(
    bench: Bench, options: list[str], message: str
) -> None:
    bench.add("a.nii.gz")
    ran = bench.run(*(option.replace("OUT", str(bench.out)) for option in options))
    assert ran.exit_code == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.output
    assert not bench.out.exists()


def test_no_scan_is_a_usage_error(bench: Bench) -> None:
    ran = bench.run(inputs=(bench.scans, bench.folder / "none"))
    assert ran.exit_code == 2
    assert ran.stderr.count("error: input") == 2


# ---- what cannot be segmented -------------------------------------------------------------------


def test_what_cannot_be_read_fails_alone_and_with_its_remedy(bench: Bench) -> None:
    bench.add("good.nii.gz")
    (bench.scans / "empty.nii.gz").touch()
    (bench.scans / "packed.zip").write_bytes(b"PK")
    (bench.scans / "notes.txt").touch()
    os.symlink("nowhere", bench.scans / "link.nii.gz")
    shutil.copy(bench.scans / "good.nii.gz", bench.scans / "caf\udce9.nii.gz")
    dicom_series(bench.folder / "x")  # every writer would refuse the name that it gets
    (bench.folder / "x").rename(bench.scans / "M\udcfcller")
    (bench.scans / "hollow").mkdir()
    for suffix in (".mha", ".nrrd"):
        bench.add(f"twice{suffix}")
    ran = bench.run("--names", "--formats", "nifti")
    assert ran.exit_code == 1, ran.output
    assert "1 segmented, 0 there already, 7 failed" in ran.stderr
    for line in (
        "(empty): failed: case empty: image empty.nii.gz",
        "(packed): failed: scan packed.zip is an archive; unpack it",
        "(link): failed: scan link.nii.gz is a link to what is not there",
        r"(caf\xe9): failed: scan caf\xe9.nii.gz has a name that is not UTF-8; rename it",
        r"(M\xfcller): failed: scan M\xfcller has a name that is not UTF-8; rename it",
        "(hollow): failed: scan hollow is an empty folder",
        "(twice): failed: folder scans: case twice is there more than once; keep one",
        "passed over: 1 of the inputs' entries are no case",
    ):
        assert line in ran.stderr
    assert {row["failed_rule"] for row in bench.summary()} == {
        *("", "damaged", "format", "missing", "name")
    }
    given_alone = bench.run(
        inputs=(
            bench.scans / "packed.zip",
            bench.scans / "link.nii.gz",
            bench.scans / "empty.nii.gz",
        )
    )
    assert given_alone.exit_code == 1, given_alone.output


def test_results_cannot_go_where_no_library_writes(bench: Bench) -> None:
    bench.add("good.nii.gz")
    bench.out = bench.folder / "M\udcfcller" / "out"
    ran = bench.run()
    assert ran.exit_code == 2
    assert "lies in a folder whose name is not UTF-8; rename it" in ran.stderr
    assert not bench.out.exists()


def test_within_such_a_folder_relative_paths_are_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bench.folder / "M\udcfcller"
    here.mkdir()
    shutil.move(bench.add("good.nii.gz"), here / "good.nii.gz")
    monkeypatch.chdir(here)
    bench.out = Path("out")
    ran = bench.run("--formats", "nifti", inputs=(Path("good.nii.gz"),))
    assert ran.exit_code == 0, ran.output
    assert names(bench.case("good")) == FILES


def test_a_model_of_such_a_name_is_one_line(bench: Bench) -> None:
    bench.add("good.nii.gz")
    bench.model = bench.model.rename(bench.folder / "caf\udce9")
    ran = bench.run("--formats", "nifti")
    assert ran.exit_code == 2
    assert len(ran.stderr.splitlines()) == 1 and "is not valid UTF-8" in ran.stderr


@pytest.mark.parametrize("series", [[], ["--series", "dwi*"], ["--series", "t2*"]])
def test_hints_name_what_the_command_has(bench: Bench, series: list[str]) -> None:
    for number, description in enumerate(("t2", "t2 again")):
        dicom_series(
            bench.scans / "a" / str(number), series=f"1.2.3.{number}", description=description
        )
    ran = bench.run(*series, inputs=(bench.scans / "a",))
    assert ran.exit_code == 1
    assert "--series" in ran.stderr
    assert "site's file" not in ran.stderr


# ---- nobody is named ----------------------------------------------------------------------------


def test_no_byte_of_the_results_names_anybody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.scans = bench.folder / f"{SECRET}-scans"
    nifti = scan(1)
    nifti.SetMetaData("descrip", f"{SECRET} by descrip")
    nifti.SetMetaData("ITK_FileNotes", f"{SECRET} notes")
    nifti.SetMetaData("aux_file", f"{SECRET}.txt")
    nrrd, meta = scan(2), scan(3)
    for image in (nrrd, meta):
        image.SetMetaData("PatientName", f"{SECRET}^Erika")
        image.SetMetaData(f"{SECRET}_key", "1")
    bench.scans.mkdir()
    for name, image in {"n.nii.gz": nifti, "r.nrrd": nrrd, "m.mha": meta}.items():
        sitk.WriteImage(image, str(bench.scans / f"{SECRET}_{name}"))
    dicom_series(bench.scans / f"{SECRET}_d")
    (bench.scans / f"{SECRET}_broken.nii.gz").write_bytes(b"no scan")
    ran = bench.run("--formats", "nifti", "--json")
    assert ran.exit_code == 1
    assert "4 segmented, 0 there already, 1 failed" in ran.stderr
    # The command was not run in a terminal, so that its lines may go into a log.
    told = {"stdout": ran.stdout.encode(), "stderr": ran.stderr.encode()}
    files = [path for path in bench.out.rglob("*") if path.is_file()]
    assert len(files) == 4 * len(FILES) + 1
    for path in files:
        told[str(path.relative_to(bench.out))] = path.read_bytes()
    for what, content in told.items():
        for view in (what.encode(), content, _unpacked(what, content)):
            for secret in (SECRET, SECRET.lower(), "Erika", "4711", str(bench.folder), "1.2.3.4"):
                if what == "stderr" and secret == str(bench.folder):
                    continue  # where the results are, as the command was told
                assert secret.encode() not in view, (what, secret)
                assert secret.encode("utf-16-le") not in view, (what, secret)


def _unpacked(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.decompress(content)
    if name.endswith(".png"):
        with Image.open(io.BytesIO(content)) as image:
            return json.dumps({str(key): str(value) for key, value in image.info.items()}).encode()
    return content
