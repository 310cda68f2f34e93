"""Preprocessed scans on disk: found again, made anew when they must be, never half written."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

import client.data.cache
from client.data.cache import CachedCase, cached_case
from client.data.case import Case
from client.data.folder.layout import find_cases
from client.data.room import CacheError
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol


@pytest.fixture
def site(make_site: Callable[..., SiteConfig]) -> SiteConfig:
    return make_site(labelled=1, unlabelled=1)


@pytest.fixture
def labelled(site: SiteConfig) -> Case:
    return find_cases(site.data)[0]


def entries(folder: Path) -> list[str]:
    """Entries, and whatever is half written."""
    others = {".lock", ".in-use"}
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return sorted(names - others)


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    change(array)
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(path))


def test_the_second_call_reads_no_scan(
    site: SiteConfig,
    labelled: Case,
    make_protocol: Callable[..., StudyProtocol],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = cached_case(labelled, site.cache, make_protocol())
    image = np.array(first.image)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the scan was read again")

    monkeypatch.setattr(client.data.case, "read_image", refuse)
    # As after a restart: nothing in memory, only the disk.
    again = cached_case(find_cases(site.data)[0], site.cache, make_protocol())
    np.testing.assert_array_equal(again.image, image)
    assert again.folder == first.folder
    # A case of another name with the same bytes has the same entry.
    renamed = Case(name="x", part="test", image=labelled.image, label=labelled.label)
    assert cached_case(renamed, site.cache, make_protocol()).folder == first.folder


def test_what_changes_the_result_makes_a_new_entry(
    site: SiteConfig, labelled: Case, make_protocol: Callable[..., StudyProtocol]
) -> None:
    folders = [cached_case(labelled, site.cache, make_protocol()).folder]
    coarse = make_protocol(spacing_mm=(4.0, 4.0, 4.0))
    folders.append(cached_case(labelled, site.cache, coarse).folder)
    organs = make_protocol(organs={"ball": 2, "rod": 5, "third": 6})
    folders.append(cached_case(labelled, site.cache, organs).folder)
    assert labelled.label is not None
    rewrite(labelled.label, lambda label: label.__setitem__((0, 0, 0), 2))
    folders.append(cached_case(labelled, site.cache, make_protocol()).folder)
    rewrite(labelled.image, lambda image: image.__setitem__((5, 5, 5), 3))
    folders.append(cached_case(labelled, site.cache, make_protocol()).folder)
    assert len(set(folders)) == 5
    # What does not shape the scan does not.
    other = make_protocol(seed=9, training={"rounds": 7})
    assert cached_case(labelled, site.cache, other).folder == folders[-1]


def test_another_version_of_the_preprocessing_makes_a_new_entry(
    site: SiteConfig,
    labelled: Case,
    make_protocol: Callable[..., StudyProtocol],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = cached_case(labelled, site.cache, make_protocol()).folder
    monkeypatch.setattr(client.data.cache, "PREPROCESSING_VERSION", 10**6)
    assert cached_case(labelled, site.cache, make_protocol()).folder != before


def test_another_version_of_the_entry_is_made_anew(
    site: SiteConfig,
    labelled: Case,
    make_protocol: Callable[..., StudyProtocol],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An entry of an earlier version of this program is left alone, and never read."""
    with monkeypatch.context() as patched:
        patched.setattr(client.data.cache, "_ENTRY_VERSION", 2)
        old = cached_case(labelled, site.cache, make_protocol()).folder
    for file in old.iterdir():
        file.write_bytes(b"")
    new = cached_case(labelled, site.cache, make_protocol())
    assert new.folder != old
    assert new.image.shape == (24, 24, 24)


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    site: SiteConfig,
    labelled: Case,
    make_protocol: Callable[..., StudyProtocol],
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
) -> None:
    calls = 0
    save = np.save

    def full(path: Path, array: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, array)

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", full)
        with pytest.raises(CacheError, match=r"No space left on device.*site's file"):
            cached_case(labelled, site.cache, make_protocol())
    assert entries(site.cache) == []
    # Once there is space, all is well.
    assert cached_case(labelled, site.cache, make_protocol()).image.shape == (24, 24, 24)


def test_a_faster_process_is_no_mistake(
    site: SiteConfig,
    labelled: Case,
    make_protocol: Callable[..., StudyProtocol],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    done = cached_case(labelled, site.cache, make_protocol())
    name, spare = done.folder.name, tmp_path / "spare"
    done.folder.rename(spare)
    rename = Path.rename

    def late(draft: Path, folder: Path) -> Path:
        shutil.copytree(spare, folder)
        return rename(draft, folder)

    monkeypatch.setattr(Path, "rename", late)
    cached_case(labelled, site.cache, make_protocol())
    assert entries(site.cache) == [name]


def test_label_values_become_classes(
    site: SiteConfig, labelled: Case, make_protocol: Callable[..., StudyProtocol]
) -> None:
    case = cached_case(labelled, site.cache, make_protocol())
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(labelled.label))).transpose(2, 1, 0)
    assert case.label is not None
    np.testing.assert_array_equal(case.label == 1, truth == 2)
    np.testing.assert_array_equal(case.label == 2, truth == 5)
    assert set(case.organ_places) == {1, 2}
    for value, places in case.organ_places.items():
        assert isinstance(places, np.memmap)
        np.testing.assert_array_equal(places, np.argwhere(case.label == value))


def test_the_organ_box(
    site: SiteConfig, labelled: Case, make_protocol: Callable[..., StudyProtocol]
) -> None:
    assert labelled.label is not None

    def cuboid(label: Any) -> None:
        label[...] = 0
        label[6:12, 3:9, 12:18] = 2  # (z, y, x)

    rewrite(labelled.label, cuboid)
    case = cached_case(labelled, site.cache, make_protocol())
    assert case.organ_box == pytest.approx((0.5, 0.125, 0.25, 0.75, 0.375, 0.5))
    rewrite(labelled.label, lambda label: label.fill(0))
    assert cached_case(labelled, site.cache, make_protocol()).organ_box is None


def test_an_unlabelled_case(site: SiteConfig, make_protocol: Callable[..., StudyProtocol]) -> None:
    unlabelled = find_cases(site.data)[1]
    case = cached_case(unlabelled, site.cache, make_protocol())
    assert (case.label, case.organ_places, case.organ_box) == (None, {}, None)
    assert not (case.folder / "places.npy").exists()
    assert case.lowest == float(case.image.min())


def test_the_grid_is_that_of_the_image(
    site: SiteConfig, labelled: Case, make_protocol: Callable[..., StudyProtocol]
) -> None:
    case: CachedCase = cached_case(labelled, site.cache, make_protocol(spacing_mm=(3.0, 4.0, 2.0)))
    grid = case.grid()
    assert grid.GetSize() == case.image.shape == (16, 12, 24)
    assert grid.GetSpacing() == (3.0, 4.0, 2.0)
    assert grid.GetOrigin() == pytest.approx((-23 + 0.5, -21 + 1.0, 5.0))
