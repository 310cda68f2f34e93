"""The page: what it shows and to whom, for people, programs and Prometheus."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from made_centre import (
    admit,
    busy_centre,
    declared,
    made_centre,
    make_run,
    node,
    round_event,
    start_events,
    write_events,
)
from prometheus_client.parser import text_string_to_metric_families
from rooms import ROOT
from starlette.testclient import TestClient

from flower_compat.control import Node, SuperLinkUnreachable
from server.admin.centre import Centre
from server.monitoring.run_folder import RunFolder
from server.service.overview import OverviewReader
from server.service.page import Look, PageError, build_page, host_of, serve_page
from server.service.page_text import index_page, notices, state_line
from server.service.superlink import SuperLinkWatch

NOW = datetime.now(UTC)
EVIL = "<script>alert(1)</script>\" onload='x' \x1b[2J\u202e{{ 7*7 }}"


def client(centre: Centre, nodes: Sequence[Node], hosts: Sequence[str] = ()) -> TestClient:
    watch = SuperLinkWatch(lambda: nodes)
    watch.look()
    look = Look(reader=OverviewReader(centre=centre), watch=watch)
    return TestClient(build_page(look, hosts), base_url="http://127.0.0.1:9095")


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Studies at work, paused and finished; an offline site and a removed one."""
    centre, nodes = busy_centre(tmp_path_factory.mktemp("busy") / "centre", NOW)
    with RunFolder(centre.runs / "pelvis-2026").lock():
        yield client(centre, nodes)


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return made_centre(tmp_path / "centre")


@dataclass
class Tags(HTMLParser):
    """Every tag with its attributes, and all text."""

    found: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.text += " " if tag in ("td", "th", "dt", "p", "li") else ""

    def handle_data(self, data: str) -> None:
        self.text += data


def tags(page: str) -> Tags:
    made = Tags()
    made.feed(page)
    return made


def words(page: str) -> str:
    return " ".join(tags(page).text.split())


# ---- what it shows ------------------------------------------------------------------------------


def test_one_look(busy: TestClient) -> None:
    page = words(busy.get("/").text)
    assert "1 study at work; 3 of 4 sites connected." in page
    assert "pelvis-2026 at work sites train, 1 of 3 answered 18 of 40 36:48" in page
    assert "prostate-pilot paused by a person 8 of 60" in page
    assert "oldtown removed since" in page and "hill offline since" in page
    assert "still to answer harbour, lakeside" in page
    assert "round 12, lakeside: ClientAppCrashed" in page
    assert "this page only shows; type asdnet-centre pause pelvis-2026" in page
    assert "type asdnet-centre resume prostate-pilot" in page
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in page


def test_one_study(busy: TestClient) -> None:
    page = busy.get("/study/bladder-2025").text
    assert "Study bladder-2025" in words(page) and "pelvis-2026" not in page
    assert page.count("<polyline") == 4 * 4
    assert busy.get("/study/none").status_code == 404


def test_a_report_is_served_where_there_is_one(busy: TestClient) -> None:
    report = busy.get("/report/bladder-2025")
    assert "<title>report</title>" in report.text
    assert "script-src" not in report.headers["Content-Security-Policy"]
    for other in ("pelvis-2026", "none", "..%2f..%2fcentre.json", "%2e%2e"):
        assert busy.get(f"/report/{other}").status_code == 404


def test_an_empty_centre(centre: Centre) -> None:
    page = words(client(centre, []).get("/").text)
    assert "0 studies at work; 0 of 0 sites connected." in page
    assert "asdnet-centre run --study study.yaml" in page
    assert "asdnet-centre add-site SITE --public-key FILE" in page


def test_a_silent_superlink_is_the_first_thing_that_is_read(centre: Centre) -> None:
    admit(centre, ["A"])
    times = [NOW - timedelta(minutes=5)]

    def refuse() -> list[Node]:
        raise SuperLinkUnreachable("the SuperLink does not answer (ConnectError)")

    watch = SuperLinkWatch(refuse, clock=lambda: times[0])
    times[0] = NOW
    watch.look()
    look = Look(reader=OverviewReader(centre=centre), watch=watch)
    page = TestClient(build_page(look), base_url="http://localhost").get("/").text
    since = f"{(NOW - timedelta(minutes=5)).astimezone():%Y-%m-%d %H:%M:%S}"
    assert f"The SuperLink does not answer since {since}" in page
    assert "(ConnectError). What is below comes from the centre" in page
    assert "which sites are connected is not known" in page
    assert "offline" not in words(page)


def test_before_the_superlink_was_asked_it_is_not_said_to_be_silent(centre: Centre) -> None:
    look = Look(reader=OverviewReader(centre=centre), watch=SuperLinkWatch(list))
    page = TestClient(build_page(look), base_url="http://localhost").get("/").text
    assert "the SuperLink is being asked" in page and "does not answer since" not in page


def test_what_needs_a_person(centre: Centre) -> None:
    seen = OverviewReader(centre=centre).read(
        SuperLinkWatch(list).nodes(), NOW + timedelta(days=390, hours=1)
    )
    assert any("The certificate server ends in 6 days." in line for line in notices(seen))
    late = OverviewReader(centre=centre).read(
        SuperLinkWatch(list).nodes(), NOW + timedelta(days=400)
    )
    assert "The certificate server has ended: no site can connect." in notices(late)
    full = seen.model_copy(
        update={"centre": seen.centre.model_copy(update={"disk_free_bytes": 2**30})}
    )
    assert "Of the centre's disk 1.0 GiB are free." in notices(full)
    assert "not known" in state_line(seen)


def test_the_page_is_for_everybody(busy: TestClient) -> None:
    found = tags(busy.get("/").text).found
    assert ("html", {"lang": "en"}) in found
    for tag, attributes in found:
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        if tag == "svg" and attributes.get("aria-hidden") != "true":
            assert attributes["role"] == "img" and attributes["aria-label"]
        if tag == "td":
            assert attributes["data-label"]
    assert sum(tag == "h1" for tag, _ in found) == 1
    live = {a["id"]: a.get("role") for _, a in found if a.get("id") in ("state", "alarm")}
    assert live == {"state": "status", "alarm": "alert"}


def test_it_says_that_its_script_has_not_run(busy: TestClient) -> None:
    page = busy.get("/").text
    assert '<p id="live" class="caution">This page does not renew itself' in page
    assert 'live.classList.remove("caution")' in busy.get("/page.js").text


# ---- whom it answers ----------------------------------------------------------------------------


def test_nothing_comes_from_elsewhere(busy: TestClient) -> None:
    for path in ("/", "/study/pelvis-2026", "/page.js", "/style.css"):
        text = busy.get(path).text
        outside = set(re.findall(r"[a-z]+://[^\"'\s)<]+", text)) - {"sqlite:///mlflow.db"}
        # A link to be followed, and nothing that a browser loads.
        assert {url for url in outside if not url.startswith("https://mlflow.example.org")} == set()
        loaded = [
            attributes.get("src") or attributes.get("href")
            for tag, attributes in tags(text).found
            if tag in ("script", "link", "img", "iframe", "use", "image")
        ]
        assert set(loaded) <= {"/page.js", "/style.css", "data:,"}
        assert "@import" not in text and "url(" not in text
    inline = [a for t, a in tags(busy.get("/").text).found if t == "script" and "src" not in a]
    assert inline == []
    styled = [a for _, a in tags(busy.get("/").text).found if "style" in a]
    assert styled == []


@pytest.mark.parametrize("path", ["/", "/api/overview", "/metrics", "/health", "/none"])
def test_every_answer_has_the_headers(busy: TestClient, path: str) -> None:
    headers = busy.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert "set-cookie" not in headers and "access-control-allow-origin" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_shows(busy: TestClient, method: str) -> None:
    for path in ("/", "/api/overview", "/study/pelvis-2026"):
        assert busy.request(method, path).status_code == 405


@pytest.mark.parametrize(
    ("header", "answers"),
    [
        ("127.0.0.1:9095", True),
        ("localhost", True),
        ("[::1]:9095", True),
        ("CENTRE.example.org:9095", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:9095", False),
        ("evil.example:127.0.0.1", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_only_who_asks_by_name_is_answered(centre: Centre, header: str, answers: bool) -> None:
    asked = client(centre, [], ["0.0.0.0", "centre.example.org"])
    for path in ("/", "/api/overview", "/metrics", "/health"):
        answer = asked.get(path, headers={"Host": header})
        assert (answer.status_code == 200) is answers
        assert answers or "sites" not in answer.text


def test_a_host_is_its_name_without_the_port() -> None:
    assert host_of("[2001:DB8::1]:80") == "2001:db8::1"
    assert host_of("Localhost:1") == "localhost"


# ---- words of sites -----------------------------------------------------------------------------


@pytest.fixture
def hostile(centre: Centre) -> TestClient:
    """Every word that a site, a study or an event can have is a script."""
    keys = admit(centre, ["north"])
    run = make_run(centre, "one", uri=f"sqlite:///{EVIL}")
    at = NOW.isoformat()
    sites = ["north", EVIL]
    begun = start_events(["north"], 4, NOW)
    begun[2] |= {"cases": {EVIL: declared(["north"])["north"] | {"refused": {EVIL: 2}}}}
    odd = round_event(1, ["north"], NOW, {"north": EVIL})
    odd["validation_dsc"] = {EVIL: {EVIL: 0.5, "bladder": 0.4}}
    odd["losses"], odd["mlflow_run"] = {EVIL: {"total": 1.0}}, EVIL
    write_events(
        run,
        [
            *begun,
            odd,
            {"time": at, "kind": "waits", "site": "north", "why": EVIL},
            {"time": at, "kind": "called", "round": 2, "what": EVIL, "sites": [EVIL]},
            {"time": at, "kind": "hint", "line": EVIL},
            {"time": at, "kind": "waits", "site": EVIL, "why": EVIL},
            {"time": at, "kind": "called", "round": 2, "what": EVIL, "sites": sites},
        ],
    )
    write_events(make_run(centre, "two"), [*begun, {"time": at, "kind": "failed", "reason": EVIL}])
    (make_run(centre, "three").path / "run.json").write_text(json.dumps({EVIL: EVIL}))
    with run.lock():
        made = client(centre, [node("north", keys["north"], "online", NOW)])
        made.get("/")
        yield made


@pytest.mark.parametrize("path", ["/", "/study/one", "/study/two"])
def test_no_word_of_a_site_becomes_markup(hostile: TestClient, path: str) -> None:
    page = hostile.get(path).text
    assert "&lt;script&gt;alert(1)" in page
    found = tags(page)
    assert [a for tag, a in found.found if tag == "script"] == [{"src": "/page.js", "defer": None}]
    assert not any(name.startswith("on") for _, a in found.found for name in a)
    assert "\x1b" not in page and "\u202e" not in page and "49" not in found.text.split()


def test_no_word_of_a_site_becomes_a_metric(hostile: TestClient) -> None:
    text = hostile.get("/metrics").text
    families = {f.name: f for f in text_string_to_metric_families(text)}
    assert all(name.startswith("asdnet_") for name in families)
    sites = {s.labels["site"] for s in families["asdnet_site_rounds"].samples}
    assert EVIL in sites


def test_json_is_json(hostile: TestClient) -> None:
    answer = hostile.get("/api/overview")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["studies"][0]["name"] == "one"


def test_json_of_all_has_no_curves_and_that_of_one_study_has_them(busy: TestClient) -> None:
    seen = busy.get("/api/overview").json()
    assert len(seen["studies"]) == 3 and "dsc" not in seen["studies"][0]
    assert seen["sites"][0]["cases"]["unlabelled"] == 30
    study = busy.get("/api/study/bladder-2025").json()
    assert [len(curve["rounds"]) for curve in study["losses"]] == [20, 20, 19, 16]
    assert busy.get("/api/study/none").status_code == 404


# ---- metrics ------------------------------------------------------------------------------------


class Samples:
    """What Prometheus reads: a value by the metric's name and its labels."""

    def __init__(self, text: str) -> None:
        self._found = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._found.get((f"asdnet_{name}", frozenset(labels.items())))


def test_metrics(busy: TestClient) -> None:
    answer = busy.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    value = Samples(answer.text)
    assert (value("superlink_up"), value("sites_connected"), value("sites_admitted")) == (1, 3, 4)
    pelvis, bladder = {"study": "pelvis-2026"}, {"study": "bladder-2025"}
    assert value("study_state", **pelvis, state="at work") == 1
    assert value("study_state", **pelvis, state="paused") == 0
    assert value("study_rounds_total", **pelvis) == 17
    assert value("study_sites_answered", **pelvis) == 1
    assert value("study_remaining_seconds", **pelvis) == 23 * 96
    assert value("study_remaining_seconds", **bladder) is None
    assert value("site_state", site="oldtown", state="removed") == 1
    assert value("site_state", site="oldtown", state="offline") == 0
    assert value("site_rounds_left_out_total", **bladder, site="oldtown") == 4
    assert value("site_cases", site="north", part="unlabelled") == 64
    dsc = value("validation_dsc_ratio", **pelvis, site="north", organ="rectum")
    assert dsc is not None and 0 < dsc < 1
    ends = value("certificate_expiry_timestamp_seconds", certificate="server")
    assert ends is not None and ends > NOW.timestamp()


def test_the_names_of_metrics_are_of_prometheus(busy: TestClient) -> None:
    text = busy.get("/metrics").text
    for family in text_string_to_metric_families(text):
        assert re.fullmatch(r"asdnet_[a-z_]+", family.name) and family.documentation
        assert family.type in ("gauge", "counter")
    assert "python_info" not in text and "process_" not in text


def test_the_guide_has_every_metric(busy: TestClient) -> None:
    made = set(re.findall(r"^# HELP (\w+)", busy.get("/metrics").text, re.M))
    guide = (ROOT / "docs" / "guides" / "centre.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(asdnet_\w+)`", guide)) - {"asdnet_models"} == made


def test_without_the_superlink_no_number_of_sites_is_made_up(centre: Centre) -> None:
    admit(centre, ["A"])
    watch = SuperLinkWatch(list)
    look = Look(reader=OverviewReader(centre=centre), watch=watch)
    text = TestClient(build_page(look), base_url="http://localhost").get("/metrics").text
    value = Samples(text)
    assert (value("sites_connected"), value("superlink_up")) == (None, 0)


# ---- the SuperLink ------------------------------------------------------------------------------


def test_since_when_the_superlink_is_silent() -> None:
    time = [NOW]
    answers: list[Exception | list[Node]] = []

    def ask() -> list[Node]:
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = SuperLinkWatch(ask, clock=lambda: time[0])
    answers.append([])
    watch.look()
    assert watch.nodes().nodes == []
    for minute in (1, 2):
        time[0] = NOW + timedelta(minutes=minute)
        answers.append(SuperLinkUnreachable("no answer"))
        watch.look()
        silent = watch.nodes()
        assert (silent.nodes, silent.silent_since, silent.silence) == (None, NOW, "no answer")
    answers.append([])
    watch.look()
    assert watch.nodes().silent_since is None


def test_an_old_answer_is_none() -> None:
    """A question that hangs is not shown as an answer for ever."""
    time = [NOW]
    watch = SuperLinkWatch(list, clock=lambda: time[0])
    watch.look()
    time[0] = NOW + timedelta(seconds=59)
    assert watch.nodes().nodes == []
    time[0] = NOW + timedelta(seconds=61)
    assert watch.nodes() != watch.nodes().nodes and watch.nodes().silent_since == NOW


# ---- served -------------------------------------------------------------------------------------


def test_it_is_served_from_a_thread(centre: Centre) -> None:
    page = serve_page(centre, SuperLinkWatch(list), "127.0.0.1", 0)
    try:
        answer = httpx.get(f"{page.url}health", timeout=20)
        assert (answer.status_code, answer.text) == (200, "ok\n")
        assert "server" not in answer.headers
        port = int(page.url.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(PageError, match=f"served on port {port} of 127.0.0.1: .*give another"):
            serve_page(centre, SuperLinkWatch(list), "127.0.0.1", port)
    finally:
        page.close()


def test_a_long_study_is_a_small_page(centre: Centre) -> None:
    sites = ["harbour", "lakeside", "north"]
    run = make_run(centre, "one", rounds=800)
    write_events(run, start_events(sites, 800, NOW))
    write_events(run, [round_event(n, sites, NOW, {}) for n in range(1, 601)])
    with run.lock():
        seen = OverviewReader(centre=centre).read(SuperLinkWatch(list).nodes(), NOW)
    page = index_page(seen)
    assert len(page) < 60_000
    for curve in re.findall(r'points="([^"]*)"', page):
        assert 100 < len(curve.split()) <= 150
