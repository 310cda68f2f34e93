"""The protocol: its defaults are the paper's, and a mistake is named before it costs a night."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from protocol.config.presets import PRESET_NAMES, preset
from protocol.config.study import ProtocolError, StudyProtocol, read_yaml


def read(folder: Path, text: str) -> StudyProtocol:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path, StudyProtocol)


def mistakes_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(ProtocolError) as caught:
        read(folder, text)
    return str(caught.value).removeprefix(f"{folder}/").split(f"\n{folder}/")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("organs", {"bladder": 1, "prostate": 2, "rectum": 3}),
        ("spacing_mm", (1.0, 1.0, 1.0)),
        ("patch_voxels", (64, 64, 16)),
        ("network.architecture", "svnet"),
        ("network.width", 16),
        ("network.kernel", 5),
        ("network.norm", "group"),
        ("method.supervised", "dice"),
        ("method.class_weight", "inverse-square"),
        ("method.sample_attention", "literal"),
        ("method.beta", 2),
        ("method.lambda_adversarial", 0.03),
        ("method.lambda_region", 0.3),
        ("method.gamma", 0.2),
        ("method.fakes_from_unlabelled", False),
        ("method.pseudo_labels_at", (0.25, 0.5, 0.75)),
        ("method.lambda_embedding", 0.1),
        ("method.embedding_margin", 0.5),
        ("method.soften_real", 0),
        ("training.lr_segmenter", 1e-3),
        ("training.lr_confidence", 1e-4),
        ("training.weight_decay", 1e-4),
        ("training.lr_decay", 0.1),
        ("training.lr_decay_at", (1 / 3, 2 / 3)),
        ("training.lr_schedule", "steps"),
        ("training.clip_norm", None),
        ("training.average_decay", 0),
        ("training.views", "weak"),
        ("training.flips", ("left-right",)),
        ("training.organ_patch_fraction", 2 / 3),
        ("training.proximal_mu", 0.01),
        ("training.ramp.adversarial_start", 0.05),
        ("training.ramp.region_start", 0.25),
        ("training.ramp.length", 0.15),
        ("aggregation.unlabelled_weight", 0.3),
        ("aggregation.max_site_share", 0.4),
        ("aggregation.max_norm_ratio", 3),
        ("evaluation.overlap", 0.5),
    ],
)
def test_a_protocol_without_a_word_is_the_paper(place: str, value: object) -> None:
    found: Any = StudyProtocol()
    for part in place.split("."):
        found = getattr(found, part)
    assert found == value


def test_an_empty_file_of_keys_gives_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "{}") == StudyProtocol()


def test_yaml_values_arrive(tmp_path: Path) -> None:
    protocol = read(
        tmp_path,
        "name: knee\norgans: {meniscus: 2, cartilage: 1}\nnetwork: {architecture: vnet}\n"
        "patch_voxels: [32, 64, 16]\nmethod: {gamma: 0.5}\n",
    )
    assert protocol.classes == 3
    assert protocol.organ_names == ("cartilage", "meniscus")  # in the order of the channels
    assert protocol.network.stride == (16, 16, 16)
    assert protocol.method.gamma == 0.5
    assert protocol.method.beta == 2


# ---- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sed: 3", "study.yaml: sed: unknown key; remove it or correct its spelling (is 3)"),
        (
            "method: {gama: 0.1}",
            "study.yaml: method.gama: unknown key; remove it or correct its spelling (is 0.1)",
        ),
        (
            "patch_voxels: [64, 60, 16]",
            "study.yaml: patch_voxels: must be multiples of 8 (the networks halve 3 times),"
            " not (64, 60, 16); (64, 56, 16) would do",
        ),
        *(
            (
                f"evaluation: {{largest_component: {given}}}",
                "study.yaml: evaluation.largest_component: must be true, false or a list of "
                f"organs, not {python}",
            )
            for given, python in (
                ("rectum", "'rectum'"),
                ("2", "2"),
                ("[1]", "[1]"),
                ("null", "None"),
                ("{rectum: true}", "{'rectum': True}"),
            )
        ),
        *(
            (
                f"evaluation: {{largest_component: [rectum, {second}]}}",
                "study.yaml: evaluation: largest_component must be true, false or a list of "
                f"bladder, prostate, rectum, each once, not ['rectum', '{second}']",
            )
            for second in ("rectum", "recum")
        ),
        (
            "patch_voxels: [64, 64, 8]\nnetwork: {architecture: vnet}",
            "study.yaml: patch_voxels: must be multiples of 16 (the networks halve 4 times),"
            " not (64, 64, 8); (64, 64, 16) would do",
        ),
        (
            "patch_voxels: [64, 64, 12]\nnetwork: {architecture: unet}",
            "study.yaml: patch_voxels: must be multiples of 8 (the networks halve 3 times),"
            " not (64, 64, 12); (64, 64, 8) would do",
        ),
        (
            "network: {architecture: u-net}",
            "study.yaml: network.architecture: must be one of svnet, vnet, unet, dsresunet,"
            " not 'u-net'",
        ),
        (
            "confidence: {architecture: cnn}",
            "study.yaml: method: lambda_region must be 0 where confidence.architecture is 'cnn'"
            " (Eq. 6 would trust all of a patch or nothing), not 0.3; set it to 0, or the"
            " architecture to 'fcn'",
        ),
        (
            "confidence: {architecture: cnn, target: correctness}\nmethod: {lambda_region: 0}",
            "study.yaml: confidence.target: must be 'adversarial' where architecture is 'cnn' (one"
            " logit a patch cannot say which voxels are right), not 'correctness'; set the"
            " architecture to 'fcn'",
        ),
        (
            "training: {augment: false}",
            "study.yaml: training.augment: is now 'views': weak (was true) or none (was false)",
        ),
        (
            "training: {flips: [up-down, up-down]}",
            "study.yaml: training.flips: must name each once, not ['up-down', 'up-down']",
        ),
        ("network: {kernel: 4}", "study.yaml: network.kernel: must be 3 or 5, not 4"),
        (
            "method: {gamma: 1}",
            "study.yaml: method.gamma: must be less than 1, not 1",
        ),
        (
            "method: {beta: 5.5}",
            "study.yaml: method.beta: must be 5 or less, not 5.5",
        ),
        (
            "spacing_mm: [1, 0, 1]",
            "study.yaml: spacing_mm.1: must be 0.05 or more, not 0",
        ),
        (
            "organs: {bladder: 1, rectum: 1}",
            "study.yaml: organs: organs bladder and rectum: both have the value 1",
        ),
    ],
)
def test_a_mistake_is_reported_with_file_key_rule_and_value(
    tmp_path: Path, text: str, line: str
) -> None:
    assert mistakes_of(tmp_path, text) == [line]


@pytest.mark.parametrize("method", ["{lambda_region: 0}", "{name: semi-fcn}"])
def test_a_cnn_is_taken_where_eq6_does_not_ask_it(tmp_path: Path, method: str) -> None:
    protocol = read(tmp_path, f"confidence: {{architecture: cnn}}\nmethod: {method}")
    assert protocol.confidence.architecture == "cnn"


def test_a_cnn_with_eq6_is_reported_with_the_other_mistakes(tmp_path: Path) -> None:
    found = mistakes_of(
        tmp_path, "confidence: {architecture: cnn}\nmethod: {lambda_region: 1}\nseed: -1"
    )
    assert [line.split(": ")[1] for line in found] == ["seed", "method"]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    found = mistakes_of(
        tmp_path,
        "sed: 3\nnetwork: {kernel: 4, depth: 9}\ntraining: {rounds: 0}\norgans: {}\n",
    )
    assert [line.split(": ")[1] for line in found] == [
        "organs",
        "network.kernel",
        "network.depth",
        "training.rounds",
        "sed",
    ]


def test_a_patch_is_reported_with_the_other_mistakes(tmp_path: Path) -> None:
    assert len(mistakes_of(tmp_path, "sed: 3\npatch_voxels: [64, 60, 16]")) == 2


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must hold keys and values, not NoneType"),
        ("- 1\n- 2\n", "must hold keys and values, not list"),
        ("a: [1", "is not YAML: while parsing"),
        ("seed: 1\nrounds: 2\nseed: 3\n", "is not YAML: 'seed' stands in line 1 and in line 3"),
        ("data: {a: 1, a: 2}", "is not YAML: 'a' stands in line 1 and in line 1; keep one"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str, rule: str) -> None:
    (line,) = mistakes_of(tmp_path, text)
    assert line.startswith(f"study.yaml: {rule}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00", r"study\.yaml: is in UTF-16; save it as UTF-8"),
        ("name: x\n".encode("utf-16"), r"study\.yaml: is in UTF-16; save it as UTF-8"),
        (
            b"name: x\n# caf\xe9\n",
            r"study\.yaml: line 2: is not UTF-8 text; save the file as UTF-8",
        ),
    ],
)
def test_text_in_another_encoding_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(ProtocolError, match=said):
        read_yaml(path, StudyProtocol)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_yaml(path, StudyProtocol).name == "x"


def test_a_missing_file_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"study\.yaml: cannot be read \(No such file"):
        read_yaml(tmp_path / "study.yaml", StudyProtocol)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValidationError, match="seed"):
        StudyProtocol(seed=seed)


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x", "a" * 65])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        StudyProtocol(name=name)


def test_a_protocol_cannot_be_changed() -> None:
    protocol = StudyProtocol()
    with pytest.raises(ValidationError, match="frozen"):
        protocol.seed = 2


@pytest.mark.parametrize(
    ("adversarial", "region", "trains"),
    [(0, 0, False), (0.03, 0, True), (0, 0.3, True)],
)
def test_d_is_trained_where_something_reads_it(
    adversarial: float, region: float, trains: bool
) -> None:
    method = {"lambda_adversarial": adversarial, "lambda_region": region}
    protocol = StudyProtocol.model_validate({"method": method})
    assert protocol.method.trains_confidence is trains
    for name in ("semi-fcn", "semi-embed"):
        other = StudyProtocol.model_validate({"method": method | {"name": name}})
        assert not other.method.trains_confidence


@pytest.mark.parametrize(
    ("architecture", "taken"), [("svnet", True), ("vnet", True), ("unet", False)]
)
def test_an_embedding_needs_a_network_with_features(architecture: str, taken: bool) -> None:
    content = {"network": {"architecture": architecture}, "method": {"name": "semi-embed"}}
    if taken:
        assert StudyProtocol.model_validate(content).method.name == "semi-embed"
        return
    with pytest.raises(ValidationError, match="which unet does not give; take svnet or vnet"):
        StudyProtocol.model_validate(content)
    assert StudyProtocol.model_validate(content | {"method": {"name": "semi-fcn"}})


# ---- identity -----------------------------------------------------------------------------------


def test_canonical_json_is_sorted_compact_and_complete() -> None:
    text = StudyProtocol().canonical_json()
    content = json.loads(text)
    assert text == json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert StudyProtocol.model_validate_json(text) == StudyProtocol()
    assert set(content) == set(StudyProtocol.model_fields)


def test_the_digest_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    one = read(tmp_path, "seed: 4\norgans: {bladder: 1, rectum: 2}\nmethod: {gamma: 1e-1, beta: 1}")
    two = read(
        tmp_path, "method: {beta: 1.0, gamma: 0.1}\norgans: {rectum: 2, bladder: 1}\nseed: 4"
    )
    assert one.canonical_json() == two.canonical_json()
    assert one.digest == two.digest
    assert len(one.digest) == 64


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"organs": {"bladder": 1}}, {"method": {"gamma": 0.21}}, {"name": "other"}],
)
def test_the_digest_distinguishes_protocols(change: dict[str, object]) -> None:
    assert StudyProtocol.model_validate(change).digest != StudyProtocol().digest


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_presets_keep_the_rules(name: Any) -> None:
    # A preset made by copying is not checked when it is made.
    found = preset(name)
    assert found.name == name
    assert StudyProtocol.model_validate(found.model_dump()) == found
    again = StudyProtocol.model_validate_json(found.canonical_json())
    assert again.digest == found.digest


def test_the_paper_preset_is_the_defaults() -> None:
    assert preset("paper") == StudyProtocol(name="paper")
    assert preset("paper") != preset("quick").model_copy(update={"name": "paper"})
