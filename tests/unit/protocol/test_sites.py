"""A site's file: facts of one hospital, its paths counted from the file."""

from pathlib import Path

import pytest

from protocol.sites import SiteConfig, read_site
from protocol.study import ProtocolError

LAWFUL = "site: A\ndata: ../hospitals/A\ncache: cache\nstate: /var/lib/state\n"


def write(folder: Path, text: str, name: str = "A.yaml") -> Path:
    path = folder / "site_configs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_relative_paths_count_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, LAWFUL)
    monkeypatch.chdir("/")
    config = read_site(path)
    assert config.data == tmp_path / "hospitals" / "A"
    assert config.cache == tmp_path / "site_configs" / "cache"
    assert config.state == Path("/var/lib/state")


def test_defaults_are_cautious(tmp_path: Path) -> None:
    config = read_site(write(tmp_path, LAWFUL))
    assert (config.device, config.threads, config.min_cases_reported) == ("auto", 0, 3)


def test_the_name_must_be_the_files(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"B\.yaml: site is 'A', but the file is named 'B'"):
        read_site(write(tmp_path, LAWFUL, "B.yaml"))


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices(tmp_path: Path, device: str) -> None:
    assert read_site(write(tmp_path, LAWFUL + f"device: {device}\n")).device == device


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("device: gpu", "device"),
        ("device: 'cuda:x'", "device"),
        ("threads: -1", "threads"),
        ("min_cases_reported: 0", "min_cases_reported"),
        ("learning_rate: 1", "learning_rate: unknown key"),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path: Path, line: str, key: str) -> None:
    with pytest.raises(ProtocolError, match=rf"A\.yaml: {key}"):
        read_site(write(tmp_path, LAWFUL + line))


def test_missing_keys_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_site(write(tmp_path, "site: A\n"))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["data", "cache", "state"]
    assert all("Field required" in line for line in lines)


@pytest.mark.parametrize("name", ["", "a b", "../A", "a.b", "-a", "a" * 33])
def test_a_site_name_is_short_and_plain(tmp_path: Path, name: str) -> None:
    text = LAWFUL.replace("site: A", f"site: '{name}'")
    with pytest.raises(ProtocolError, match="site: String should match"):
        read_site(write(tmp_path, text))


def test_the_files_of_the_example_hospitals_are_lawful() -> None:
    files = sorted((Path(__file__).parents[3] / "site_configs").glob("*.yaml"))
    assert [read_site(path).site for path in files] == ["A", "B", "C", "D", "E", "F"]


def test_beside_changes_paths_alone(tmp_path: Path) -> None:
    config = SiteConfig(site="A", data=Path("d"), cache=Path("c"), state=Path("s"), threads=2)
    moved = config.beside(tmp_path)
    assert (moved.data, moved.cache, moved.state) == tuple(tmp_path / part for part in "dcs")
    assert (moved.site, moved.threads) == ("A", 2)
