"""A fingerprint on the wire: exactly the numbers of the allow-list, each on enough cases."""

import pytest
from flwr.app import MetricRecord, RecordDict
from made_fingerprints import made_fingerprint

from protocol.config.study import StudyProtocol
from protocol.planning.fingerprint import Fingerprint, Share, Spread
from protocol.wire.fingerprint import fingerprint_values, pack_fingerprint, read_fingerprint
from protocol.wire.group_checks import refuse_small_groups
from protocol.wire.metrics import METRICS, allowed_metrics
from protocol.wire.small_groups import group_of
from protocol.wire.weights import MessageError

PROTOCOL = StudyProtocol(organs={"ball": 1})
FOUND = made_fingerprint(unlabelled=5, wider=3)


def test_it_comes_back_as_it_was_sent() -> None:
    content = pack_fingerprint("A", FOUND, PROTOCOL)
    assert set(content[METRICS]) == allowed_metrics("fingerprint", PROTOCOL)
    assert read_fingerprint(content, PROTOCOL) == FOUND


def test_every_number_says_of_which_cases_it_is() -> None:
    names = allowed_metrics("fingerprint", PROTOCOL)
    assert {group_of("fingerprint", name) for name in names} == {"work", "census", "parts"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("spacing_mm/x/0", 9.0, "ascend"),
        ("spacing_mm/x/parts", 4.0, "parts"),
        ("spacing_mm/x/cases", 99.0, "99 cases"),
        ("organ/ball/volume_ml/cases", 22.0, "22 cases"),
        ("organ/ball/one_component/holding", 21.0, "21 of 20"),
        ("extent_mm/z/4", 1e5, "must be"),
        ("step_seconds", -1.0, "must be"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(name: str, value: float, said: str) -> None:
    content = pack_fingerprint("A", FOUND, PROTOCOL)
    record = content[METRICS]
    assert isinstance(record, MetricRecord)
    record[name] = value
    with pytest.raises(MessageError, match=said):
        read_fingerprint(content, PROTOCOL)


def test_nothing_beside_it_leaves() -> None:
    content = pack_fingerprint("A", FOUND, PROTOCOL)
    content["names"] = MetricRecord({"patient": 1.0})
    with pytest.raises(MessageError, match="allow-list"):
        read_fingerprint(content, PROTOCOL)
    with pytest.raises(MessageError, match="not on the allow-list"):
        other = PROTOCOL.model_copy(update={"organs": {"rod": 1}})
        pack_fingerprint("A", FOUND, other)
    assert "name" not in fingerprint_values(FOUND)


@pytest.mark.parametrize(
    "few",
    [
        {"intensity": (Spread(cases=9, means=(1.0,) * 5), *FOUND.intensity[1:])},
        {"wider_than_body": Share(cases=20, holding=2)},
        {"wider_than_body": Share(cases=20, holding=19)},
        {"wider_than_body": Share(cases=2, holding=2)},
    ],
)
def test_the_executor_refuses_numbers_of_too_few_cases(few: dict[str, object]) -> None:
    refuse_small_groups(FOUND, PROTOCOL, 3)
    found = Fingerprint.model_validate({**dict(FOUND), **few})
    with pytest.raises(MessageError, match="at least 3 cases"):
        refuse_small_groups(found, PROTOCOL, 3)


def test_an_empty_fingerprint_can_be_sent() -> None:
    empty = Fingerprint(organs={"ball": FOUND.organs["ball"].model_copy(update={})})
    assert isinstance(pack_fingerprint("A", empty, PROTOCOL), RecordDict)
