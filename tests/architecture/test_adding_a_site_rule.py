"""CONTRIBUTING's example of a new rule for a site's cases is run as it is printed there."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import SimpleITK as sitk
from contributing import blocks, section

import client.data.cache
import protocol.config.rules
from client.data.cache import cached_case
from client.data.errors import ScanError
from client.data.folder.layout import find_cases
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.metrics import allowed_metrics
from protocol.wire.reports import SiteFacts
from server.rounds.requirements import broken_requirements

ROOT = Path(__file__).parents[2]
MEANING, CHECK = blocks("Adding a site rule")
NAME = MEANING.partition(":")[0] + ",\n"


@pytest.fixture
def elongated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed name and meaning among the rules, the printed check in `check_demands`."""
    source = inspect.getsource(protocol.config.rules)
    for place, line in (
        ("Rule = Literal[\n", NAME),
        ("MEANING: Mapping[Rule, str] = {\n", MEANING),
    ):
        assert source.count(place) == 1
        source = source.replace(place, place + line)
    rules = ModuleType("rules")
    exec(source, vars(rules))
    for name in ("RULES", "MEANING"):
        before = vars(protocol.config.rules)[name]
        for module in list(sys.modules.values()):
            if vars(module).get(name) is before:
                monkeypatch.setattr(module, name, vars(rules)[name])
    checks = dict(vars(client.data.cache))
    exec(inspect.getsource(client.data.cache.check_demands) + CHECK, checks)
    monkeypatch.setattr(client.data.cache, "check_demands", checks["check_demands"])


def stretched(site: SiteConfig) -> None:
    """Slices twelve times as thick as the pixels are wide."""
    for path in site.data.rglob("*.nii.gz"):
        image = sitk.ReadImage(str(path))
        image.SetSpacing((0.5, 0.5, 6.0))
        sitk.WriteImage(image, str(path))


@pytest.mark.usefixtures("elongated")
def test_a_case_that_breaks_the_rule_is_refused(
    make_site: Callable[..., SiteConfig], make_protocol: Callable[..., StudyProtocol]
) -> None:
    site, study = make_site(labelled=1, unlabelled=0), make_protocol()
    cached_case(find_cases(site.data)[0], site.cache, study)
    stretched(site)
    with pytest.raises(ScanError, match="has voxels 12 times as long as wide") as refused:
        cached_case(find_cases(site.data)[0], site.cache, study)
    assert refused.value.problem.rule == "elongated"


@pytest.mark.usefixtures("elongated")
def test_the_centre_hears_the_name_and_a_count(
    make_protocol: Callable[..., StudyProtocol],
) -> None:
    study = make_protocol(contract={"max_refused_share": 0.0})
    assert "refused/elongated/count" in allowed_metrics("facts", study)
    facts = SiteFacts(labelled=3, unlabelled=0, validation=0, test=0, refused={"elongated": 2})
    [line] = broken_requirements("A", facts, study)
    assert "rule elongated (voxels are at most ten times as long" in line and "2 of 5 cases" in line


def test_without_the_lines_the_rule_is_unknown() -> None:
    assert "elongated" not in protocol.config.rules.RULES


def test_where_to_add_a_thing_is_there() -> None:
    rows = [row.split("|")[1:4] for row in section("Where would you add it?").splitlines()[5:]]
    named = {
        what.strip(): (room.strip().strip("`"), [w for w in where.split("`")[1::2]])
        for what, room, where in rows
    }
    assert len(named) == 4
    for room, words in named.values():
        folder = ROOT / room
        sources = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
        for word in words:
            assert (folder / word).exists() or (ROOT / word).exists() or word in sources, word
