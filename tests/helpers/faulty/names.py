"""Files under names that libraries, terminals or other systems do not take, and what is no file."""

import bz2
import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import dicom_phantoms as ph
import nibabel
import numpy as np
from bad_cases import Place, on_grid, organs, save

from faulty import Faulty

# 3 x 4 x 5 voxels of 0.5 x 0.7 x 3 mm each (`bad_cases.organs`).
VOLUMES_ML = {"bladder": 0.063, "prostate": 0.063}
LATIN_1 = "\udce9"  # how Python keeps the byte of é in Latin-1
COMPOSED, APART = "-\u00fc", "-u\u0308"


def named(image: str = "", label: str = "", suffix: str = ".nii.gz") -> Callable[[Place], None]:
    """A good case, these letters added to the names of its image and its label."""

    def make(place: Place) -> None:
        for path, more in ((place.image(".nii.gz"), image), (place.label(".nii.gz"), label)):
            save(place.scan() if path == place.image(".nii.gz") else on_grid(organs()), path)
            of_image = path == place.image(".nii.gz")
            path.rename(path.with_name(f"{place.name}{more}{suffix if of_image else '.nii.gz'}"))

    return make


def instead(make_image: Callable[[Place], None]) -> Callable[[Place], None]:
    """A good label beside what stands in place of its image."""

    def make(place: Place) -> None:
        place.image().parent.mkdir(exist_ok=True)
        make_image(place)
        place.good_label()

    return make


def entries(place: Place, folder: str = "imagesTr") -> list[Path]:
    """All of a case in a folder."""
    mine = re.compile(rf"{place.name}(?![a-z0-9_])", re.DOTALL)
    return sorted(path for path in (place.root / folder).iterdir() if mine.match(path.name))


def by_nibabel(place: Place) -> str:
    """What nibabel reads of the case's image under a name that it takes."""
    copy = place.root.parent / f"{place.name}-plain.nii.gz"
    content = entries(place)[0].read_bytes()
    copy.write_bytes(content if content[:2] == b"\x1f\x8b" else gzip.compress(content))
    size = " x ".join(map(str, nibabel.nifti1.load(copy).shape))
    copy.unlink()
    return f"nibabel, under another name: {size} voxels"


def by_name(place: Place) -> str:
    """The bytes of the names."""
    names = [os.fsencode(p.name) for f in ("imagesTr", "labelsTr") for p in entries(place, f)]
    return f"plain bytes: {', '.join(str(name) for name in names)}"


def by_link(place: Place) -> str:
    """Where the link of the case leads."""
    link = entries(place)[0]
    return f"os: {link.name} leads to {os.readlink(link)}, which is not there"


# ---- what makes them ----------------------------------------------------------------------------


def latin_1_slice(place: Place) -> None:
    place.dicom()
    first = sorted(place.image("").iterdir())[0]
    first.rename(first.with_name(f"caf{LATIN_1}.dcm"))


def slice_by_name(place: Place) -> str:
    names = [os.fsencode(file.name) for file in place.image("").iterdir()]
    return f"plain bytes: {next(name for name in names if not name.isascii())!r}"


def voxels_of_latin_1(place: Place) -> None:
    save(place.scan(), place.image(".mhd"))
    voxels = f"{place.name}.{LATIN_1}.raw"
    place.image(".raw").rename(place.image(".raw").with_name(voxels))
    header = place.image(".mhd").read_bytes()
    place.image(".mhd").write_bytes(
        header.replace(f"{place.name}.raw".encode(), os.fsencode(voxels))
    )


def voxels_by_plain_bytes(place: Place) -> str:
    [voxels] = [path for path in entries(place) if path.suffix == ".raw"]
    found = np.frombuffer(voxels.read_bytes(), "<u2").reshape(place.voxels().shape)
    same = "the voxels that were written" if (found == place.voxels()).all() else "others"
    return f"plain bytes: {os.fsencode(voxels.name)!r} holds {same}"


def to(target: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        os.symlink(target.format(name=place.name), place.image(".nii.gz"))

    return make


def linked_series(place: Place) -> None:
    store = place.root.parent / f"{place.name}-store"
    ph.write_classic(store, ph.Phantom(voxels=place.voxels()))
    place.image("").mkdir()
    os.symlink(os.path.relpath(store, place.image("")), place.image("") / "series")


def two_ways(place: Place) -> None:
    for way in (COMPOSED, APART):
        save(place.scan(), place.image(f"{way}.mha"))
    save(on_grid(organs()), place.label(f"{COMPOSED}.mha"))


def capitals(place: Place) -> None:
    save(place.scan(), place.image())
    save(on_grid(organs()), place.label().with_name(f"{place.name.upper()}.mha"))


def packed(place: Place) -> None:
    save(place.scan(), place.image(".nii"))
    place.image(".nii.bz2").write_bytes(bz2.compress(place.image(".nii").read_bytes()))
    place.image(".nii").unlink()


def packed_by_bz2(place: Place) -> str:
    content = bz2.decompress(place.image(".nii.bz2").read_bytes())
    size = nibabel.nifti1.Nifti1Image.from_bytes(content).shape
    return f"bz2 and nibabel: {' x '.join(map(str, size))} voxels"


def archive(place: Place) -> None:
    folder = place.root.parent / f"{place.name}-slices"
    ph.write_classic(folder, ph.Phantom(voxels=place.voxels()))
    shutil.make_archive(str(place.image("")), "zip", folder)


def by_zip(place: Place) -> str:
    return f"plain bytes: begins with {place.image('.zip').read_bytes()[:4]!r}, of an archive"


def of_nibabel(kind: type, suffix: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        image = kind(place.voxels().astype(np.float32), np.diag((0.5, 0.7, 3.0, 1.0)))
        nibabel.loadsave.save(image, place.image(suffix))

    return make


def loaded(suffix: str) -> Callable[[Place], str]:
    def truth(place: Place) -> str:
        found = nibabel.loadsave.load(place.image(suffix))
        return f"nibabel: {type(found).__name__}, {' x '.join(map(str, found.shape))} voxels"

    return truth


def nested(place: Place) -> None:
    place.image("").mkdir()
    save(place.scan(), place.image("") / "t2.nii.gz")


def renamed(old: str, new: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        save(place.scan(), place.image(old))
        place.image(old).rename(place.image(new))

    return make


def unfinished(place: Place) -> None:
    save(place.scan(), place.image(".nii.gz"))
    content = place.image(".nii.gz").read_bytes()
    place.image(".nii.gz.part").write_bytes(content[: len(content) // 2])
    place.image(".nii.gz").unlink()


def half(place: Place) -> str:
    try:
        gzip.decompress(place.image(".nii.gz.part").read_bytes())
    except EOFError as error:
        return f"gzip: {error}"
    return "gzip: whole"


def note(place: Place) -> None:
    place.image(".txt").write_text("of the second scanner\n")


INPUTS: dict[str, Faulty] = {
    "names_latin_1_scan": Faulty(
        kind="2",
        what="a Latin-1 byte in a file's name",
        make=named(LATIN_1, LATIN_1),
        truth=by_name,
        rule="name",
        said=r"has a name that is not UTF-8; rename it, for instance with convmv",
    ),
    "names_latin_1_slice": Faulty(
        kind="2",
        what="a Latin-1 byte in the name of one slice",
        make=instead(latin_1_slice),
        truth=slice_by_name,
        rule="name",
        said="has a name that is not UTF-8",
    ),
    "names_latin_1_voxels": Faulty(
        kind="2",
        what="an .mhd header whose file of voxels has a Latin-1 byte in its name",
        make=instead(voxels_of_latin_1),
        truth=voxels_by_plain_bytes,
        rule="",
        said="",
        volumes_ml=VOLUMES_ML,
    ),
    "names_control": Faulty(
        kind="2",
        what="line end, tab, escape sequence, right-to-left mark, percent and blank in a name",
        make=named(*["\n\t\x1b[31m\u202e%d \U0001f600"] * 2),
        truth=by_nibabel,
        rule="",
        said=r"\n\x09\x1b[31m\u202e%d",
        volumes_ml=VOLUMES_ML,
    ),
    "names_mixed_suffix": Faulty(
        kind="11",
        what="a suffix of small and capital letters, .Nii.gz",
        make=named(suffix=".Nii.gz"),
        truth=by_nibabel,
        rule="name",
        said="which the NIfTI library does not take; rename it, with .nii or .nii.gz",
    ),
    "names_dangling": Faulty(
        kind="12",
        what="a link to a scan that is not there",
        make=instead(to("../store/{name}.nii.gz")),
        truth=by_link,
        rule="missing",
        said="is a link to what is not there; copy the scan itself, or mend the link",
    ),
    "names_round": Faulty(
        kind="12",
        what="a link to itself",
        make=instead(to("{name}.nii.gz")),
        truth=by_link,
        rule="missing",
        said="is a link to what is not there",
    ),
    "names_apart": Faulty(
        kind="12",
        what="an image's name composed (NFC), its label's taken apart (NFD), as macOS writes it",
        make=named(COMPOSED, APART),
        truth=by_name,
        rule="",
        said="",
        volumes_ml=VOLUMES_ML,
    ),
    "names_both": Faulty(
        kind="12",
        what="one name in both ways in one folder",
        make=two_ways,
        truth=by_name,
        rule="name",
        said="its letters composed in one name and taken apart in another (Unicode NFC and NFD)",
    ),
    "names_capitals": Faulty(
        kind="12",
        what="an image and a label whose names differ by capitals alone",
        make=capitals,
        truth=lambda place: f"os: {place.name}.mha and {place.name.upper()}.mha",
        rule="pair",
        said="but one of nearly this name; give both one name (NAMES_CAPITALS)",
    ),
    "names_linked_series": Faulty(
        kind="3",
        what="a case's folder that holds a link to the folder of its slices",
        make=instead(linked_series),
        truth=lambda place: f"os: {len(list((place.image('') / 'series').iterdir()))} files there",
        rule="",
        said="DICOM, 18 x 14 x 5",
        volumes_ml=VOLUMES_ML,
    ),
    "names_no_suffix": Faulty(
        kind="3",
        what="NIfTI without a suffix",
        make=instead(renamed(".nii", "")),
        truth=by_nibabel,
        rule="format",
        said="is NIfTI under a name that does not say so; rename it to end in .nii",
    ),
    "names_bzip2": Faulty(
        kind="12",
        what=".nii.bz2",
        make=instead(packed),
        truth=packed_by_bz2,
        rule="format",
        said="is compressed in a way that is not read; unpack it, or save it as .nii.gz",
    ),
    "names_zip": Faulty(
        kind="12",
        what="an archive of slices",
        make=instead(archive),
        truth=by_zip,
        rule="format",
        said="is an archive; unpack it",
    ),
    "names_freesurfer": Faulty(
        kind="12",
        what=".mgz of FreeSurfer",
        make=instead(of_nibabel(nibabel.freesurfer.mghformat.MGHImage, ".mgz")),
        truth=loaded(".mgz"),
        rule="format",
        said="is a volume of FreeSurfer; convert it to .nii.gz, for instance by mri_convert",
    ),
    "names_pair": Faulty(
        kind="12",
        what="a pair of .hdr and .img",
        make=instead(of_nibabel(nibabel.nifti1.Nifti1Pair, ".img")),
        truth=loaded(".img"),
        rule="format",
        said="is one half of a pair of .hdr and .img, Analyze or NIfTI; convert the pair",
    ),
    "names_nested": Faulty(
        kind="12",
        what="a folder for each case, with a NIfTI file in it",
        make=instead(nested),
        truth=lambda place: (
            f"nibabel: {nibabel.loadsave.load(place.image('') / 't2.nii.gz').shape}"
        ),
        rule="format",
        said="is a folder without DICOM files, with a scan of another format in it",
    ),
    "names_hollow": Faulty(
        kind="12",
        what="an empty folder for a case",
        make=instead(lambda place: place.image("").mkdir()),
        truth=lambda place: f"os: {len(list(place.image('').iterdir()))} files there",
        rule="missing",
        said="is an empty folder; copy its files again, or remove it",
    ),
    "names_pipe": Faulty(
        kind="12",
        what="a pipe under the name of a scan, which nobody ever writes to",
        make=instead(lambda place: os.mkfifo(place.image(".nii.gz"))),
        truth=lambda place: f"os: a file is there: {place.image('.nii.gz').is_file()}",
        rule="format",
        said="is a pipe, socket or device; give a file",
    ),
    "names_unfinished": Faulty(
        kind="12",
        what="an unfinished copy, .nii.gz.part",
        make=instead(unfinished),
        truth=half,
        rule="damaged",
        said="is an unfinished copy; copy it again, whole",
    ),
    "names_notes": Faulty(
        kind="12",
        what="a text beside the scans",
        make=note,
        truth=lambda place: f"plain bytes: {place.image('.txt').read_text().strip()}",
        rule="",
        said="names_notes.txt",
    ),
}
