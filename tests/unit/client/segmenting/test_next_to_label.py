"""The order of labelling: doubt, likeness, and what the words say."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from client.segmenting.next_to_label import (
    SegmentedScan,
    scan_features,
    segmented_scan,
    standardised,
    suggest,
    surroundings,
)


def scan(name: str, error: float, *place: float) -> SegmentedScan:
    """A scan at a place of a space whose axes are features."""
    words = [(f"large {axis}", f"small {axis}") for axis in range(len(place))]
    features = dict(zip(words, place, strict=True))
    return SegmentedScan(name=name, expected_dsc={"ball": 1 - error}, features=features)


def order(scans: Sequence[SegmentedScan], labelled: Sequence[SegmentedScan] = ()) -> list[str]:
    return [suggestion.scan.name for suggestion in suggest(scans, labelled)]


def random_scans(count: int, seed: int, letter: str) -> list[SegmentedScan]:
    rng = np.random.default_rng(seed)
    return [
        scan(f"{letter}{number:02}", rng.uniform(0, 0.5), *rng.normal(size=4))
        for number in range(count)
    ]


def test_all_equally_far_the_most_doubted_comes_first() -> None:
    corners = np.eye(4) * 10
    errors = (0.1, 0.4, 0.2, 0.3)
    scans = [scan(f"s{n}", e, *c) for n, (e, c) in enumerate(zip(errors, corners, strict=True))]
    assert order(scans) == ["s1", "s3", "s2", "s0"]


def test_of_two_alike_the_second_waits() -> None:
    """Two kinds of scan; the most doubted three are of one kind."""
    kind_a = [scan(f"a{n}", 0.5 - n / 100, 0.001 * n, 0) for n in range(3)]
    kind_b = [scan(f"b{n}", 0.3 - n / 100, 9, 0.001 * n) for n in range(3)]
    first, second = order([*kind_a, *kind_b])[:2]
    assert {first[0], second[0]} == {"a", "b"}


def test_what_is_like_a_labelled_scan_waits() -> None:
    scans = [scan("like", 0.3, 0.0, 0), scan("unlike", 0.3, 5.0, 0)]
    assert order(scans, [scan("labelled", 0.0, 0.1, 0)]) == ["unlike", "like"]


def test_by_hand() -> None:
    """On a line at 0 (labelled), 1, 2 and 4, errors .4, .2 and .3."""
    scans = [scan("one", 0.4, 1.0), scan("two", 0.2, 2.0), scan("four", 0.3, 4.0)]
    # .4 x 1, .2 x 2, .3 x 4; then .4 x 1, .2 x 2 again, of which the more doubted comes first.
    assert order(scans, [scan("zero", 0.0, 0.0)]) == ["four", "one", "two"]
    assert order([scan("one", 0.3, 1.0), *scans[1:]], [scan("zero", 0.0, 0.0)])[1] == "two"


def test_without_labels_the_most_doubted_is_first_and_then_what_is_unlike_it() -> None:
    scans = [scan("worst", 0.5, 0.0), scan("like it", 0.45, 0.1), scan("far", 0.2, 5.0)]
    assert order(scans) == ["worst", "far", "like it"]


def test_the_order_of_what_is_given_changes_nothing() -> None:
    scans, labelled = random_scans(12, 1, "u"), random_scans(3, 2, "l")
    expected = suggest(scans, labelled)
    rng = np.random.default_rng(3)
    for _ in range(5):
        shuffled = [scans[i] for i in rng.permutation(len(scans))]
        others = [labelled[i] for i in rng.permutation(len(labelled))]
        found = suggest(shuffled, others)
        assert [(s.scan.name, s.why) for s in found] == [(s.scan.name, s.why) for s in expected]


def test_every_scan_is_listed_once_and_equals_by_name() -> None:
    scans = random_scans(9, 4, "u")
    assert sorted(order(scans)) == sorted(s.name for s in scans)
    twins = [scan(name, 0.2, 1.0, 2.0) for name in ("c", "a", "b")]
    assert order(twins) == ["a", "b", "c"]
    assert order([]) == []


def test_the_words() -> None:
    labelled = [scan("l", 0.0, 0.0, 0.0)]
    doubted, sure = scan("u", 0.4, 9.0, 0.0), scan("v", 0.0, 0.0, 0.0)
    first, second = suggest([doubted, sure], labelled, doubters="S doubts")
    assert first.why.startswith("S doubts the ball (expected DSC 0.60); unlike the labelled scans")
    assert "(large 0" in first.why
    assert second.why == "like what is labelled or listed before"
    lost = suggest([scan("x", 1.0, 1.0)], [])
    assert lost[0].why == "no ball found"


def test_features_by_hand() -> None:
    image = np.zeros((6, 5, 4), np.float32)
    image[1:4, 1, 1] = (1.0, 2.0, 3.0)
    predicted = np.zeros(image.shape, np.uint8)
    predicted[1:4, 1, 1] = 1
    found = scan_features(image, predicted, (2.0, 1.0, 0.5), ("ball", "rod"))
    assert found["large ball", "small ball"] == pytest.approx(3 ** (1 / 3))  # three of 1 mm3
    assert found["wide ball", "narrow ball"] == 6
    assert found["deep ball", "flat ball"] == 1
    assert found["tall ball", "short ball"] == 0.5
    assert found["bright ball", "dark ball"] == 2
    assert found["uneven ball", "even ball"] == pytest.approx((2 / 3) ** 0.5)
    assert found["large rod", "small rod"] == 0
    assert np.isnan(found["bright rod", "dark rod"])
    assert found["tall field of view", "short field of view"] == 2
    # Along x: 1, 1, 1 and 3 of 5 x 5 x 4 pairs.
    assert found["grainy from left to right", "smooth from left to right"] == pytest.approx(0.06)


def test_what_is_not_there_or_the_same_everywhere_sets_nothing_apart() -> None:
    scans = [scan(str(n), 0.1, 7.1, float(n), float("nan") if n else 3.0) for n in range(3)]
    found = standardised(scans)
    assert found[:, 0].tolist() == found[:, 2].tolist() == [0, 0, 0]
    assert found[:, 1].tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
    far = standardised([scan(str(n), 0.1, 1e6 if n == 0 else float(n % 2)) for n in range(30)])
    assert far.max() == 3


def test_surroundings_are_some_mm_and_a_voxel_at_least() -> None:
    drawn = np.zeros((9, 9, 9), np.bool_)
    assert surroundings(drawn, (1, 1, 1)).all()
    drawn[4, 4, 4] = True
    near = np.argwhere(surroundings(drawn, (1.0, 3.0, 8.0)))
    assert near.min(0).tolist() == [1, 3, 3] and near.max(0).tolist() == [7, 5, 5]
    assert len(near) == 7 * 3 * 3


def test_a_little_doubt_of_much_background_far_away_says_nothing() -> None:
    p = torch.zeros(1, 2, 12, 12, 12)
    p[:, 1] = 0.001
    p[:, 1, :3, :3, :3] = 0.99
    p[:, 0] = 1 - p[:, 1]
    trust = torch.full((1, 1, 12, 12, 12), 0.95)
    image = np.zeros((12, 12, 12), np.float32)
    near = segmented_scan("s", image, p, trust, (3.0, 3.0, 3.0), ("ball",), drawn={"ball"})
    # 27 voxels at .95, and .05 of 37 beside them.
    hits, missed = 27 * 0.95, 37 * 0.05
    assert near.expected_dsc["ball"] == pytest.approx(2 * hits / (27 + hits + missed), abs=1e-4)


def test_a_scan_counts_only_the_organs_that_its_site_draws() -> None:
    torch.manual_seed(0)
    p = torch.softmax(torch.randn(1, 3, 4, 4, 4), 1)
    made = segmented_scan(
        "s",
        np.zeros((4, 4, 4), np.float32),
        p,
        p.amax(1, keepdim=True),
        (1.0, 1.0, 1.0),
        ("ball", "rod"),
        drawn={"rod"},
    )
    assert set(made.expected_dsc) == {"rod"}
    assert made.expected_error == pytest.approx(1 - made.expected_dsc["rod"])
    assert len(made.features) == 2 * 6 + 6
