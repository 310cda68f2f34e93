"""The cache is bounded: sizes are known before anything is resampled, the oldest goes first."""

import multiprocessing
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

import client.data.cache
from client.data.cache import cached_case
from client.data.case import Case
from client.data.dataset import prepare_site
from client.data.folder.layout import find_cases
from client.data.grid_size import broken_by_scans, most_bytes, study_voxels
from client.data.room import GIB, CacheError, make_room
from protocol.config.limits import SiteLimits
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

MakeSite = Callable[..., SiteConfig]
MakeProtocol = Callable[..., StudyProtocol]

KIB = 1024
KEYS = [f"{number:064x}" for number in range(10)]


def limits(kib: float) -> SiteLimits:
    return SiteLimits(cache_gib=kib * KIB / GIB)


def put(cache: Path, key: str, kib: int, used: float) -> Path:
    """An entry that was last used at that time."""
    folder = cache / key
    folder.mkdir(parents=True)
    (folder / "image.npy").write_bytes(bytes(kib * KIB))
    os.utime(folder, (used, used))
    return folder


def used_bytes(cache: Path) -> int:
    files = [path for path in cache.rglob("*") if path.is_file()]
    return sum(f.stat().st_size for f in files if ".in-use" not in f.parts and f.name != ".lock")


def there(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


# ---- which entries go ---------------------------------------------------------------------------


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for key, used in zip(KEYS, (300, 100, 200, 400), strict=False):
        put(tmp_path, key, 10, used)
    lease = make_room(tmp_path, limits(45), {KEYS[9]: 15 * KIB})
    assert there(tmp_path) == [KEYS[0], KEYS[2], KEYS[3]]
    del lease
    make_room(tmp_path, limits(45), {KEYS[8]: 25 * KIB})
    assert there(tmp_path) == [KEYS[0], KEYS[3]]


def test_what_fits_stays(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0], 10, 1)
    make_room(tmp_path, limits(20), {KEYS[1]: 10 * KIB})
    assert there(tmp_path) == [KEYS[0]]


def test_what_the_study_needs_never_goes(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0], 10, used=1)
    put(tmp_path, KEYS[1], 10, used=2)
    make_room(tmp_path, limits(25), {KEYS[0]: 10 * KIB, KEYS[2]: 15 * KIB})
    assert there(tmp_path) == [KEYS[0]]


def test_a_study_that_does_not_fit_is_one_error_before_anything_is_written(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(CacheError, match=r"this study alone needs .* limits\.cache_gib") as caught:
        make_room(cache, SiteLimits(cache_gib=1.0), {KEYS[0]: GIB, KEYS[1]: GIB})
    assert "needs 2 GiB" in str(caught.value)
    assert "allows 1;" in str(caught.value)
    assert not cache.exists()
    put(cache, KEYS[0], 10, 1)
    with pytest.raises(CacheError):
        make_room(cache, limits(20), {KEYS[1]: 21 * KIB})
    assert there(cache) == [KEYS[0]]


def test_only_entries_are_removed(tmp_path: Path) -> None:
    """A site may have pointed `cache` at a folder of other things."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "draft.doc").write_bytes(bytes(100 * KIB))
    (tmp_path / "note.txt").write_bytes(bytes(100 * KIB))
    put(tmp_path, KEYS[0], 10, 1)
    make_room(tmp_path, limits(15), {KEYS[1]: 10 * KIB})
    assert there(tmp_path) == ["note.txt", "thesis"]
    assert (tmp_path / "thesis" / "draft.doc").exists()


# ---- several processes --------------------------------------------------------------------------


def _hold(cache: Path, wanted: dict[str, int], ready: Any, done: Any) -> None:
    lease = make_room(cache, limits(1000), wanted)
    ready.set()
    done.wait(60)
    del lease


def test_what_another_process_needs_stays_until_it_ends(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0], 10, used=1)
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    wanted = {KEYS[0]: 10 * KIB, KEYS[5]: 10 * KIB}
    other = spawn.Process(target=_hold, args=(tmp_path, wanted, ready, done))
    other.start()
    try:
        assert ready.wait(60)
        # Its entry that is there and the one that it is about to write.
        with pytest.raises(CacheError, match="this and what is in use there need"):
            make_room(tmp_path, limits(25), {KEYS[1]: 10 * KIB})
        assert there(tmp_path) == [KEYS[0]]
        make_room(tmp_path, limits(30), {KEYS[1]: 10 * KIB})
        assert there(tmp_path) == [KEYS[0]]
    finally:
        other.kill()
        other.join()
    # Killed: its file is there and no longer locked.
    make_room(tmp_path, limits(25), {KEYS[1]: 20 * KIB})
    assert there(tmp_path) == []


def test_a_lease_ends_with_its_owner(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0], 10, used=1)
    lease = make_room(tmp_path, limits(20), {KEYS[0]: 10 * KIB})
    with pytest.raises(CacheError):
        make_room(tmp_path, limits(20), {KEYS[1]: 11 * KIB})
    # To another process it is nothing.
    assert pickle.loads(pickle.dumps(lease)) is None
    del lease
    make_room(tmp_path, limits(20), {KEYS[1]: 11 * KIB})
    assert there(tmp_path) == []
    assert list((tmp_path / ".in-use").iterdir()) == []


def test_what_killed_processes_left_goes(tmp_path: Path) -> None:
    draft = tmp_path / ".draft-1" / "new"
    draft.mkdir(parents=True)
    (draft / "image.npy").write_bytes(bytes(10 * KIB))
    assert used_bytes(tmp_path) == 10 * KIB
    with pytest.raises(CacheError):  # it may be in the making
        make_room(tmp_path, limits(15), {KEYS[0]: 10 * KIB})
    os.utime(draft.parent, (1, 1))
    make_room(tmp_path, limits(15), {KEYS[0]: 10 * KIB})
    assert not draft.exists()


# ---- a site -------------------------------------------------------------------------------------


@pytest.fixture
def no_resampling(monkeypatch: pytest.MonkeyPatch) -> None:
    def resampled(*_: object) -> None:
        raise AssertionError("a scan was resampled")

    monkeypatch.setattr(client.data.cache, "preprocess_image", resampled)


def with_limits(config: SiteConfig, **changes: Any) -> SiteConfig:
    return config.model_copy(update={"limits": SiteLimits(**changes)})


@pytest.mark.usefixtures("no_resampling")
@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"cache_gib": 0.01}, "limits.cache_gib"),
        ({"max_grid_voxels": 10**6}, "limits.max_grid_voxels of A.yaml: at spacing_mm 0.05"),
        ({"max_memory_gib": 0.5}, "limits.max_memory_gib of A.yaml: to predict the largest scan"),
    ],
)
def test_a_fine_spacing_never_starts_resampling(
    make_site: MakeSite, make_protocol: MakeProtocol, changes: dict[str, Any], limit: str
) -> None:
    """48 mm an edge at .05 mm: 885 million voxels a scan."""
    config = with_limits(
        make_site(), **{"max_grid_voxels": 10**12, "max_memory_gib": 10**6} | changes
    )
    study = make_protocol(spacing_mm=(0.05, 0.05, 0.05))
    with pytest.raises(CacheError, match=limit):
        prepare_site(config, study)
    assert not config.cache.exists()
    found = broken_by_scans(config, study, find_cases(config.data, config))
    assert len(found) == 1
    assert found[0].startswith(limit.partition(" of ")[0])


def test_a_new_spacing_each_time_does_not_grow_the_cache(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_site(labelled=3)
    sizes = []
    room = 3 * most_bytes(24**3 * 2, make_protocol(), labelled=True)
    config = with_limits(config, cache_gib=room / GIB)

    def answer(spacing: float) -> None:
        data = prepare_site(config, make_protocol(spacing_mm=(spacing, 2.0, 2.0)))
        # All of the present study is there.
        assert all(case.image.shape[1:] == (24, 24) for case in data.labelled)

    for number in range(12):
        answer(2.0 + number / 100)
        sizes.append(used_bytes(config.cache))
    assert max(sizes) <= room
    assert sizes[-1] > room / 4
    # The last study's entries, and some of those before.
    assert 3 <= len(there(config.cache)) < 36


def test_a_second_round_reads_no_header(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_site()
    prepare_site(config, make_protocol())

    def refuse(*_: object) -> None:
        raise AssertionError("a header was read")

    monkeypatch.setattr(client.data.cache, "study_voxels", refuse)
    prepare_site(config, make_protocol())


def test_a_scan_whose_header_cannot_be_read_alone_gets_its_room_when_it_is_read(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.data.cache, "study_voxels", lambda *_: None)
    config = make_site(labelled=1)
    with pytest.raises(CacheError, match=r"limits\.cache_gib"):
        prepare_site(with_limits(config, cache_gib=1e-5), make_protocol())
    with pytest.raises(CacheError, match=r"limits\.max_grid_voxels of A\.yaml"):
        prepare_site(with_limits(config, max_grid_voxels=100), make_protocol())
    assert there(config.cache) == []
    assert len(prepare_site(config, make_protocol()).labelled) == 1


def test_the_cache_is_closed_to_other_users(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    before = os.umask(0)
    try:
        config = make_site(labelled=1)
        data = prepare_site(config, make_protocol())
    finally:
        os.umask(before)
    paths = [config.cache, *config.cache.rglob("*")]
    assert len(paths) > 5
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    # One of an earlier version, when it is used again.
    folder = data.labelled[0].folder
    folder.chmod(0o755)
    cached_case(find_cases(config.data, config)[0], config.cache, make_protocol())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# ---- sizes from headers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spacing_mm", [(2.0, 2.0, 2.0), (1.0, 3.0, 0.7), (2.001, 1.999, 2.0), (5.0, 0.5, 50.0)]
)
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_estimate_bounds_what_is_written(
    tmp_path: Path,
    make_protocol: MakeProtocol,
    spacing_mm: tuple[float, float, float],
    axes: tuple[int, int, int],
) -> None:
    """Whatever the order of the scan's axes."""
    image = sitk.GaussianSource(sitk.sitkFloat32, (21, 34, 15), (5.0,) * 3, (9.0,) * 3, 100.0)
    image.SetSpacing((0.9, 1.3, 2.2))
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(sitk.PermuteAxes(image, axes), str(path))
    study = make_protocol(spacing_mm=spacing_mm)
    case = Case(name="x", part="unlabelled", image=path, label=None)
    voxels = study_voxels(case, spacing_mm)
    assert voxels is not None
    cached = cached_case(case, tmp_path / "cache", study)
    assert cached.image.size <= voxels <= 2 * cached.image.size + 100
    size = sum(file.stat().st_size for file in cached.folder.iterdir())
    assert size <= most_bytes(voxels, study, labelled=False)


def test_an_unreadable_header_has_no_size(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"no scan")
    case = Case(name="x", part="unlabelled", image=path, label=None)
    assert study_voxels(case, (1.0, 1.0, 1.0)) is None
