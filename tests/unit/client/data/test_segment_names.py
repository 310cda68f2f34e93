"""Names inside label files decide over numbers; what contradicts is refused with both readings."""

import gzip
import math
import re
from collections.abc import Callable
from pathlib import Path

import bad_cases as bad
import numpy as np
import pytest
import SimpleITK as sitk
from faulty import label_files as lf
from hypothesis import given
from hypothesis import strategies as st

from client.data.case import Case
from client.data.errors import ScanError
from client.data.files.image_io import read_grid, read_image
from client.data.folder.entries import case_name, scan_files
from client.data.labels.segment_names import Segment, read_segment_names
from protocol.config.site import SiteConfig

UNKNOWN = "has names that the site's file does not know; its numbers decide"
Make = Callable[[bad.Place], None]


def site(**facts: object) -> SiteConfig:
    return SiteConfig(site="A", data="d", cache="c", state="s", **facts)


def case(place: bad.Place, **facts: object) -> Case:
    folder = place.root
    return Case(
        name=place.name,
        part="labelled",
        image=scan_files(folder / "imagesTr")[place.name],
        label=scan_files(folder / "labelsTr")[place.name],
        site=site(**facts) if facts else None,
    )


def read(case: Case) -> tuple[dict[str, float], list[str]]:
    """Volumes in ml by organ, and the notes."""
    notes: list[str] = []
    label = case.read_label(case.read_scan(), bad.ORGANS, notes.append)
    array = sitk.GetArrayViewFromImage(label)
    voxel_ml = math.prod(label.GetSpacing()) / 1000
    counted = {o: float(np.count_nonzero(array == v)) * voxel_ml for o, v in bad.ORGANS.items()}
    if unused := case.unused_structures(bad.ORGANS):
        notes.append(f"{len(unused)} of its label's structures left aside")
    return counted, notes


def place(root: Path, name: str = "case_1") -> bad.Place:
    return bad.Place(root=root, name=name, seed=1)


@pytest.mark.parametrize("name", lf.INPUTS)
def test_every_input_is_read_by_its_names_or_refused(name: str, tmp_path: Path) -> None:
    each = lf.INPUTS[name]
    where = place(tmp_path, name)
    each.make(where)
    assert each.truth(where)
    if each.rule:
        with pytest.raises(ScanError) as caught:
            read(case(where, **each.site))
        assert caught.value.problem.rule == each.rule
        assert each.said in str(caught.value)
        assert name not in caught.value.problem.anonymous
        return
    volumes_ml, notes = read(case(where, **each.site))
    assert volumes_ml == pytest.approx(each.volumes_ml)
    assert each.said in "; ".join(notes)
    assert not (each.said == "" and notes)


def test_the_case_is_named_without_seg(tmp_path: Path) -> None:
    lf.INPUTS["lf_swapped"].make(place(tmp_path))
    assert list(scan_files(tmp_path / "labelsTr")) == ["case_1"]
    assert case_name(Path("a.SEG.nrrd")) == case_name(Path("a.seg.nhdr")) == "a"


def test_the_sites_names_count_and_numbers_that_agree_are_silent(tmp_path: Path) -> None:
    where = place(tmp_path)
    lf.drawn(lf.swapped, lf.segments("Prostata", "Blase"))(where)
    german = {"bladder": ["Blase"], "prostate": ["Prostata"]}
    assert read(case(where, labels=german))[0] == pytest.approx(lf.BOTH_ML)
    numbered = {"bladder": ["Blase", 2], "prostate": ["Prostata", 1]}
    assert read(case(where, labels=numbered)) == (pytest.approx(lf.BOTH_ML), [])


def test_numbers_of_the_sites_file_decide_where_it_does_not_know_a_name(tmp_path: Path) -> None:
    where = place(tmp_path)
    lf.drawn(lf.swapped, lf.segments("Prostata", "Blase"))(where)
    facts = {"labels": {"bladder": [2], "prostate": [1]}}
    volumes_ml, notes = read(case(where, **facts))
    assert volumes_ml == pytest.approx(lf.BOTH_ML)
    assert notes == [f"{UNKNOWN}: 1 is prostate, 2 is bladder"]
    # Beside them a name that it knows, at its number; a third of no meaning is left aside.
    lf.drawn(lf.with_a_third, lf.segments("prostate", "Blase", "Harnblase"))(where)
    volumes_ml, notes = read(case(where, labels={"bladder": [3], "prostate": [1]}))
    assert volumes_ml == pytest.approx(lf.BOTH_ML)
    assert notes == [f"{UNKNOWN}: 3 is bladder", "1 of its label's structures left aside"]
    with pytest.raises(ScanError, match="names its value 1 prostate, the site's file has 1 as bl"):
        read(case(where, labels={"bladder": [1], "prostate": [3]}))
    with pytest.raises(ScanError, match=r"holds no structure for bladder; .*add its name"):
        read(case(where))


def test_numbers_of_layers_explain_no_name(tmp_path: Path) -> None:
    where = place(tmp_path)
    lf.drawn(lf.rim, lf.segments("Blase", "Prostata", LabelValue=(1, 1), Layer=(0, 1)))(where)
    with pytest.raises(ScanError, match="holds no structure for bladder"):
        read(case(where, labels={"bladder": [1], "prostate": [2]}))


def test_what_the_numbers_explain_counts_as_drawn(tmp_path: Path) -> None:
    where = place(tmp_path)
    lf.drawn(lambda: lf.bladder().astype("u1"), lf.segments("Blase", "Prostata"))(where)
    labels = {"bladder": [1], "prostate": [2]}
    one = case(where, labels=labels, empty_structures="undrawn")
    assert read(one)[0] == pytest.approx({**lf.BOTH_ML, "prostate": 0})
    assert one.annotated(bad.ORGANS) == {"bladder"}
    with pytest.raises(ScanError, match="holds an empty structure for prostate"):
        read(case(where, labels=labels))


def test_names_of_what_is_not_in_the_file_are_not_counted(tmp_path: Path) -> None:
    where = place(tmp_path)
    names = ("prostate", "PTV", "bladder", "colon", "liver", "spleen")
    lf.drawn(lf.with_a_third, lf.segments(*names))(where)
    assert case(where).unused_structures(bad.ORGANS) == ["PTV"]
    assert case(where, ignored_labels=[2]).unused_structures(bad.ORGANS) == []


@pytest.mark.parametrize(
    ("facts", "both"),
    [
        ({"labels": {"bladder": [1], "prostate": [2]}}, ("1 prostate", "1 as bladder")),
        ({"labels": {"bladder": [2, "Blase"], "prostate": [5]}, "ignored_labels": [1]}, ("1 pro",)),
        (
            {"labels": {"bladder": [2], "prostate": [1]}, "ignored_labels": ["blad*"]},
            (),
        ),
    ],
)
def test_a_contradiction_of_name_and_number_says_both(
    facts: dict[str, object], both: tuple[str, ...], tmp_path: Path
) -> None:
    where = place(tmp_path)
    lf.drawn(lf.swapped, lf.segments("prostate", "bladder"))(where)
    if not both:  # a name of the study stands before a pattern of what is ignored
        assert read(case(where, **facts))[0] == pytest.approx(lf.BOTH_ML)
        return
    with pytest.raises(ScanError) as caught:
        read(case(where, **facts))
    assert all(words in str(caught.value) for words in both)


def test_parts_are_one_organ_where_the_site_has_their_numbers_too(tmp_path: Path) -> None:
    where = place(tmp_path)
    array = lf.swapped()
    array[2][array[2] == 1] = 3
    lf.drawn(array, lf.segments("PZ", "bladder", "TZ"))(where)
    with pytest.raises(ScanError, match="holds 2 structures for prostate"):
        read(case(where, labels={"bladder": [], "prostate": ["PZ", "TZ"]}))
    both = {"bladder": [2], "prostate": ["PZ", 1, "TZ", 3]}
    assert read(case(where, labels=both)) == (pytest.approx(lf.BOTH_ML), [])


def test_what_is_ignored_is_not_judged(tmp_path: Path) -> None:
    """Doubles of an ignored name, and an ignored value without a segment."""
    where = place(tmp_path)
    array = lf.swapped()
    array[0, 0, :4] = (7, 8, 9, 9)
    names = ("prostate", "bladder", "PTV", "PTV")
    lf.drawn(array, lf.segments(*names, LabelValue=(1, 2, 7, 8)))(where)
    volumes_ml, notes = read(case(where, ignored_labels=["ptv*", 9]))
    assert volumes_ml == pytest.approx(lf.BOTH_ML)
    assert len(notes) == 1  # of the numbers
    with pytest.raises(ScanError, match="holds the values 9, which none of its 4 named"):
        read(case(where, ignored_labels=["ptv*"]))


def test_an_organ_that_is_declared_as_not_drawn_may_not_be_there(tmp_path: Path) -> None:
    where = place(tmp_path)
    lf.drawn(lf.swapped, lf.segments("prostate", "bladder"))(where)
    with pytest.raises(ScanError, match="holds prostate, which the site's file declares"):
        read(case(where, undrawn={"case_1": ["prostate"]}))


def test_an_empty_segment_means_what_the_sites_file_says(tmp_path: Path) -> None:
    where = place(tmp_path)
    lf.drawn(lf.bladder().astype("u1"), lf.segments("bladder", "prostate"))(where)
    with pytest.raises(ScanError, match="holds an empty structure for prostate"):
        read(case(where))
    absent = case(where, empty_structures="absent")
    assert read(absent)[0] == pytest.approx({"bladder": lf.BOTH_ML["bladder"], "prostate": 0})
    assert absent.annotated(bad.ORGANS) == {"bladder", "prostate"}
    undrawn = case(where, empty_structures="undrawn")
    assert undrawn.annotated(bad.ORGANS) == {"bladder"}
    assert read(undrawn)[1] == [
        "prostate: its structure is empty, so it counts as not drawn in this case"
    ]


def test_a_plain_label_that_is_cropped_is_refused_as_before(tmp_path: Path) -> None:
    where = place(tmp_path)
    lf.drawn(lf.cropped, {}, ".nrrd", first_xyz=(3, 2, 1))(where)
    with pytest.raises(ScanError, match="is not on the image grid: size"):
        read(case(where))


@given(
    first=st.tuples(st.integers(-3, 6), st.integers(-3, 5), st.integers(-2, 3)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 15), st.integers(1, 6)),
    layered=st.booleans(),
)
def test_a_box_lands_where_its_corner_says(
    first: tuple[int, int, int],
    size: tuple[int, int, int],
    layered: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Every voxel by its own position in mm, or a refusal where one lies outside the scan."""
    where = place(tmp_path_factory.mktemp("box"))
    array = np.zeros(size[::-1], np.uint8)
    array.flat[0] = 1
    array.flat[-1] = 2 if array.size > 1 else 1
    lf.drawn(
        np.stack([array, array * 0], -1) if layered else array,
        lf.segments("bladder", "prostate", Layer=(0, 0)),
        first_xyz=first,
    )(where)
    last = tuple(f + s - 1 for f, s in zip(first, size, strict=True))
    inside = all(0 <= i < n for end in (first, last) for i, n in zip(end, (18, 14, 5), strict=True))
    if not inside:
        with pytest.raises(ScanError, match="is not on the image grid"):
            read(case(where))
        return
    absent = case(where, empty_structures="absent")
    label = absent.read_label(absent.read_scan(), bad.ORGANS)
    assert label.GetPixel(first) == 1 and label.GetPixel(last) == array.flat[-1]
    assert np.count_nonzero(sitk.GetArrayViewFromImage(label)) == min(2, array.size)


@given(
    values=st.lists(st.integers(1, 255), min_size=3, max_size=3, unique=True),
    order=st.permutations(["bladder", "prostate", "colon"]),
)
def test_no_number_ever_exchanges_two_organs(
    values: list[int], order: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    where = place(tmp_path_factory.mktemp("numbers"))
    value_of = dict(zip(("bladder", "prostate", "colon"), values, strict=True))
    array = lf.bladder() * value_of["bladder"] + lf.prostate() * value_of["prostate"]
    array[0, 0, 0] = value_of["colon"]
    named = lf.segments(*order, LabelValue=[value_of[name] for name in order])
    lf.drawn(array.astype("u1"), named)(where)
    assert read(case(where))[0] == pytest.approx(lf.BOTH_ML)


def test_names_of_other_files_are_none(tmp_path: Path) -> None:
    for suffix in (".nii", ".nii.gz", ".mha", ".nrrd"):
        path = tmp_path / f"a{suffix}"
        bad.save(bad.on_grid(lf.swapped()), path)
        assert read_segment_names(path, location="a").segments == ()
    (tmp_path / "b.nii.gz").write_bytes(b"\x1f\x8b\x08 cut")
    assert read_segment_names(tmp_path / "b.nii.gz", location="b").segments == ()


def test_a_nifti_extension_that_is_no_label_table_is_no_name(tmp_path: Path) -> None:
    where = place(tmp_path)
    lf.of_total_segmentator(where)
    raw = sitk.ReadImage(str(where.label(".nii.gz")))
    sitk.WriteImage(raw, str(tmp_path / "a.nii"))  # SimpleITK leaves extensions out
    assert read_segment_names(tmp_path / "a.nii", location="a").segments == ()
    named = read_segment_names(where.label(".nii.gz"), location="a").segments
    assert named[0] == Segment(name="prostate", value=1)
    assert [each.name for each in named] == ["prostate", "bladder", "colon"]


@pytest.mark.parametrize("name", ["Segment_1", "segment 12", "Label 3", "7", "", "L4", "ROI-1"])
def test_a_name_that_a_program_gave_is_none(name: str) -> None:
    assert not Segment(name=name, value=1).named


@pytest.mark.parametrize("name", ["prostate", "Segment of rectum", "T2", "PTV 60", "Prostata1"])
def test_other_names_are_names(name: str) -> None:
    assert Segment(name=name, value=1).named


@pytest.mark.parametrize("name", ["lf_swapped", "lf_layers", "lf_mha", "lf_mitk", "lf_table"])
def test_a_label_map_in_the_place_of_a_scan_is_refused(name: str, tmp_path: Path) -> None:
    lf.INPUTS[name].make(place(tmp_path))
    [path] = (tmp_path / "labelsTr").iterdir()
    for read_it in (read_image, read_grid):
        with pytest.raises(ScanError, match="is a label map whose header names its values"):
            read_it(path, case="case_1")


def spoilt(edit: Callable[[bytes, bytes], bytes], suffix: str = ".seg.nrrd") -> Make:
    """The two layers with another header, or other voxels."""

    def make(where: bad.Place) -> None:
        layered(where)
        head, _, body = where.label(".seg.nrrd").read_bytes().partition(b"\n\n")
        where.label(".seg.nrrd").unlink()
        where.label(suffix).write_bytes(edit(head, gzip.decompress(body)))

    return make


def layered(where: bad.Place) -> None:
    lf.drawn(lf.rim, lf.segments("prostate", "bladder", LabelValue=(1, 1), Layer=(0, 1)))(where)


def list_last(head: bytes, body: bytes) -> bytes:
    """As pynrrd writes it where the layers are the last axis."""
    head = head.replace(b"sizes: 2 18 14 5", b"sizes: 18 14 5 2")
    head = head.replace(b"list domain domain domain", b"domain domain domain list")
    head = re.sub(rb"space directions: none (.*)", rb"space directions: \1 none", head)
    voxels = np.moveaxis(np.frombuffer(body, "u1").reshape(*bad.SHAPE, 2), 3, 0)
    return head + b"\n\n" + gzip.compress(np.ascontiguousarray(voxels).tobytes())


def detached(head: bytes, body: bytes) -> bytes:
    return head.replace(b"gzip", b"raw") + b"\ndata file: voxels.raw\n\n"


def as_right_anterior(head: bytes, body: bytes) -> bytes:
    head = head.replace(b"left-posterior-superior", b"right-anterior-superior")
    head = head.replace(b"(0.5,0.0,0.0) (0.0,0.7,0.0)", b"(-0.5,0,0) (0,-0.7,0)")
    head = head.replace(b"(-10.0,20.0,5.0)", b"(10.0,-20.0,5.0)")
    return head + b"\n\n" + gzip.compress(body)


def by_simpleitk(suffix: str) -> Make:
    def make(where: bad.Place) -> None:
        layered(where)
        image = sitk.ReadImage(str(where.label(".seg.nrrd")))
        where.label(".seg.nrrd").unlink()
        bad.save(image, where.label(suffix))

    return make


ENCODINGS: dict[str, Make] = {
    "layers last": spoilt(list_last),
    "vector": spoilt(
        lambda head, body: head.replace(b"list", b"vector") + b"\n\n" + gzip.compress(body)
    ),
    "RAS": spoilt(as_right_anterior),
    "CRLF": spoilt(
        lambda head, body: head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + gzip.compress(body)
    ),
    "raw": spoilt(lambda head, body: head.replace(b"gzip", b"raw") + b"\n\n" + body),
    "upper case": spoilt(lambda head, body: head + b"\n\n" + gzip.compress(body), ".SEG.NRRD"),
    "floats": lf.drawn(
        lambda: lf.rim().astype(float),
        lf.segments("prostate", "bladder", LabelValue=(1, 1), Layer=(0, 1)),
    ),
    "mha": by_simpleitk(".mha"),
    "mhd": by_simpleitk(".mhd"),
    "nrrd": by_simpleitk(".nrrd"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_layers_are_read_alike_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    ENCODINGS[encoding](place(tmp_path))
    volumes_ml, notes = read(case(place(tmp_path)))
    assert volumes_ml == pytest.approx({"bladder": 59 * lf.VOXEL_ML, "prostate": 25 * lf.VOXEL_ML})
    assert notes == []


def test_a_header_beside_its_voxels(tmp_path: Path) -> None:
    where = place(tmp_path)
    spoilt(detached, ".seg.nhdr")(where)
    body = np.ascontiguousarray(lf.rim()).tobytes()
    (where.label().parent / "voxels.raw").write_bytes(body)
    assert read(case(where))[0]["bladder"] == pytest.approx(59 * lf.VOXEL_ML)


@given(
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    layers=st.booleans(),
)
def test_axes_in_another_order_or_sense_are_the_same_voxels(
    order: list[int],
    flips: tuple[bool, bool, bool],
    layers: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    where = place(tmp_path_factory.mktemp("axes"))
    if layers:
        layered(where)
    else:
        fields = lf.segments("prostate", "bladder")
        lf.drawn(lf.cropped, fields, first_xyz=(3, 2, 1))(where)
    image = sitk.ReadImage(str(where.label(".seg.nrrd")))
    scan = case(where).read_scan()
    upright = sitk.GetArrayFromImage(case(where).read_label(scan, bad.ORGANS))
    sitk.WriteImage(sitk.Flip(sitk.PermuteAxes(image, order), flips), str(where.label(".seg.nrrd")))
    written = where.label(".seg.nrrd").read_bytes()
    if b"Segment0_Name" not in written:  # filters lose what is said beside the voxels
        lost = lf.segments("prostate", "bladder", **({"LabelValue": (1, 1)} if layers else {}))
        told = "\n".join(f"{key}:={value}" for key, value in lost.items()).encode()
        where.label(".seg.nrrd").write_bytes(written.replace(b"\n\n", b"\n" + told + b"\n\n", 1))
    turned = sitk.GetArrayFromImage(case(where).read_label(scan, bad.ORGANS))
    assert np.array_equal(turned, upright)
