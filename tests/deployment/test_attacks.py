"""Who should not get in does not; what should not leave does not; what is odd is left out."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import harness
import pytest
import yaml

from protocol.agreement.manifest import StudyFile
from protocol.keys import make_signing_key, openssh_line, read_verifying_key

MODES = {
    "NaN": "holds NaN or infinity",
    "wrong shapes": "must be torch.float32",
    "extra record": "1 records are not on the allow-list",
    # Too large for the gate: it never arrives, and the SuperLink's log says why.
    "a metric of 24 MB": "no answer within",
    # Refused before it is put together: the ServerApp's log says how much it would have been.
    "200 MiB of zeros": "sent what cannot be read",
    "a pickle": "cannot be decoded",
    "10x norm": "",  # it is shortened to what is usual, and counts
    "another site's name": "a node that is not site A answered in its name",
    "a path beside the name": "holds more than the name",
    "a metric of its own": "metrics differ from the allow-list",
    "counts it did not declare": "declared 2+1",
    "a loss without end": "train reply: loss/total/sum is 1e+308, must be a number from",
    "an error text": "OtherError",
}


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Deployment]:
    study = harness.tiny_study(rounds=len(MODES) + 1, local_steps=4)
    rules = study.aggregation.model_copy(
        update={"round_timeout_s": 90.0, "join_timeout_s": 600.0}  # people approve meanwhile
    )
    study = study.model_copy(update={"aggregation": rules})
    folder = tmp_path_factory.mktemp("fed")
    with harness.federation(folder, study, "ABC", others="X") as fed:
        fed.start_superlink()
        yield fed


def checked(fed: harness.Deployment, site: str, **facts: object) -> str:
    """The preflight's table of a site whose file says otherwise in these facts; it must fail."""
    home = fed.home(site)
    path = home / f"{site}.yaml"
    before = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(before) | facts))
    try:
        output = fed.client("run", site, "--check", check=False)
    finally:
        path.write_text(before)
    return " ".join(output.replace("│", " ").split())


def test_an_unregistered_key(fed: harness.Deployment) -> None:
    fed.make_hospital("X")
    fed.start_site("X", wait=False)
    fed.until(lambda: "Trying again" in fed.log("X"), 120, "the refusal")
    assert "SuperNode ID" not in fed.log("X")
    assert "asdnet-centre add-site X" in fed.log("X")
    assert "No SuperNode found with the given public key" in fed.log("superlink")


def test_a_removed_site(fed: harness.Deployment) -> None:
    fed.admit("X")
    fed.until(lambda: "SuperNode ID" in fed.log("X"), 60, "X is let in once it is admitted")
    connected = fed.log("X").count("connecting to")
    output = fed.server("remove-site", "X", "--centre", fed.centre)
    assert "site X: no longer admitted" in output
    fed.until(lambda: fed.log("X").count("connecting to") > connected, 120, "X is put out")
    fed.until(lambda: "site X: removed by the centre" in fed.log("X"), 120, "X stays out")
    assert "Trying again in 10 min" in fed.log("X")
    again = fed.server(
        "add-site", "X", "--public-key",
        fed.home("X") / "state/X.pub", "--centre", fed.centre, check=False,
    )  # fmt: skip
    assert "NOT admitted" in again and "--replace" in again
    fed.end("X")


def test_a_wrong_ca(fed: harness.Deployment) -> None:
    other = fed.folder / "other"
    fed.server("init", "--host", "elsewhere", "--centre", other)
    output = checked(fed, "A", ca=str(other / "ca.pem"))
    assert "TLS chain failed" in output


def test_a_name_that_is_not_in_the_certificate(fed: harness.Deployment) -> None:
    if not fed.network.separate:
        pytest.skip("a second address needs network namespaces")
    subprocess.run(
        [
            "ip",
            "-n",
            fed.network.namespace("centre"),
            "addr",
            "add",
            "10.77.0.99/24",
            "dev",
            "eth0",
        ],
        check=True,
    )
    output = checked(fed, "A", centre=f"10.77.0.99:{fed.port}")
    assert "host name failed" in output and "TLS chain ok" in output


def test_plain_http(fed: harness.Deployment) -> None:
    fed.start_at("centre", "plain", "-m", "http.server", "9555")
    fed.until(lambda: fed.reaches("centre", 9555), 30, "a plain server")
    host = fed.network.address("centre")
    assert "plain HTTP" in checked(fed, "A", centre=f"{host}:9555")
    assert "plain HTTP is refused" in checked(fed, "A", centre=f"http://{host}:{fed.port}")


def test_an_expired_certificate(fed: harness.Deployment, tmp_path: Path) -> None:
    from server.admin.centre import read_centre, renew_server

    old = tmp_path / "old"
    shutil.copytree(fed.centre, old, ignore=shutil.ignore_patterns("superlink.db*", "runs"))
    content = (old / "centre.json").read_text().replace(str(fed.port), "9292")
    (old / "centre.json").write_text(content)
    expired = read_centre(old).model_copy(update={"days": 1})
    renew_server(expired, datetime.now(UTC) - timedelta(days=3))
    fed.start_at("centre", "expired", "server/cli.py", "superlink", "--centre", old)
    fed.until(lambda: fed.reaches("centre", 9292), 60, "a SuperLink with an old certificate")
    host = fed.network.address("centre")
    output = checked(fed, "A", centre=f"{host}:9292")
    assert "expiry failed" in output
    fed.end("expired")


def test_the_centres_own_apis_from_a_hospital(fed: harness.Deployment) -> None:
    if not fed.network.separate:
        pytest.skip("on loopback a hospital is the centre's own machine")
    script = f"""
import ssl, urllib.request, urllib.error
context = ssl.create_default_context(cafile={str(fed.centre / "ca.pem")!r})
for path in ("control/register-node", "control/start-run", "runtime/acquire-task"):
    url = "https://{fed.network.address("centre")}:{fed.port}/v1/" + path
    try:
        urllib.request.urlopen(urllib.request.Request(url, b"", method="POST"), context=context)
    except urllib.error.HTTPError as error:
        print(path, error.code)
"""
    done = subprocess.run(
        [*fed.network.within("A"), sys.executable, "-c", script],
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["403"] * 3, done
    assert "asked for /v1/control/start-run from outside" in fed.log("superlink")


def test_a_hostile_site_is_left_out_of_every_round(fed: harness.Deployment, tmp_path: Path) -> None:
    evil = copy_of_checkout(tmp_path / "evil-hospital")
    with (evil / "client/node/executor.py").open("a") as file:
        file.write((Path(harness.__file__).parent / "evil.py").read_text())
    wish = tmp_path / "wish"
    wish.write_text("none")
    os.environ["EVIL"] = str(wish)
    fed.start_site("A", wait=False)
    fed.start_site("B", wait=False)
    fed.start_site("C", wait=False, root=evil)
    fed.until(lambda: all(map(fed.connected, "ABC")), 200, "three sites")
    fed.start_study("hostile")
    for number, mode in enumerate(MODES):
        wish.write_text(mode)
        # The first round may be under way already; it is C's good one.
        fed.until(lambda n=number: fed.rounds_done("hostile") > n, 120, mode)
    assert fed.finish("hostile") == 0, fed.tails()
    reasons = [e["left_out"].get("C", "") for e in fed.events("hostile") if e["kind"] == "round"]
    for mode, words in MODES.items():
        assert any(words in reason for reason in reasons), (mode, reasons)
    shortened = [e["clipped"] for e in fed.events("hostile") if e["kind"] == "round"]
    assert any("C" in of_round for of_round in shortened)
    assert all(set(e["left_out"]) <= {"C"} for e in fed.events("hostile") if e["kind"] == "round")
    assert "sent a body of" in fed.log("superlink")
    for text in (fed.log("superlink"), fed.log("study-hostile")):
        assert "\x1b[2J" not in text and "[bold]" not in text and "<script>" not in text
    account = fed.server("audit", "--centre", fed.centre)
    assert "complete and unchanged" in account and "refused" in account
    assert "Mueller" not in account
    fed.end("C")


def test_a_study_is_not_begun_on_bad_data_and_hears_of_no_patient(fed: harness.Deployment) -> None:
    fed.start_site("C")
    broken = fed.home("B") / "data/imagesTr/Schmidt_Eva_1962.nii.gz"
    broken.write_bytes(b"no scan")
    fed.start_study("patient", rounds=2)
    assert fed.finish("patient") == 3, fed.tails()
    (ended,) = [e for e in fed.events("patient") if e["kind"] == "stopped"]
    assert "site B: rule pair (a labelled scan has one label" in ended["reason"]
    assert "site A" not in ended["reason"] and "site C" not in ended["reason"]
    told = fed.client("check", "B", "--no-page", "--names", check=False)
    assert "rule pair: case Schmidt_Eva_1962: imagesTr holds its image" in told
    broken.unlink()
    assert "Schmidt" in fed.log("B"), "the hospital itself is told"
    seen = [p for p in fed.centre.rglob("*") if p.is_file() and b"Schmidt" in p.read_bytes()]
    assert seen == [] and "Schmidt" not in fed.log("superlink") + fed.log("study-patient")
    account = fed.client("audit", "B", "--run", "patient")
    assert "facts reply" in account and "Schmidt" not in account
    # Put right, the same study is begun.
    fed.resume("patient")
    assert fed.finish("patient") == 0, fed.tails()


def all_at_work(fed: harness.Deployment) -> None:
    """Whatever the tests before have left."""
    for site in fed.sites:
        if site not in fed.processes or fed.processes[site].poll() is not None:
            fed.start_site(site)


def test_a_study_that_a_hospital_has_not_approved(fed: harness.Deployment) -> None:
    all_at_work(fed)
    fed.prepare("unasked", rounds=2)
    fed.approve("unasked", "AB")
    fed.resume("unasked")
    fed.until(lambda: waits(fed, "unasked", "C: the study awaits approval"), 120, "C's word")
    assert "is not approved at this site; look at what it does with this site's data" in fed.log(
        "C"
    )
    shown = fed.client("approve", "C", check=False)
    assert "run unasked, revision 1" in shown and "an update rests on" in shown
    listed = fed.client("approve", "C", "--list").splitlines()
    (digest,) = [line.split()[2] for line in listed if line.startswith("study waiting")]
    fed.client("approve", "C", "--yes", digest)
    # The centre asks again: all three train.
    assert fed.finish("unasked") == 0, fed.tails()
    (started,) = [e for e in fed.events("unasked") if e["kind"] == "started"]
    assert started["sites"] == ["A", "B", "C"]


def test_a_study_that_another_key_has_signed(fed: harness.Deployment) -> None:
    """Who has the centre's machine, and not its key: no hospital believes it."""
    all_at_work(fed)
    fed.prepare("forged", rounds=2)
    path = fed.centre / "runs" / "forged" / "manifest.json"
    good, kept = path.read_text(), (fed.centre / "study.pub").read_bytes()
    forged = StudyFile.model_validate_json(good)
    signed = forged.signed.verified(read_verifying_key(fed.centre / "study.pub"))
    key = make_signing_key()
    again = signed.signed(key)
    path.write_text(
        forged.model_copy(update={"signature": again.signature}).model_dump_json(), encoding="utf-8"
    )
    (fed.centre / "study.pub").write_text(openssh_line(key.public_key()) + "\n", encoding="utf-8")
    output = fed.client("approve", "A", "--file", path, check=False)
    assert "is not signed by the centre's key that is pinned here" in output
    fed.resume("forged")
    assert fed.finish("forged", 200) == 3, fed.tails()
    assert "A (NotSigned), B (NotSigned), C (NotSigned)" in fed.log("study-forged")
    assert "is not signed by the centre's key that is pinned here" in fed.log("A")
    (fed.centre / "study.pub").write_bytes(kept)


def test_a_bundle_that_nobody_approved(fed: harness.Deployment, tmp_path: Path) -> None:
    changed = copy_of_checkout(tmp_path / "changed-centre")
    with (changed / "client/app.py").open("a") as file:
        file.write("\n# a line that no hospital has seen\n")
    all_at_work(fed)
    fed.start_study("changed", rounds=2, root=changed)
    fed.until(lambda: waits(fed, "changed", "A: the code awaits approval"), 120, "A's word")
    assert "is not approved at this site" in fed.log("A")
    shown = fed.client("approve", "A", check=False)
    assert "+# a line that no hospital has seen" in shown
    for site in "ABC":
        listed = fed.client("approve", site, "--list")
        (digest,) = [line.split()[1] for line in listed.splitlines() if line.startswith("waiting")]
        fed.client("approve", site, "--yes", digest)
    assert fed.finish("changed") == 0, fed.tails()


def waits(fed: harness.Deployment, run: str, words: str) -> bool:
    """Whether the centre's screen says so; the study must not have ended before."""
    assert fed.processes[f"study-{run}"].poll() is None, fed.tails()
    return words in fed.log(f"study-{run}")


def copy_of_checkout(folder: Path) -> Path:
    """The code that a bundle is made of, and the launchers."""
    folder.mkdir(parents=True)
    rooms = ("asdnet_models", "client", "flower_compat", "protocol", "reporting", "server")
    for room in rooms:
        shutil.copytree(
            harness.ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(harness.ROOT / "pyproject.toml", folder)
    return folder
