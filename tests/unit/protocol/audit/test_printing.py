"""The commands that tell an audit log, at a hospital and at the centre."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client.cli import app as site_app
from protocol.audit.log import AuditLog
from protocol.audit.verification import verify
from server.cli import app as centre_app

CENTRE = "centre.example.org:9092"
WEIGHTS = {
    "segmenter tensors": 62,
    "segmenter bytes": 1_200_000,
    "confidence tensors": 12,
    "confidence bytes": 34_567,
}
EVERYTHING_ELSE = "Images, label maps, file names and patient identifiers are not among"


class Study:
    """A site and a centre that have each logged two rounds."""

    def __init__(self, folder: Path) -> None:
        self.configs = folder / "site_configs"
        self.centre = folder / "centre"
        self.site_log = folder / "state" / "audit.jsonl"
        self.centre_log = self.centre / "audit.jsonl"
        self.configs.mkdir()
        self.centre.mkdir()
        (self.configs / "A.yaml").write_text(
            f"site: A\ndata: ../d\ncache: ../c\nstate: ../state\ncentre: {CENTRE}\n"
        )

    def logged(self) -> "Study":
        site, centre = AuditLog(self.site_log), AuditLog(self.centre_log)
        for number in (1, 2):
            run = f"run-{number}"
            down = {"run": run, "round": number, "bytes": 1_234_600, "sha256": f"{number}" * 64}
            up = down | {"bytes": 1_235_000, "sha256": f"{number + 4}" * 64}
            centre.append("sent", "train instruction", peer="B", **down)
            centre.append("sent", "train instruction", peer="A", **down)
            site.append("received", "train instruction", peer=CENTRE, items=WEIGHTS, **down)
            items = WEIGHTS | {"metrics values": 37, "site values": 1}
            site.append("sent", "train reply", peer=CENTRE, items=items, **up)
            centre.append("received", "train reply", peer="A", items=items, **up)
        site.append("refused", "bundle", peer=CENTRE, reason="not approved at this site")
        return self

    def ask_site(self, *arguments: str) -> Result:
        given = ["--site", "A", "--configs", str(self.configs), *arguments]
        return CliRunner().invoke(site_app, ["audit", *given])

    def ask_centre(self, *arguments: str) -> Result:
        return CliRunner().invoke(centre_app, ["audit", "--centre", str(self.centre), *arguments])


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.delenv("COLUMNS", raising=False)
    return Study(tmp_path)


def words(result: Result) -> str:
    """What was printed, however it was wrapped."""
    return " ".join(result.stdout.split())


def test_an_unchanged_log_is_reported_in_words(study: Study) -> None:
    result = study.logged().ask_site()
    assert result.exit_code == 0
    text = words(result)
    verification = verify(study.site_log)
    first, last = (verification.entries[i].time for i in (0, -1))
    assert (
        f"The log is complete and unchanged: 5 entries from {first[:10]} {first[11:19]} UTC "
        f"to {last[:10]} {last[11:19]} UTC, last hash {verification.head}" in text
    )
    assert "What left: 2 messages, 2,470,000 bytes in all" in text
    assert f"to {CENTRE}" in text
    assert "numbers: 74" in text
    assert "name of the site: 2" in text
    assert "What came in: 2 messages, 2,469,200 bytes in all" in text
    assert f"from {CENTRE}" in text
    assert "What was refused: 1 message, 0 bytes in all" in text
    assert "reason: not approved at this site" in text
    assert "Notes of the log about itself: nothing" in text
    assert EVERYTHING_ELSE in text
    assert "can carry traces" in text
    assert "Write the last hash down" in text
    assert "BUT the log also names" not in text


def test_weights_are_shown_as_weights(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    result = study.logged().ask_site("--run", "run-1")
    assert "weights of the networks: 74 tensors, 1,234,567 bytes" in words(result)


def test_eighty_columns_hold_it_when_piped(study: Study) -> None:
    study.logged()
    AuditLog(study.site_log).append(
        "refused", "x" * 200, peer="y" * 90, bytes=2**62, reason="z" * 90
    )
    lines = study.ask_site().stdout.splitlines()
    # The path of the log alone may be longer: a path that is broken cannot be copied.
    assert max(len(line) for line in lines[1:]) <= 80
    assert "\x1b" not in "".join(lines)


def test_days_and_runs_choose_what_is_shown_but_all_is_verified(study: Study) -> None:
    study.logged()
    text = words(study.ask_site("--run", "run-2"))
    assert "5 entries from" in text
    assert "Below: 2 of 5 entries; run run-2." in text
    assert "What left: 1 message, 1,235,000 bytes" in text
    day = verify(study.site_log).entries[0].time[:10]
    assert "Below: 5 of 5 entries" in words(study.ask_site("--since", day))
    none = words(study.ask_site("--since", "2999-01-01"))
    assert "Below: 0 of 5 entries; since 2999-01-01 (UTC)." in none
    assert "What left: nothing" in none


def test_a_changed_log_is_status_1_with_the_line(study: Study) -> None:
    lines = study.logged().site_log.read_bytes().splitlines(keepends=True)
    study.site_log.write_bytes(b"".join([lines[0], *lines[2:]]))
    result = study.ask_site("--run", "no such run")
    assert result.exit_code == 1
    assert "THE LOG WAS CHANGED OR DAMAGED: 1 fault, 4 entries." in words(result)
    assert "- line 2 is entry 3 where 2 is due" in words(result)
    assert "What to do: keep the file as it is" in words(result)
    assert "complete and unchanged" not in words(result)


def test_many_faults_are_counted_not_listed(study: Study) -> None:
    study.site_log.parent.mkdir()
    study.site_log.write_bytes(b"?\n" * 25)
    result = study.ask_site()
    assert result.exit_code == 1
    assert "25 faults, 0 entries" in words(result)
    assert result.stdout.count("is malformed") == 20
    assert "and 5 more; --json lists all" in words(result)
    assert len(json.loads(study.ask_site("--json").stdout)["faults"]) == 25


def test_a_torn_end_is_reported_without_alarm(study: Study) -> None:
    study.logged().site_log.open("ab").write(b"{half")
    result = study.ask_site()
    assert result.exit_code == 1
    assert "unchanged except for its last line, which is incomplete" in words(result)
    assert "line 6 is a torn last line of 5 bytes" in words(result)
    assert "What to do" not in words(result)
    AuditLog(study.site_log).append("note", "started", peer="")
    result = study.ask_site()
    assert result.exit_code == 0
    assert "Notes of the log about itself: 2 notes" in words(result)
    assert "bytes removed: 5" in words(result)


@pytest.mark.parametrize("ask", [Study.ask_site, Study.ask_centre])
def test_no_log_yet_is_an_ordinary_state(study: Study, ask: Callable[..., Result]) -> None:
    result = ask(study)
    assert result.exit_code == 0
    assert "nothing has been sent yet" in words(result)
    report = json.loads(ask(study, "--json").stdout)
    assert (report["entries_in_log"], report["last_hash"], report["faults"]) == (0, None, [])


def test_a_noted_hash_shows_a_cut_end(study: Study) -> None:
    noted = verify(study.logged().site_log).head
    result = study.ask_site("--noted", noted[:16].upper())
    assert result.exit_code == 0
    assert "The noted hash is that of entry 5" in words(result)
    lines = study.site_log.read_bytes().splitlines(keepends=True)
    study.site_log.write_bytes(b"".join(lines[:4]))
    result = study.ask_site("--noted", noted)
    assert result.exit_code == 1
    assert "The noted hash is NOT IN THE LOG" in words(result)
    assert json.loads(study.ask_site("--noted", noted, "--json").stdout)["noted"] is None
    study.site_log.unlink()
    assert study.ask_site("--noted", noted).exit_code == 1


def test_a_noted_hash_in_a_changed_log_proves_nothing(study: Study) -> None:
    lines = study.logged().site_log.read_bytes().splitlines(keepends=True)
    noted = verify(study.site_log).head
    study.site_log.write_bytes(b"".join(lines[1:]))
    result = study.ask_site("--noted", noted)
    assert result.exit_code == 1
    assert "; but the log has faults." in words(result)


def test_two_sides_that_agree(study: Study) -> None:
    study.logged()
    site = study.ask_site("--compare", str(study.centre_log))
    centre = study.ask_centre("--site", "A", "--compare", str(study.site_log))
    for result in (site, centre):
        assert result.exit_code == 0
        assert "The logs of the two sides agree: 4 messages are in both logs." in words(result)


def test_two_sides_that_differ(study: Study) -> None:
    study.logged()
    AuditLog(study.site_log).append(
        "sent", "train reply", peer=CENTRE, run="run-2", sha256="e" * 64
    )
    AuditLog(study.centre_log).append("sent", "train instruction", peer="A", run="run-1")
    for result in (
        study.ask_site("--compare", str(study.centre_log)),
        study.ask_centre("--site", "A", "--compare", str(study.site_log)),
    ):
        assert result.exit_code == 1
        text = words(result)
        assert "THE LOGS OF THE TWO SIDES DIFFER: 4 messages are in both logs, 2 in one" in text
        assert "site 6 sent train reply 0 eeeeeeeeeeee" in text
        assert "centre 7 sent train instruction 0 no digest" in text
        assert "may have been lost or have come too late" in text
    report = json.loads(
        study.ask_site("--compare", str(study.centre_log), "--run", "run-2", "--json").stdout
    )["comparison"]
    assert (report["agree"], report["in_both"]) == (False, 4)
    assert [entry["seq"] for entry in report["only_at_site"]] == [6]
    assert report["only_at_centre"] == []


def test_faults_of_the_other_log_are_reported(study: Study) -> None:
    lines = study.logged().centre_log.read_bytes().splitlines(keepends=True)
    study.centre_log.write_bytes(b"".join(lines[1:]))
    result = study.ask_site("--compare", str(study.centre_log))
    assert result.exit_code == 1
    assert "The other side's log has faults of its own: - line 1 is entry 2" in words(result)
    assert "The log is complete and unchanged" in words(result)


def test_the_centre_reports_one_site_or_all(study: Study) -> None:
    study.logged()
    AuditLog(study.centre_log).append("note", "audit moved", peer="")
    everything = words(study.ask_centre())
    assert "What left: 4 messages" in everything
    assert "to A" in everything
    assert "to B" in everything
    only = words(study.ask_centre("--site", "A"))
    assert "Below: 5 of 7 entries; site A." in only
    assert "What left: 2 messages" in only
    assert "to B" not in only
    assert "audit moved" in only


def test_json_holds_all(study: Study) -> None:
    report = json.loads(study.logged().ask_site("--json", "--run", "run-1").stdout)
    assert report["log"] == str(study.site_log)
    assert report["all_well"] is True
    assert report["last_hash"] == verify(study.site_log).head
    assert report["entries_in_log"] == 5
    assert [entry["seq"] for entry in report["entries"]] == [1, 2]
    (sent,) = (kind for kind in report["account"] if kind["direction"] == "sent")
    assert (sent["what"], sent["peer"], sent["count"]) == ("train reply", CENTRE, 1)
    assert sent["bytes"] == 1_235_000
    assert sent["items"] == WEIGHTS | {"metrics values": 37, "site values": 1}


def test_words_of_the_other_side_can_do_nothing_to_the_terminal(study: Study) -> None:
    AuditLog(study.site_log).append(
        "refused", "\x1b[2Jbundle", peer="c\u202e:1", run="[red]r\n", reason="[bold]no\r"
    )
    result = study.ask_site("--run", "[red]r\n")
    for text in ("\\x1b[2Jbundle", "c\\u202e:1", "[bold]no\\r", "run [red]r\\n"):
        assert text in words(result)
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout


def test_contents_that_are_not_explained_are_pointed_at(study: Study) -> None:
    AuditLog(study.site_log).append("sent", "train reply", peer=CENTRE, items={"pictures": 3})
    assert "BUT the log also names contents that are none of these: pictures." in words(
        study.ask_site()
    )


def test_questions_that_cannot_be_answered_are_status_2(study: Study, tmp_path: Path) -> None:
    study.logged()
    configs = ["--configs", str(study.configs)]
    for app, arguments, message in [
        (site_app, ["--site", "X", *configs], "X.yaml: cannot be read"),
        (site_app, ["--site", "A", *configs, "--noted", "123"], "must be 16 to 64 of the"),
        (site_app, ["--site", "A", *configs, "--compare", "nowhere"], "there is no such log"),
        (site_app, ["--site", "A", *configs, "--since", "yesterday"], "does not match the"),
        (centre_app, ["--centre", str(tmp_path / "no")], "is no folder; give the centre's"),
        (centre_app, ["--centre", str(study.centre), "--compare", "x"], "goes with --site"),
    ]:
        result = CliRunner().invoke(app, ["audit", *arguments])
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
        assert result.stdout == ""
    study.site_log.unlink()
    study.site_log.mkdir()
    result = study.ask_site()
    assert result.exit_code == 2
    assert "the audit log cannot be read" in result.stderr
