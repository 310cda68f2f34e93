"""A trained model's card: what it is, what it learned from, how well it does, what it is not for.

Only numbers that the sites have sent, which MLflow has anyway; no number about a scan or a patient.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from protocol.wire.metrics import HIGHEST
from protocol.wire.reports import CASE_PARTS, EVALUATED_PARTS, EvaluationReport
from protocol.wording import counted
from server.rounds.record import StudyRecord

Kind = Literal["best", "final"]
KINDS: tuple[Kind, ...] = ("best", "final")
_HEADS = {"dsc": "DSC", "asd_mm": "ASD, mm", "hd95_mm": "HD95, mm", "nsd": "NSD"}
_DECIMALS = {"dsc": 3, "asd_mm": 2, "hd95_mm": 2, "nsd": 3}
_TOO_FEW = "-"
_NAMED_ABOVE = {"method", "network"}
_BEST = {
    "mean": "the one with the best mean validation DSC over sites and organs",
    "worst-site": "the one with the best validation DSC at the site where it is lowest",
}


def round_of(record: StudyRecord, kind: Kind) -> int | None:
    """After which round the model was as it is; None: there is no such model."""
    if kind == "best":
        return record.best_round if record.best_segmenter is not None else None
    return record.rounds[-1].plan.round if record.rounds else None


def summary(record: StudyRecord, kind: Kind, tags: Mapping[str, str]) -> str:
    """The first lines of the card: what is shown where there is room for a paragraph.

    Args:
        record: The study, with a round at least.
        kind: Which of its two models.
        tags: What else identifies the study, by name: digests, versions.
    """
    protocol, network = record.protocol, record.protocol.network
    chosen = {
        "best": _BEST[protocol.evaluation.best_by],
        "final": "the one after the last round",
    }
    organs = ", ".join(f"{organ} ({protocol.organs[organ]})" for organ in protocol.organ_names)
    total = protocol.training.rounds
    lines = [
        f"Segments {organs} in 3-D scans; the number is the organ's value in label maps. Of the"
        f" models of the study `{protocol.name}`, run `{record.run}`, this is {chosen[kind]}:"
        f" round {round_of(record, kind)} of {total}.",
        "",
        f"- Method: `{protocol.method.name}`, network `{network.architecture}` of width"
        f" {network.width}, patches of {_times(protocol.patch_voxels)} voxels of"
        f" {_times(protocol.spacing_mm)} mm.",
        f"- Trained at {counted(len(record.facts), 'site')}: {', '.join(sorted(record.facts))};"
        f" updates combined by the rule `{protocol.aggregation.rule}`. No scan left its site.",
        *(f"- {name}: `{value}`" for name, value in tags.items() if name not in _NAMED_ABOVE),
    ]
    return "\n".join(lines)


def model_card(record: StudyRecord, kind: Kind, tags: Mapping[str, str]) -> str:
    """The card as Markdown; arguments as in `summary`."""
    return "\n".join(
        [
            f"# {record.protocol.name}: {kind} model",
            "",
            summary(record, kind, tags),
            "",
            "## Data",
            "",
            "What each site declared: cases used, by part. Training uses the first two.",
            "",
            *_data(record),
            "",
            "## Scores",
            "",
            *_scores(record, kind),
            "",
            "## How to use it",
            "",
            *_USE,
            "",
            "## Limits",
            "",
            *_LIMITS,
            "",
            "## Licence",
            "",
            *_LICENCE,
            "",
        ]
    )


_USE = (
    "```python",
    "from asdnet_models import load_model",
    "",
    'result = load_model("data").predict(SimpleITK.ReadImage("scan.nii.gz"))',
    "```",
    "",
    "or, with MLflow and `asdnet_models` installed (`pip install ./asdnet_models` in a checkout of",
    'this software), `mlflow.pyfunc.load_model("models:/NAME@best").predict({"image": image,',
    '"spacing_zyx_mm": spacing})`: `image` is float32 (1, 1, Z, Y, X) as acquired, with z to the',
    "head, y to the back and x to the patient's left, `spacing_zyx_mm` its voxel's edges in the",
    "same order. `label` and `confidence` come back on the same grid. Weights are safetensors, all",
    "else is JSON: there is no pickle and no code in the model.",
)
_LIMITS = (
    "- Research software: not a medical device, not for clinical use.",
    "- It is known to work on scans like those of the sites above (scanner, sequence, contrast,",
    "  patients), and on others it may fail without a sign. Look at results where the confidence",
    "  map is low, and score it on labelled scans of your own before you rely on it.",
    "- Scores are means over a site's cases, as the site sent them; a site tells none that fewer",
    f"  cases than its limit stand behind, shown as `{_TOO_FEW}`. Validation scores chose the best",
    "  model, and are too good for that; test scores chose nothing.",
    "- Who has a model trained on few cases can tell to some degree who was among them; hand it on",
    "  as you would hand on that fact (docs/privacy.md, What a model gives away).",
)
_LICENCE = (
    "This software is under Apache-2.0. Under which terms the model may be used is for the centre",
    "and the sites to say: their agreement stands above this card, which grants nothing.",
)


def _data(record: StudyRecord) -> list[str]:
    rows = [
        (site, *(str(getattr(facts, count)) for count in CASE_PARTS))
        for site, facts in sorted(record.facts.items())
    ]
    sums = [str(sum(getattr(f, count) for f in record.facts.values())) for count in CASE_PARTS]
    return _table(("site", *CASE_PARTS), [*rows, ("all sites", *sums)])


def _scores(record: StudyRecord, kind: Kind) -> list[str]:
    """Of this very model; of a final one only where the last round was scored."""
    evaluation = _evaluation(record, kind)
    if not evaluation:
        return ["This model was not scored by the sites."]
    lines: list[str] = []
    for part in reversed(EVALUATED_PARTS):
        rows = [
            (
                site,
                organ,
                str(report.cases.get(part, "")),
                *(_number(getattr(sums, score).mean, score) for score in HIGHEST),
            )
            for site, report in sorted(evaluation.items())
            for organ, sums in report.scores[part].items()
            if report.cases.get(part)
        ]
        if rows:
            header = ("site", "organ", "cases", *(_HEADS[score] for score in HIGHEST))
            lines += [f"{part.capitalize()} cases:", "", *_table(header, rows), ""]
    return lines[:-1] or ["No site has told a score of it."]


def _evaluation(record: StudyRecord, kind: Kind) -> Mapping[str, EvaluationReport]:
    if kind == "best":
        return record.best_evaluation
    return record.rounds[-1].evaluation or {}


def _number(value: float | None, score: str) -> str:
    return _TOO_FEW if value is None else f"{value:.{_DECIMALS[score]}f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
