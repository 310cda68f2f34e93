"""Which runs a study has, scarce labels, the shared grid, and when a folder is the same study."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.config.presets import as_paper, preset
from protocol.config.study import ProtocolError, StudyProtocol, merged
from simulation.errors import SplitError
from simulation.experiment.grid import possible_methods
from simulation.experiment.methods import METHODS, Method, protocol_of, read_own_methods
from simulation.experiment.plan import (
    choose_folds,
    choose_methods,
    choose_seeds,
    choose_settings,
    differences,
    named_methods,
    plan_runs,
    settings_of,
)
from simulation.experiment.store import SETTINGS, ExperimentInfo, Setting
from simulation.folds import choose_fold, keep_labels
from simulation.layouts import StudyCase

MakeProtocol = Callable[..., StudyProtocol]
COUNTS = {"A": 15, "B": 12, "C": 10, "D": 8, "E": 5}


def made_cases() -> list[StudyCase]:
    def case(name: str, site: str, *, labelled: bool) -> StudyCase:
        path = Path(f"{name}.nii.gz")
        return StudyCase(
            name=name,
            image=path,
            label=path if labelled else None,
            reference=path,
            site=site,
            part="labelled" if labelled else "unlabelled",
        )

    cases = [
        case(f"{site}_{n:02d}", site, labelled=True) for site, k in COUNTS.items() for n in range(k)
    ]
    return cases + [case(f"F_{n:02d}", "F", labelled=False) for n in range(15)]


def test_tables_name_their_rows() -> None:
    assert tuple(choose_methods("1", None)) == (
        "MALF",
        "SSAE",
        "UNet",
        "VNet",
        "DSResUNet",
        "ASDNet",
    )
    assert len(choose_methods("2", None)) == 9
    # What stands in no table of the paper is run by name only.
    assert tuple(choose_methods(None, None)) == tuple(
        name for name, row in METHODS.items() if row.tables
    )
    assert tuple(choose_methods(None, "ASDNet-informed")) == ("ASDNet-informed",)
    assert tuple(choose_methods(None, "ASDNet, SVNet")) == ("SVNet", "ASDNet")


def test_wishes_that_cannot_be_met_are_reported() -> None:
    for refused, words in (
        (lambda: choose_methods("3", None), "--tables: must be of 1, 2, not '3'"),
        (lambda: choose_methods("1", "SVNet"), "instead of --tables"),
        (lambda: named_methods("SVNet,XNet", "--rows"), "--rows: must be of MALF, .* not 'XNet'"),
        (lambda: named_methods(" , ", "--rows"), "names no method"),
        (lambda: choose_settings("federated,central"), "--settings: must be of .* not 'central'"),
        (lambda: choose_settings(""), "--settings"),
        (lambda: choose_folds(6), "--folds: must be 1 to 5, not 6"),
        (lambda: choose_seeds(0), "--seeds: must be 1 or more"),
    ):
        with pytest.raises(ProtocolError, match=words):
            refused()  # type: ignore[no-untyped-call]


def chosen(*names: str) -> dict[str, Method]:
    return {name: METHODS[name] for name in names}


def test_ways_of_a_row() -> None:
    compared = ("ASDNet",)

    def settings(name: str, wanted: tuple[Setting, ...]) -> tuple[Setting, ...]:
        return settings_of(name, METHODS[name], wanted, compared)

    assert settings("ASDNet", SETTINGS) == SETTINGS
    assert settings("SVNet", SETTINGS) == ("federated",)
    assert settings("MALF", SETTINGS) == ("pooled", "local")
    assert settings_of("SSAE", METHODS["SSAE"], SETTINGS, ("SSAE",)) == (
        "federated", "pooled", "local",
    )  # fmt: skip
    assert settings("SSAE", ("pooled-equal-steps",)) == ()
    assert settings("SVNet", ("pooled",)) == ("pooled",)
    assert settings("MALF", ("federated",)) == ()


def test_runs_are_in_order_and_each_is_there_once() -> None:
    runs = plan_runs(chosen("SVNet", "ASDNet"), SETTINGS, ("ASDNet",), (1, 2), (1, 2))
    assert [key.folder for key in runs[:6]] == [
        "SVNet.federated.fold1.seed1",
        "ASDNet.federated.fold1.seed1",
        "ASDNet.pooled.fold1.seed1",
        "ASDNet.pooled-equal-steps.fold1.seed1",
        "ASDNet.local.fold1.seed1",
        "SVNet.federated.fold2.seed1",
    ]
    assert len(runs) == len({key.folder for key in runs}) == 20
    # Every fold of a seed before the next seed.
    assert [(key.seed, key.fold) for key in runs[::5]] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_row_names_make_folders_of_their_own() -> None:
    runs = plan_runs(METHODS, SETTINGS, tuple(METHODS), (1,), (1,))
    assert len({key.folder for key in runs}) == len(runs) == 4 * len(METHODS) - 3
    assert all("+" not in key.folder for key in runs)


@pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
def test_scarce_labels_leave_test_and_validation_alone(fold: int) -> None:
    parts = choose_fold(made_cases(), fold, 1)
    scarce = keep_labels(parts, 10, fold, 1)
    before, after = ({c.name: c for c in cases} for cases in (parts, scarce))
    assert [case.name for case in scarce] == [case.name for case in parts]
    counts = Counter(case.part for case in scarce)
    assert counts == {"labelled": 10, "unlabelled": 40, "validation": 5, "test": 10}
    for name, case in after.items():
        if before[name].part != "labelled":
            assert case == before[name]
        else:
            assert case.site == before[name].site
            assert case.reference == before[name].reference is not None
            assert (case.label is None) == (case.part == "unlabelled")
    # In proportion to what the sites have.
    kept = Counter(case.site for case in scarce if case.part == "labelled")
    assert kept["A"] == 3 and kept["E"] == 1


def test_scarce_labels_depend_on_seed_and_fold_alone() -> None:
    parts = choose_fold(made_cases(), 1, 1)
    assert keep_labels(parts, 10, 1, 1) == keep_labels(parts[::-1], 10, 1, 1)[::-1]
    assert keep_labels(parts, 10, 1, 1) != keep_labels(parts, 10, 1, 2)
    assert keep_labels(parts, 35, 1, 1) == parts
    with pytest.raises(SplitError, match="has 35 labelled training cases, 36 are asked for"):
        keep_labels(parts, 36, 1, 1)


def test_the_last_sites_keep_no_label_where_they_are_to_be_label_free() -> None:
    parts = choose_fold(made_cases(), 1, 1)
    # F has none of its own, E loses its five.
    free = keep_labels(parts, None, 1, 1, label_free=2)
    labelled = {case.name for case in free if case.part == "labelled"}
    assert {name[0] for name in labelled} == set("ABCD")
    assert labelled == {c.name for c in parts if c.part == "labelled" and c.site in "ABCD"}
    withheld = [case for case in free if case.site == "E" and case.part == "unlabelled"]
    assert withheld and all(c.label is None and c.reference is not None for c in withheld)
    # The scarcest labels go to the others, and are among those that are kept of more.
    few, more = (
        {c.name for c in keep_labels(parts, n, 1, 1, label_free=2) if c.part == "labelled"}
        for n in (4, 8)
    )
    assert len(few) == 4 and few < more < labelled
    with pytest.raises(SplitError, match="at sites that keep labels, 35 are asked for"):
        keep_labels(parts, 35, 1, 1, label_free=2)
    for number in (6, 9):
        with pytest.raises(SplitError, match=f"--label-free {number}: leaves no labelled"):
            keep_labels(parts, None, 1, 1, label_free=number)


def info(protocol: StudyProtocol, **changes: object) -> ExperimentInfo:
    content = {
        "command": "asdnet-sim tables",
        "started": "2026-11-25T10:00:00+00:00",
        "cohort": {"kind": "folder", "training_labels": None},
        "organs": protocol.organ_names,
        "methods": ("SVNet",),
        "settings": ("federated",),
        "folds": (1, 2),
        "seeds": (1,),
        "protocol": protocol.model_dump(mode="json"),
        "versions": {"torch": "1"},
    }
    return ExperimentInfo.model_validate(content | changes)


def test_other_settings_are_named(make_protocol: MakeProtocol) -> None:
    old = info(make_protocol())
    same = info(make_protocol(), command="again", started="later", versions={"torch": "2"})
    assert differences(old, same) == []
    new = info(
        make_protocol(training={"rounds": 7}),
        folds=(1,),
        cohort={"kind": "folder", "training_labels": 10},
    )
    assert differences(old, new) == [
        "cohort.training_labels was None, is 10",
        "folds was 1, 2, is 1",
        "protocol.training.rounds was 2, is 7",
    ]


def test_a_study_may_grow_and_never_shrinks(make_protocol: MakeProtocol) -> None:
    own = {"mine": {"method": {"gamma": 0.2}}}
    small = info(make_protocol(), own_methods=own)
    more = {"methods": ("SVNet", "mine", "ASDNet"), "folds": (1, 2, 3), "seeds": (1, 2)}
    two = own | {"yours": {"method": {"gamma": 0.9}}}
    grown = info(make_protocol(), settings=("federated", "local"), own_methods=two, **more)
    assert differences(small, grown) == []
    lost = differences(grown, small)
    assert [line.split(" was ")[0] for line in lost] == [
        "folds",
        "own_rows.yours",
        "rows",
        "seeds",
        "ways",
    ]
    changed = info(make_protocol(), own_methods={"mine": {"method": {"gamma": 0.5}}})
    assert differences(small, changed) == ["own_rows.mine.method.gamma was 0.2, is 0.5"]


def test_rows_of_ones_own(tmp_path: Path, make_protocol: MakeProtocol) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text(
        "late: {training: {ramp: {region_start: 0.7}}}\n"
        "informed: {confidence: {target: correctness}}\n"
    )
    own = read_own_methods(path)
    assert tuple(choose_methods(None, None, own)) == ("late", "informed")
    assert tuple(choose_methods(None, "SVNet", own)) == ("SVNet", "late", "informed")
    assert named_methods("ASDNet,late", "--settings-rows", own) == ("ASDNet", "late")
    base = make_protocol()
    late = protocol_of(own["late"], base, 3)
    assert late.training.ramp.region_start == 0.7
    # The rest of what holds the changed value is as it was.
    assert late.training.ramp.length == base.training.ramp.length
    assert late.training.rounds == base.training.rounds
    assert late.seed == 3 and late.method == base.method
    for text, words in (
        ("ASDNet: {method: {gamma: 0.2}}", "ASDNet: ASDNet is a method already"),
        ("AttSVNet FCN: {}", r"AttSVNet FCN: AttSVNet\+FCN is a method already"),
        ("'a/b': {method: {gamma: 0.2}}", "a/b"),
        ("mine: {organs: {prostate: 1}}", "mine.organs"),
        ("mine: 3", "mine"),
    ):
        path.write_text(text)
        with pytest.raises(ProtocolError, match=words):
            read_own_methods(path)


def test_rows_are_what_they_are_named_after_on_a_planned_study_too() -> None:
    """Its recipe is of a U-Net, without attention; without unlabelled scans it has no lambdas."""
    off = {"lambda_adversarial": 0.0, "lambda_region": 0.0}
    base = merged(as_paper("planned"), {"method": off, "patch_voxels": (48, 48, 16)})
    rows = {
        name: protocol_of(method, base, 1)
        for name, method in METHODS.items()
        # Supervised has the study's own network, here a U-Net, and is UNet then.
        if method.kind == "weights" and name != "Supervised"
    }
    assert len({study.digest for study in rows.values()}) == len(rows)
    networks = {name: study.network.architecture for name, study in rows.items()}
    own = {"UNet": "unet", "VNet": "vnet", "DSResUNet": "dsresunet"}
    papers = {name for name in rows if METHODS[name].tables or name == "ASDNet-informed"}
    assert networks == {name: own.get(name, "svnet") if name in papers else "unet" for name in rows}
    assert rows["SVNet"].method.sample_attention == "off"
    assert rows["AttSVNet"].method.sample_attention == "normalised"
    assert rows["ASDNet"].method.lambda_region == 0.3
    assert not rows["AttSVNet"].method.trains_confidence


def test_a_rows_own_settings_stay_where_the_study_has_some() -> None:
    own = {"sample_attention": "literal", "lambda_region": 0.1, "lambda_adversarial": 0.02}
    method = protocol_of(METHODS["ASDNet"], merged(as_paper("quick"), {"method": own}), 1).method
    assert {name: getattr(method, name) for name in own} == own


def test_two_rows_that_are_one_study_are_refused() -> None:
    methods = {"SVNet": METHODS["SVNet"], "mine": METHODS["SVNet"]}
    with pytest.raises(ProtocolError, match="methods SVNet and mine: are one and the same"):
        possible_methods(as_paper("quick"), methods)
    # What nobody has named gives way.
    kept, left_out = possible_methods(as_paper("quick"), methods, ["SVNet"])
    assert tuple(kept) == ("mine",)
    assert left_out == ["method SVNet: is mine on this study"]
    kept, _ = possible_methods(as_paper("quick"), methods, ["SVNet", "mine"])
    assert tuple(kept) == ("SVNet",)
    with pytest.raises(ProtocolError, match="names no method"):
        possible_methods(as_paper("quick"), {})


def test_every_row_can_be_trained_whatever_the_studys_method_and_confidence_network() -> None:
    for base in (preset("planned"), merged(as_paper("quick"), {"method": {"name": "semi-embed"}})):
        fits = merged(base, {"patch_voxels": (48, 48, 16)})
        rows = {name: row for name, row in METHODS.items() if row.tables}
        kept, left_out = possible_methods(fits, rows)
        assert kept == rows and left_out == []
