"""`asdnet-site next-to-label --site A --model DIR --out FILE.csv`: which scan to draw next."""

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.site_file import open_site
from client.segmenting.options import NOTICE
from protocol.config.site import SITE_CONFIGS, SiteConfig
from protocol.escaping import printable
from protocol.files import why_not_writable, write_text
from protocol.keys import PRIVATE_MODE
from protocol.wording import counted
from reporting.terminal import make_console, user_errors

if TYPE_CHECKING:
    from rich.console import Console

    from client.data.cache import CachedCase
    from client.data.dataset import SiteData
    from client.data.errors import Problem
    from client.segmenting.next_to_label import SegmentedScan, Suggestion
    from client.segmenting.prediction import Model


class NothingToLabelError(ValueError):
    """A list that cannot be made, and what to do."""


def next_to_label(
    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")],
    model: Annotated[Path, typer.Option(help="Folder of a trained model, such as model/best.")],
    out: Annotated[Path, typer.Option(metavar="FILE.csv", help="Where the list goes.")],
    count: Annotated[
        int | None, typer.Option(min=1, help="List the first so many; by default every scan.")
    ] = None,
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS,
    device: Annotated[
        str | None, typer.Option(help="Device: auto, cpu, cuda or cuda:N; else the site file's.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=0, help="CPU threads; 0: PyTorch's; else the site file's.")
    ] = None,
) -> None:
    """List this site's unlabelled scans: first those whose labels should teach most.

    The list holds the cases' names, and stays here: nothing is sent.  Exit status 0: every scan is
    considered; 1: some cannot be read, and are left out; 2: there is no list.
    """
    # Late, so that --help and mistakes of usage do not wait for PyTorch.
    from client.data.dataset import prepare_site
    from client.segmenting.prediction import open_model

    console = make_console(stderr=True)
    # What is refused is told below, by name in a terminal alone, and not by Python's last resort.
    logging.getLogger("client").addHandler(logging.NullHandler())
    with user_errors(ValueError):  # every mistake of a command is one of these
        config = open_site(configs / f"{site}.yaml")
        _check_out(out)
        opened = open_model(
            model, device or config.device, config.threads if threads is None else threads
        )
        data = prepare_site(config, opened.protocol, strict=False)
        _check_data(data, config, opened)
        parts = ("labelled", "unlabelled")
        unread = [refusal.problem for refusal in data.refused if refusal.part in parts]
        scans = _segmented(data, config, opened, console, unread)
        listed = _suggest(scans, data, opened)[:count]
        _write(out, listed)
    _print(console, out, listed, unread, opened)
    raise typer.Exit(1 if unread else 0)


def _check_out(out: Path) -> None:
    """Before minutes are spent."""
    if out.is_dir():
        raise NothingToLabelError(f"--out {out}: is a folder; give a file, such as {out}/next.csv")
    if problem := why_not_writable(out):
        raise NothingToLabelError(f"--out {out}: cannot be written ({problem}); give another file")


def _check_data(data: "SiteData", config: SiteConfig, model: "Model") -> None:
    """Whether there is something to list, and the model is for this site's labels.

    Raises:
        NothingToLabelError: It is not.
    """
    of_folder = [str(refusal.problem) for refusal in data.refused if not refusal.case]
    if of_folder:
        raise NothingToLabelError("\n".join(of_folder))
    organs = model.protocol.organ_names
    if not set(organs) - set(config.not_annotated):
        raise NothingToLabelError(
            f"{config.site}.yaml: not_annotated names every organ of the model"
            f" ({', '.join(organs)}): there is nothing to draw; give a model of the site's organs"
        )
    labels = [str(r.problem) for r in data.refused if r.part == "labelled"]
    if labels and not data.labelled:
        raise NothingToLabelError(
            f"--model {model.title}: none of the {len(labels)} labelled scans can be read with its"
            f" organs ({', '.join(organs)}); give a model of this site's study\n{labels[0]}"
        )
    if not data.unlabelled:
        refused = sum(refusal.part == "unlabelled" for refusal in data.refused)
        of_them = f" that can be read ({refused} cannot; asdnet-site check says why)"
        raise NothingToLabelError(
            f"site {config.site}: has no unlabelled scan{of_them if refused else ''}; put scans"
            " into imagesUn of its data folder"
        )


def _segmented(
    data: "SiteData",
    config: SiteConfig,
    model: "Model",
    console: "Console",
    unread: list["Problem"],
) -> Mapping[str, "SegmentedScan"]:
    """By cache key, every labelled and unlabelled scan as the model sees it.

    What fails is added to `unread`; the others go on.
    """
    from rich.progress import track

    from client.data.errors import ScanError
    from client.data.unexpected import attempt

    found = {}
    cases = (*data.unlabelled, *data.labelled)
    for case in track(
        cases, "segmenting", console=console, transient=True, disable=not console.is_terminal
    ):
        scan = attempt(case.case, partial(_one, case, config, model))
        if isinstance(scan, ScanError):
            unread.append(scan.problem)
        else:
            found[case.key] = scan
    return found


def _one(case: "CachedCase", config: SiteConfig, model: "Model") -> "SegmentedScan":
    from client.segmenting.next_to_label import segmented_scan
    from client.training.evaluation import predict_on_grid, trust_maps

    networks, protocol = model.networks, model.protocol
    probabilities = predict_on_grid(networks.segmenter, protocol, case)
    maps = trust_maps(networks.confidence, probabilities, protocol, case)
    return segmented_scan(
        case.name,
        case.image,
        probabilities,
        maps.get("confidence", maps["softmax"]),
        protocol.spacing_mm,
        protocol.organ_names,
        drawn=set(protocol.organ_names) - set(config.not_annotated),
    )


def _suggest(
    scans: Mapping[str, "SegmentedScan"], data: "SiteData", model: "Model"
) -> list["Suggestion"]:
    from client.segmenting.next_to_label import suggest

    def there(cases: Sequence["CachedCase"]) -> list["SegmentedScan"]:
        return [scans[case.key] for case in cases if case.key in scans]

    doubters = "S doubts" if model.networks.confidence is None else "S and D doubt"
    listed = suggest(there(data.unlabelled), there(data.labelled), doubters=doubters)
    if not listed:
        raise NothingToLabelError(
            "no unlabelled scan could be segmented; asdnet-site check says what is wrong with each"
        )
    return listed


def _rows(listed: Sequence["Suggestion"]) -> Iterator[dict[str, str]]:
    for rank, suggestion in enumerate(listed, 1):
        scores = suggestion.scan.expected_dsc
        yield (
            {"rank": str(rank), "case": printable(suggestion.scan.name)}
            | {f"{organ}_expected_dsc": f"{score:.4f}" for organ, score in scores.items()}
            | {"why": suggestion.why}
        )


def _write(out: Path, listed: Sequence["Suggestion"]) -> None:
    text, rows = io.StringIO(newline=""), list(_rows(listed))
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out, text.getvalue(), PRIVATE_MODE)


def _print(
    console: "Console",
    out: Path,
    listed: Sequence["Suggestion"],
    unread: Sequence["Problem"],
    model: "Model",
) -> None:
    """What was done; names of cases only in a terminal."""
    console.print(f"{printable(model.title)} ({NOTICE}); doubt: {model.networks.confidence_map}")
    if model.networks.confidence is None:
        console.print("this model has no confidence network: its maximum softmax stands in for M")
    for problem in unread:
        line = str(problem) if console.is_terminal else problem.anonymous
        console.print(f"left out: {printable(line)}", style="yellow")
    console.print(f"{counted(len(listed), 'scan')} in the order to be labelled: {out}")
    console.print("the list holds the cases' names: it stays at this site")
