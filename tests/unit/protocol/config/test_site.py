"""A site's file: facts of one hospital, its paths counted from the file."""

from pathlib import Path

import pytest

from protocol.config.site import SiteConfig, read_site
from protocol.config.study import ProtocolError

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
    assert (config.compile, config.accumulate) == (False, 1)


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


def test_missing_keys_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_site(write(tmp_path, "site: A\n"))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["data", "cache", "state"]
    assert all(line.endswith("is missing") for line in lines)


@pytest.mark.parametrize("name", ["", "a b", "../A", "a.b", "-a", "a" * 33])
def test_a_site_name_is_short_and_plain(tmp_path: Path, name: str) -> None:
    text = LAWFUL.replace("site: A", f"site: '{name}'")
    with pytest.raises(ProtocolError, match="site: must be 1 to 32 letters, digits"):
        read_site(write(tmp_path, text))


def test_the_files_of_the_example_hospitals_are_valid() -> None:
    files = sorted((Path(__file__).parents[4] / "site_configs").glob("*.yaml"))
    assert [read_site(path).site for path in files] == ["A", "B", "C", "D", "E", "F"]


def test_beside_changes_paths_alone(tmp_path: Path) -> None:
    config = SiteConfig(site="A", data=Path("d"), cache=Path("c"), state=Path("s"), threads=2)
    moved = config.in_folder(tmp_path)
    assert (moved.data, moved.cache, moved.state) == tuple(tmp_path / part for part in "dcs")
    assert (moved.site, moved.threads) == ("A", 2)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("centre.example.org:9092", "centre.example.org:9092"),
        ("https://centre.example.org:9092", "centre.example.org:9092"),
        ("192.0.2.7:443", "192.0.2.7:443"),
        ("[::1]:9092", "[::1]:9092"),
        ("https://[2001:db8::7]:9092", "[2001:db8::7]:9092"),
    ],
)
def test_the_centre_is_host_and_port(tmp_path: Path, written: str, meant: str) -> None:
    assert read_site(write(tmp_path, f"{LAWFUL}centre: '{written}'\n")).centre == meant


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("http://centre.example.org:9092", "plain HTTP is refused; write host:port"),
        ("centre.example.org", "must be host:port, such as centre.example.org:9092 or "),
        ("centre.example.org:", "must be host:port"),
        ("centre.example.org:grpc", "must be host:port"),
        ("centre.example.org:-1", "must be host:port"),
        (":9092", "must be host:port"),
        ("9092", "must be host:port"),
        ("", "must be host:port"),
        ("https://", "must be host:port"),
        ("https://centre.example.org:9092/", "must be host:port"),
        ("https://https://centre.example.org:9092", "must be host:port"),
        ("HTTP://centre.example.org:9092", "must be host:port"),
        ("grpc://centre.example.org:9092", "must be host:port"),
        ("[::1]", "must be host:port"),
    ],
)
def test_what_is_no_address_is_refused(tmp_path: Path, written: str, rule: str) -> None:
    with pytest.raises(ProtocolError, match=rf"A\.yaml: centre: .*{rule}"):
        read_site(write(tmp_path, f"{LAWFUL}centre: '{written}'\n"))


@pytest.mark.parametrize(
    "written",
    [
        "centre.example.org:99999",
        "centre.example.org:65536",
        "centre.example.org:99999999999",
        "centre.example.org:0",
        "centre.example.org:٩٠",
        "centre example:9092",
        "::1:9092",
        "[::1:9092",
        "[centre]:9092",
        "centre.example.org:9092\t",
        " centre.example.org:9092",
        "zentrum-köln.example.org:9092",
        "a@centre.example.org:9092",
        "centre.example.org:90:92",
    ],
)
def test_what_can_be_no_address_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(ProtocolError, match=r"A\.yaml: centre: must be host:port, such as "):
        read_site(write(tmp_path, f"{LAWFUL}centre: '{written}'\n"))


def test_a_site_without_a_centre_only_simulates(tmp_path: Path) -> None:
    config = read_site(write(tmp_path, LAWFUL))
    assert config.centre is None
    assert config.approved_bundles == ()


def test_certificate_and_key_are_in_the_state_folder(tmp_path: Path) -> None:
    config = read_site(write(tmp_path, LAWFUL.replace("/var/lib/state", "state")))
    state = tmp_path / "site_configs" / "state"
    assert (config.ca, config.key) == (None, None)
    assert config.ca_file == state / "ca.pem"
    assert config.key_file == state / "site.key"
    assert config.audit_file == state / "audit.jsonl"
    assert config.protocol_file == state / "protocol.json"
    assert config.bundles == state / "bundles"


def test_certificate_and_key_count_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, LAWFUL + "ca: ../tls/ca.pem\nkey: A.key\n")
    monkeypatch.chdir("/")
    config = read_site(path)
    assert config.ca_file == tmp_path / "tls" / "ca.pem"
    assert config.key_file == path.parent / "A.key"
    path.write_text(LAWFUL + "ca: /etc/site/ca.pem\n")
    assert read_site(path).ca_file == Path("/etc/site/ca.pem")


def test_an_approved_bundle_is_a_digest(tmp_path: Path) -> None:
    text = f"{LAWFUL}approved_bundles: ['{'0' * 64}', '{'af' * 32}']\n"
    assert read_site(write(tmp_path, text)).approved_bundles == ("0" * 64, "af" * 32)
    for wrong in ("0" * 63, "F" * 64, "0" * 64 + "x"):
        with pytest.raises(ProtocolError, match=r"approved_bundles\.1"):
            read_site(write(tmp_path, text.replace("af" * 32, wrong)))


def test_the_centres_key_is_in_the_state_folder_unless_named(tmp_path: Path) -> None:
    config = read_site(write(tmp_path, LAWFUL))
    assert config.centre_key_file == Path("/var/lib/state/centre.pub")
    assert config.studies == Path("/var/lib/state/studies")
    named = read_site(write(tmp_path, LAWFUL + "centre_key: keys/centre.pub\n"))
    assert named.centre_key_file == tmp_path / "site_configs" / "keys" / "centre.pub"
