"""`asdnet-site predict --model DIR IN... --out DIR`: segment scans with a trained model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands.site_file import open_site
from client.data.pseudonyms import (
    KEY_FILE,
    Pseudonyms,
    personal_key_file,
    read_or_make_key,
)
from client.segmenting.options import FORMATS, NOTICE, Format, Options
from protocol.config.site import SITE_CONFIGS, SiteConfig
from protocol.escaping import printable
from protocol.files import remove_drafts
from reporting.terminal import make_console, user_errors

if TYPE_CHECKING:
    from rich.console import Console

    from client.segmenting.batch import Outcome
    from client.segmenting.prediction import Model
    from client.segmenting.sources import Source

_LOOK_FIRST = 3
_SHOWN = 4


class UsageError(ValueError):
    """A command that cannot begin."""


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """What `predict` can be asked for."""

    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="IN...", help="Scan files, DICOM folders, or folders of many."),
    ]
    model: Annotated[Path, typer.Option(help="Folder of a trained model, such as model/best.")]
    out: Annotated[Path, typer.Option(help="Folder of the results, one subfolder a case.")]
    site: Annotated[
        str | None, typer.Option(help="Take device, series and key from this site's file.")
    ] = None
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS
    series: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of SeriesDescription, where a case holds several series."),
    ] = None
    formats: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help=f"Formats of the results; by default all that can be made: {','.join(FORMATS)}.",
        ),
    ] = None
    largest_component: Annotated[
        bool | None,
        typer.Option(
            "--largest-component/--all-components",
            help="Keep one piece an organ, or all; by default as in the study.",
        ),
    ] = None
    device: Annotated[str | None, typer.Option(help="Device: auto, cpu, cuda or cuda:N.")] = None
    threads: Annotated[int | None, typer.Option(min=0, help="CPU threads; 0: PyTorch's.")] = None
    key: Annotated[
        Path | None, typer.Option(help="Key of the pseudonyms; made at its first use.")
    ] = None
    again: Annotated[bool, typer.Option("--again", help="Make every result anew.")] = False
    names: Annotated[
        bool, typer.Option("--names", help="Print the cases' names outside a terminal too.")
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, without names.")
    ] = False


def predict(given: PredictCommand) -> None:
    """Segment scans (files, DICOM folders, folders of many), each on its own grid.

    Exit status 0: every case has its result; 1: at least one failed, or has no file of a format
    that --formats asks for, though it is a DICOM series; 2: the command cannot begin.
    """
    # Late, so that --help and mistakes of usage do not wait for PyTorch.
    from client.data.folder.names import check_name
    from client.segmenting.prediction import open_model
    from client.segmenting.sources import find_sources

    console = make_console(stderr=True)
    with user_errors(ValueError):  # every mistake of a command is one of these
        config = open_site(given.configs / f"{given.site}.yaml") if given.site else None
        options = Options(
            formats=_formats(given.formats) if given.formats is not None else frozenset(FORMATS),
            largest_component=given.largest_component,
            series=tuple(given.series or (config.series if config else ())),
            series_setting="--series or `series` of the site's file" if config else "--series",
            incomplete=config.incomplete if config else None,
        )
        check_name(given.out, f"--out {given.out}:")
        found = find_sources(given.inputs, leave_out=given.out)
        sources = found.scans
        pseudonyms = _pseudonyms(given.key or _key_file(config), given.out, sources)
        opened = open_model(given.model, *_device(config, given.device, given.threads))
        given.out.mkdir(parents=True, exist_ok=True)
        remove_drafts(given.out)
    outcomes = _run(given, sources, opened, options, pseudonyms, console)
    if given.json:
        typer.echo(json.dumps(_as_json(outcomes), indent=2))
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    names = given.names or console.is_terminal
    _print_passed_over(console, found.passed_over, names=names)
    _print_summary(console, outcomes, sources, options, given.out)
    asked = given.formats is not None
    unmade = asked and any(o.result is not None and o.result.unmade for o in outcomes)
    raise typer.Exit(1 if failed or unmade else 0)


def _run(
    given: PredictCommand,
    sources: Sequence["Source"],
    model: "Model",
    options: Options,
    pseudonyms: Pseudonyms,
    console: "Console",
) -> list["Outcome"]:
    """All cases, a line each; the summary has those that were looked at, even if stopped."""
    from rich.progress import Progress

    from client.segmenting.batch import predict_all, write_summary

    console.print(
        f"{printable(model.title)} ({NOTICE}); confidence: {model.networks.confidence_map}"
    )
    outcomes: list[Outcome] = []
    try:
        # A bar in a terminal; where there is none, plain lines.
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("segmenting", total=len(sources))
            for outcome in predict_all(
                sources, given.out, model, options, pseudonyms, again=given.again
            ):
                outcomes.append(outcome)
                bar.advance(task)
                line = _line(outcome, names=given.names or console.is_terminal)
                colour = "red" if outcome.status == "failed" else None
                bar.console.print(f"{len(outcomes)}/{len(sources)} {printable(line)}", style=colour)
    finally:
        write_summary(given.out, outcomes, model.protocol.organ_names)
    return outcomes


def _line(outcome: "Outcome", *, names: bool) -> str:
    """One case; its own name, and what may hold it, only where that is wanted."""
    location = f"{outcome.case} ({outcome.name})" if names else outcome.case
    if outcome.failure is not None:
        return f"{location}: failed: {outcome.failure.full if names else outcome.failure.message}"
    assert outcome.result is not None
    organs = ", ".join(
        f"{organ} {measures.volume_ml:.1f} ml at {measures.mean_confidence:.2f}"
        if measures.mean_confidence is not None
        else f"{organ} NOT FOUND"
        for organ, measures in outcome.result.organs.items()
    )
    took = "there already" if outcome.status == "kept" else f"{outcome.result.seconds:.1f} s"
    return "; ".join((f"{location}: {organs}", took, *outcome.result.remarks))


def _print_passed_over(console: "Console", paths: Sequence[Path], *, names: bool) -> None:
    """What of the inputs is no case; by name only where that is wanted."""
    if paths:
        shown = [str(path) for path in paths[:_SHOWN]] + ["..."][: len(paths) > _SHOWN]
        which = f" ({', '.join(shown)})" if names else ""
        console.print(f"passed over: {len(paths)} of the inputs' entries are no case{which}")


def _print_summary(
    console: "Console",
    outcomes: Sequence["Outcome"],
    sources: Sequence["Source"],
    options: Options,
    out: Path,
) -> None:
    from client.segmenting.batch import SUMMARY_FILE, in_order

    counts = {
        status: sum(outcome.status == status for outcome in outcomes)
        for status in ("done", "kept", "failed")
    }
    failed = {outcome.name for outcome in outcomes if outcome.status == "failed"}
    files = sum(not source.is_dicom for source in sources if source.name not in failed)
    if files and options.formats - {"nifti"}:
        console.print(
            f"no {' nor '.join(sorted(options.formats - {'nifti'}))} for {files} case(s): these"
            " need a DICOM series, whose header they take over"
        )
    console.print(
        f"{counts['done']} segmented, {counts['kept']} there already, {counts['failed']} failed;"
        f" {SUMMARY_FILE} in {out}"
    )
    first = [outcome.case for outcome in in_order(outcomes) if outcome.result is not None]
    if len(first) > 1:
        console.print(f"look first at {', '.join(first[:_LOOK_FIRST])}")


def _as_json(outcomes: Sequence["Outcome"]) -> dict[str, Any]:
    from client.segmenting.batch import in_order

    cases = []
    for outcome in in_order(outcomes):
        case: dict[str, Any] = {"case": outcome.case, "status": outcome.status}
        if outcome.failure is not None:
            case |= {"rule": outcome.failure.rule, "said": outcome.failure.message}
        if outcome.result is not None:
            case["result"] = outcome.result.model_dump(mode="json")
        cases.append(case)
    return {"notice": NOTICE, "cases": cases}


def _formats(text: str) -> frozenset[Format]:
    wanted = {part.strip() for part in text.split(",")} - {""}
    unknown = sorted(wanted - set(FORMATS))
    if unknown or not wanted:
        raise UsageError(
            f"--formats {text}: {', '.join(unknown) or 'none'} is no format; give some of"
            f" {', '.join(FORMATS)}"
        )
    return frozenset(name for name in FORMATS if name in wanted)


def _key_file(config: SiteConfig | None) -> Path:
    return config.state / KEY_FILE if config else personal_key_file()


def _pseudonyms(path: Path, out: Path, sources: Sequence["Source"]) -> Pseudonyms:
    """Under the key of this file; no two cases of one name.

    Raises:
        UsageError: The key would lie with the results, or two pseudonyms are alike.
        PseudonymKeyError: The key cannot be used.
    """
    if path.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            f"--key {path}: lies in {out}, whose content may be passed on; keep it elsewhere"
        )
    pseudonyms = Pseudonyms(read_or_make_key(path))
    name_of: dict[str, str] = {}
    for source in sources:
        other = name_of.setdefault(pseudonyms.of(source.name), source.name)
        if other != source.name:
            raise UsageError(
                f"cases {other} and {source.name}: have one pseudonym, by a rare chance; segment"
                " one of them into another folder"
            )
    return pseudonyms


def _device(config: SiteConfig | None, device: str | None, threads: int | None) -> tuple[str, int]:
    """The command's, else the site file's, else what the machine has."""
    return (
        device or (config.device if config else "auto"),
        threads if threads is not None else (config.threads if config else 0),
    )
