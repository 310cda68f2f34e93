"""A study or a plan that no honest centre writes is refused on both sides, whatever the field."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from protocol.config.presets import PRESET_NAMES, preset
from protocol.config.schedule import RoundPlan, plan_round
from protocol.config.study import StudyProtocol

ABSURD: list[dict[str, Any]] = [
    {"network": {"width": 10**9}},
    {"confidence": {"width": 257}},
    {"patch_voxels": [4096, 4096, 4096]},
    {"spacing_mm": [1e-6, 1e-6, 1e-6]},
    {"spacing_mm": [1, 1, 51]},
    {"training": {"lr_segmenter": 1.5}},
    {"training": {"rounds": 10**9}},
    {"training": {"local_steps": 10**9}},
    {"training": {"batch_size": 10**6}},
    {"training": {"lr_decay": 1e-300}},
    {"training": {"lr_decay_at": [0.5] * 17}},
    {"training": {"weight_decay": 1e9}},
    {"training": {"proximal_mu": 1e9}},
    {"aggregation": {"round_timeout_s": 1e12}},
    {"aggregation": {"min_sites": 10**9}},
    {"method": {"lambda_region": 1e30}},
    {"method": {"embedding_margin": 1e30}},
    {"method": {"pseudo_labels_at": [0.5] * 17}},
    {"method": {"name": "x" * 10**6}},
    {"evaluation": {"overlap": 0.999999}},
    {"evaluation": {"every_rounds": 10**9}},
    {"contract": {"min_labelled": 10**9}},
    {"contract": {"min_extent_mm": 1e9}},
    {"organs": {f"organ{n}": n for n in range(1, 300)}},
    {"organs": {"x" * 65: 1}},
    {"seed": 2**31},
    {"training": {"clip_norm": 1e-300}},
    {"aggregation": {"max_update": 1e-9}},
]


def numbers(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every type of a JSON schema that is no model: number, text or list, with where it stands."""
    defs = schema.get("$defs", {})

    def walk(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if "$ref" in node:
            yield from walk(defs[node["$ref"].rpartition("/")[2]], path)
            return
        for choice in node.get("anyOf", ()):
            yield from walk(choice, path)
        for name, child in node.get("properties", {}).items():
            yield from walk(child, f"{path}.{name}")
        for child in node.get("prefixItems", ()):
            yield from walk(child, f"{path}[]")
        if isinstance(node.get("items"), dict):
            yield from walk(node["items"], f"{path}[]")
        yield path.lstrip("."), node

    yield from walk(schema, path)


def bounded(node: Mapping[str, Any]) -> bool:
    kind = node.get("type")
    if kind in ("integer", "number"):
        low = {"minimum", "exclusiveMinimum"} & node.keys()
        return bool(low and {"maximum", "exclusiveMaximum"} & node.keys()) or "enum" in node
    if kind == "string":
        return bool({"maxLength", "enum", "const", "pattern"} & node.keys())
    if kind == "array":
        return "maxItems" in node
    if kind == "object" and "additionalProperties" in node and "properties" not in node:
        return "maxProperties" in node
    return True


@pytest.mark.parametrize("model", [StudyProtocol, RoundPlan])
def test_every_number_list_and_text_has_bounds(model: type[BaseModel]) -> None:
    """A field that is added without them is found here."""
    fields = list(numbers(model.model_json_schema(mode="validation")))
    assert len(fields) > 8
    assert [path for path, node in fields if not bounded(node)] == []


def test_a_field_without_bounds_is_found() -> None:
    class Loose(BaseModel):
        number: float
        inner: list[int]
        text: str | None
        good: float | None = None

    loose = [p for p, node in numbers(Loose.model_json_schema()) if not bounded(node)]
    assert loose == ["number", "inner[]", "inner", "text", "good"]


@pytest.mark.parametrize("change", ABSURD, ids=lambda change: str(change)[:60])
def test_what_no_honest_study_asks_for_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        StudyProtocol.model_validate_json(json.dumps(change))
    assert len(str(caught.value)) < 10_000


def test_nan_and_infinity_are_refused_wherever_a_number_stands() -> None:
    content = StudyProtocol().model_dump(mode="json") | {
        "contract": {"max_spacing_mm": 1.0, "min_extent_mm": 1.0}
    }

    def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if isinstance(node, float):
            yield path
        for key, child in node.items() if isinstance(node, dict) else ():
            yield from places(child, (*path, key))
        for key, child in enumerate(node) if isinstance(node, list) else ():
            yield from places(child, (*path, key))

    found = list(places(content))
    assert len(found) > 25
    for path in found:
        for value in (float("nan"), float("inf"), float("-inf")):
            changed: Any = json.loads(json.dumps(content))
            node = changed
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = value
            with pytest.raises(ValidationError):
                StudyProtocol.model_validate(changed)
            # json.dumps writes NaN and Infinity, which JSON does not have; pydantic reads them.
            with pytest.raises(ValidationError):
                StudyProtocol.model_validate_json(json.dumps(changed))


@pytest.mark.parametrize(
    "change",
    [
        {"round": 0},
        {"round": 10**9},
        {"lr_factor": 1e300},
        {"lr_factor": float("inf")},
        {"attention_scale": float("nan")},
        {"attention_scale": 0},
        {"adversarial_ramp": -1},
        {"region_ramp": float("nan")},
        {"pseudo_labels": 10**9},
        {"gamma": 1},
        {"organ_box": [0, 0, 0, 1, 1, 2]},
        {"organ_box": [-0.1, 0, 0, 1, 1, 1]},
        {"organ_box": [0, 0, 0.5, 1, 1, 0.5]},
        {"organ_box": [0.9, 0, 0, 0.1, 1, 1]},
        {"organ_box": [0, 0, 0, 1, 1]},
    ],
    ids=str,
)
def test_an_absurd_plan_is_refused(change: dict[str, Any]) -> None:
    plan = plan_round(StudyProtocol(), 3, organ_box=(0.1, 0.1, 0.1, 0.9, 0.9, 1.0))
    content = plan.model_dump(mode="json")
    assert RoundPlan.model_validate_json(json.dumps(content)) == plan
    with pytest.raises(ValidationError):
        RoundPlan.model_validate_json(json.dumps(content | change))


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_every_round_of_every_preset_has_a_plan(name: Any) -> None:
    study = preset(name)
    for number in range(1, study.training.rounds + 1):
        assert plan_round(study, number).round == number


def test_the_rate_of_the_last_round_is_above_zero() -> None:
    """However small the factor and however many the points."""
    training = {"lr_decay": 1e-3, "lr_decay_at": [0.0] * 16}
    study = StudyProtocol.model_validate({"training": training})
    assert plan_round(study, 60).lr_factor > 0
