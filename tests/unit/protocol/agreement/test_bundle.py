"""App bundles as the centre may send them: honest, damaged and hostile."""

import hashlib
import io
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import FAB_INCLUDE_PATTERNS, FAB_MAX_SIZE
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.agreement.bundle import (
    MAX_PACKED_BYTES,
    MAX_UNPACKED_BYTES,
    SUFFIXES,
    Bundle,
    BundleError,
    difference,
    installed_bundle,
    read_bundle,
)

PROJECT = b"""[project]
name = "tiny"
version = "1.0.0"

[tool.flwr.app]
publisher = "centre"

[tool.flwr.app.components]
serverapp = "tiny.server:app"
clientapp = "tiny.client:app"
"""
FILES = {"pyproject.toml": PROJECT, "tiny/client.py": b"x = 1\n", "README.md": b"# Tiny\n"}
MANIFEST = ".info/CONTENT"


def manifest(files: dict[str, bytes]) -> bytes:
    return "\n".join(
        f"{name},{hashlib.sha256(content).hexdigest()},{8 * len(content)}"
        for name, content in files.items()
    ).encode("utf-8", "surrogateescape")


def zipped(
    entries: list[tuple[str | zipfile.ZipInfo, bytes]], compression: int = zipfile.ZIP_DEFLATED
) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of duplicate names
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def fab(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    return zipped([*files.items(), (MANIFEST, manifest(files))], compression)


def bundle(**files: bytes) -> Bundle:
    """Straight from content; the digest does not matter to a comparison."""
    return Bundle({name.replace("__", "."): content for name, content in files.items()}, "")


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


@pytest.fixture
def app(tmp_path: Path) -> Path:
    root = tmp_path / "tiny-app"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "LICENSE").write_bytes(b"free\n")
    return root


def test_a_bundle_of_flower_is_read(app: Path) -> None:
    found = read_bundle(build_fab_from_disk(app))
    assert set(found.files) == {*FILES, "LICENSE"}
    assert found.files["tiny/client.py"] == b"x = 1\n"
    lines = sorted(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in found.files.items()
    )
    assert found.digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert installed_bundle(app) == found


def test_the_rules_are_those_of_the_flower_that_is_installed() -> None:
    assert {f"**/*{suffix}" for suffix in SUFFIXES} | {"/LICENSE"} == set(FAB_INCLUDE_PATTERNS)
    assert MAX_PACKED_BYTES == FAB_MAX_SIZE


def test_a_checkout_that_is_none_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"installed version in .*pyproject\.toml not found"):
        installed_bundle(tmp_path)


def test_the_digest_is_of_the_content_only(app: Path) -> None:
    digest = read_bundle(fab(FILES)).digest
    turned = dict(reversed(FILES.items()))
    assert read_bundle(fab(turned)).digest == digest
    assert read_bundle(fab(FILES, zipfile.ZIP_STORED)).digest == digest
    assert fab(FILES, zipfile.ZIP_STORED) != fab(FILES)
    assert read_bundle(fab(FILES | {"README.md": b"# tiny\n"})).digest != digest
    renamed = {name.replace("README", "README2"): content for name, content in FILES.items()}
    assert read_bundle(fab(renamed)).digest != digest


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/x.py", "absolute path"),
        ("../x.py", "not a normal relative path"),
        ("tiny/../../x.py", "not a normal relative path"),
        ("./x.py", "not a normal relative path"),
        ("tiny//x.py", "not a normal relative path"),
        ("tiny/sub/", "not a normal relative path"),
        ("..\\x.py", "backslash"),
        ("tiny\\x.py", "backslash"),
        ("C:x.py", "not every system keeps"),
        ("tiny/x.py\n", "not every system keeps"),
        ("tiny/a,b.py", "not every system keeps"),
        ("tiny /x.py", "not every system keeps"),
        ("tiny./x.py", "not every system keeps"),
        ("tiny/\u202eyp.x.py", "not every system keeps"),
        ("tiny/u\u0308.py", "not every system keeps"),
        ("a/" * 11 + "x.py", "deeper than 10 folders"),
        ("x" * 300 + ".py", "longer than 255"),
        ("tiny/x.so", "not of a type"),
        ("tiny/x.pyc", "not of a type"),
        ("tiny/x.PY", "not of a type"),
        ("tiny/LICENSE", "not of a type"),
        ("tiny/.py", "not of a type"),
        (".gitignore", "not of a type"),
        (".info/x.py", "not of a type"),
        ("TINY/CLIENT.py", "cannot both be there"),
        ("Tiny/other.py", "cannot both be there"),
        ("tiny/client.py/x.py", "cannot both be there"),
        (".INFO/x.py", "cannot both be there"),
    ],
)
def test_a_hostile_name_is_refused(name: str, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        read_bundle(fab(FILES | {name: b"x = 2\n"}))
    assert str(caught.value).isprintable()


def test_a_name_that_goes_on_behind_a_nul_is_refused() -> None:
    marked = fab(FILES | {"tiny/x.py_.txt": b""})
    with pytest.raises(BundleError, match=r"tiny/x.py.x00.txt: has a character in its name"):
        read_bundle(marked.replace(b"tiny/x.py_.txt", b"tiny/x.py\0.txt"))


def test_a_name_that_is_there_twice_is_refused() -> None:
    entries = [*FILES.items(), ("tiny/client.py", b"x = 2\n"), (MANIFEST, manifest(FILES))]
    with pytest.raises(BundleError, match="cannot both be there"):
        read_bundle(zipped(entries))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFCHR])
def test_links_and_special_files_are_refused(kind: int) -> None:
    files = FILES | {"tiny/x.py": b"/etc/passwd"}
    entries = [*FILES.items(), (special("tiny/x.py", kind | 0o777), b"/etc/passwd")]
    with pytest.raises(BundleError, match=r"tiny/x\.py: is a link or other special file"):
        read_bundle(zipped([*entries, (MANIFEST, manifest(files))]))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_is_refused(compression: int) -> None:
    with pytest.raises(BundleError, match="encrypted or compressed by other means"):
        read_bundle(fab(FILES, compression))


def test_an_encrypted_bundle_is_refused() -> None:
    packed = bytearray(fab(FILES))
    place = packed.index(b"PK\1\2")  # the first entry of the central directory
    packed[place + 8] |= 1
    with pytest.raises(BundleError, match="encrypted"):
        read_bundle(bytes(packed))


def test_every_bad_name_is_reported_but_not_a_thousand() -> None:
    bad = {f"/x{number}.py": b"" for number in range(1000)}
    with pytest.raises(BundleError, match="and 990 more") as caught:
        read_bundle(fab(FILES | bad))
    assert len(str(caught.value)) < 1000


def test_too_large_a_bundle_is_refused_before_it_is_opened() -> None:
    with pytest.raises(BundleError, match=f"over the limit of {MAX_PACKED_BYTES}"):
        read_bundle(b"\0" * (MAX_PACKED_BYTES + 1))


def test_a_bomb_is_refused_by_the_sizes_that_it_declares() -> None:
    bomb = fab(FILES | {"tiny/x.json": b" " * (MAX_UNPACKED_BYTES + 1)})
    assert len(bomb) < 100_000
    with pytest.raises(BundleError, match="app bundle: unpacks to 524"):
        read_bundle(bomb)


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    size = MAX_UNPACKED_BYTES + 1
    bomb = fab(FILES | {"tiny/x.json": b" " * size})
    lie = bomb.replace(struct.pack("<L", size), struct.pack("<L", 10))
    assert lie != bomb
    with pytest.raises(BundleError, match="Bad CRC-32"):
        read_bundle(lie)


def test_reading_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.agreement.bundle._check_entries", lambda entries: None)
    monkeypatch.setattr("protocol.agreement.bundle.MAX_UNPACKED_BYTES", 100)
    with pytest.raises(BundleError, match="over the limit of 100"):
        read_bundle(fab(FILES))


@pytest.mark.parametrize(
    "packed",
    [b"", b"PK", b"import os\n", fab(FILES)[:-30], fab(FILES)[:100]],
    ids=["nothing", "two bytes", "text", "cut short", "a beginning"],
)
def test_what_is_no_zip_is_refused(packed: bytes) -> None:
    with pytest.raises(BundleError, match="cannot be read as a zip"):
        read_bundle(packed)


def test_a_bundle_without_project_is_refused() -> None:
    files = {name: content for name, content in FILES.items() if name != "pyproject.toml"}
    with pytest.raises(BundleError, match=r"has no pyproject\.toml"):
        read_bundle(fab(files))


def test_a_manifest_must_be_there_and_be_true() -> None:
    with pytest.raises(BundleError, match=r"has no manifest \.info/CONTENT"):
        read_bundle(zipped(list(FILES.items())))
    honest = manifest(FILES)
    extra = FILES | {"tiny/more.py": b"x = 2\n"}
    changed = FILES | {"tiny/client.py": b"x = 2\n"}
    for files, listed, named in [
        (extra, honest, "tiny/more.py"),
        (FILES, manifest(extra), "tiny/more.py"),
        (changed, honest, "tiny/client.py"),
        (FILES, honest.replace(b",48", b",49"), "tiny/client.py"),
        (FILES, honest + b"\n" + honest, "a line is there twice"),
        (FILES, b"\xff\x1b[2J", r"\xff\x1b[2J"),
    ]:
        with pytest.raises(BundleError, match="manifest disagrees") as caught:
            read_bundle(zipped([*files.items(), (MANIFEST, listed)]))
        assert named in str(caught.value)


@settings(max_examples=300)
@given(st.data())
def test_damage_gives_a_bundle_or_its_error_and_nothing_else(data: st.DataObject) -> None:
    packed = bytearray(fab(FILES))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_bundle(bytes(packed))
    except BundleError as error:
        assert str(error).startswith("app bundle: ")
    else:
        assert found == read_bundle(fab(FILES))  # what was damaged carries no meaning


def test_a_difference_lists_files_and_then_their_lines() -> None:
    old = bundle(a__py=b"1\n2\n3\n", gone__md=b"x\ny\n", same__py=b"s\n")
    new = bundle(a__py=b"1\nII\n3\n4\n", more__py=b"m", same__py=b"s\n")
    assert difference(old, new).splitlines() == [
        "changed  a.py (+2 -1 lines)",
        "removed  gone.md (+0 -2 lines)",
        "added    more.py (+1 -0 lines)",
        "",
        "--- old/a.py",
        "+++ new/a.py",
        "@@ -1,3 +1,4 @@",
        " 1",
        "-2",
        "+II",
        " 3",
        "+4",
        "",
        "--- old/gone.md",
        "+++ /dev/null",
        "@@ -1,2 +0,0 @@",
        "-x",
        "-y",
        "",
        "--- /dev/null",
        "+++ new/more.py",
        "@@ -0,0 +1 @@",
        "+m",
        "\\ No newline at end of file",
    ]


def test_a_difference_to_nothing_is_everything() -> None:
    assert "+x = 1\n" in difference(None, bundle(a__py=b"x = 1\n"))
    assert difference(bundle(a__py=b"x"), bundle(a__py=b"x")) == "no difference\n"
    assert "added    a.py (+0 -0 lines)" in difference(None, bundle(a__py=b""))


def test_nothing_can_paint_over_a_difference() -> None:
    hostile = "a = 1  #\x1b[1A\x1b[2Kb\rc\x08\x7f\x9b31m\u202e\u2066\u200b\u2028d\x0ce\u0430\tf\n"
    shown = difference(bundle(a__py=b""), bundle(a__py=hostile.encode()))
    escaped = (
        r"+a = 1  #\x1b[1A\x1b[2Kb\rc\x08\x7f\u009b31m\u202e\u2066\u200b\u2028d\x0ce\u0430"
        "\tf\n"
    )
    assert shown.endswith(escaped)
    assert "(+1 -0 lines)" in shown
    assert all(character in "\n\t" or " " <= character <= "~" for character in shown)


def test_a_control_character_and_its_escape_differ() -> None:
    shown = difference(bundle(a__py=b"'\x1b'\n"), bundle(a__py=rb"'\x1b'" + b"\n"))
    assert "(+1 -1 lines)" in shown


def test_what_python_would_read_otherwise_is_reported() -> None:
    shown = difference(None, bundle(a__py=b"# coding: latin-1\ns = '\xe9'\n", b__md=b"\xff\n"))
    assert "! a.py is not UTF-8" in shown
    assert "! Python reads a.py as iso-8859-1" in shown
    assert r"+s = '\xe9'" in shown
    assert "! b.md is not UTF-8" in shown
    assert "Python reads b.md" not in shown
    hidden = difference(None, bundle(a__py=b"# coding: unicode_escape\n# \\x0aimport os\n"))
    assert "! Python reads a.py as unicode_escape" in hidden
    broken = difference(None, bundle(a__py=b"s = '\xe9'\n"))
    assert "! Python reads a.py as nothing" in broken
    assert "!" not in difference(None, bundle(a__py=b"# coding: utf-8\n"))
