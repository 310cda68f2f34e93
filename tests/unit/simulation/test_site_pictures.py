"""Which case of a site is drawn, and what is said where there is none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import simulation.site_pictures
from client.data.folder.layout import LayoutError
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from simulation.errors import StudyFolderError
from simulation.site_pictures import draw_sites


@pytest.fixture
def result(
    make_site: Callable[..., SiteConfig],
    make_protocol: Callable[..., StudyProtocol],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """The folder of a study of these sites, whose model says nothing but background."""

    def make(sites: dict[str, dict[str, int]]) -> Path:
        (tmp_path / "sites").mkdir()
        (tmp_path / "model" / "best").mkdir(parents=True)
        for site, parts in sites.items():
            config = make_site(site, **parts)
            (tmp_path / "sites" / f"{site}.yaml").write_text(
                f"site: {site}\ndata: {config.data}\ncache: {config.cache}\nstate: {config.state}\n"
            )
        loaded = (make_protocol(), {}, None)
        monkeypatch.setattr(simulation.site_pictures, "load_model", lambda _: loaded)
        monkeypatch.setattr(simulation.site_pictures, "load_segmenter", lambda *_: None)
        monkeypatch.setattr(
            simulation.site_pictures,
            "predict_label_map",
            lambda *given: np.zeros(given[-1].GetSize()[::-1], np.uint8),
        )
        return tmp_path

    return make


def test_a_site_without_a_case_to_draw_is_one_clear_error(
    make_site: Callable[..., SiteConfig],
    make_protocol: Callable[..., StudyProtocol],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_site(unlabelled=1)
    (tmp_path / "sites").mkdir()
    (tmp_path / "model" / "best").mkdir(parents=True)
    (tmp_path / "sites" / "A.yaml").write_text(
        f"site: A\ndata: {config.data}\ncache: {config.cache}\nstate: {config.state}\n"
    )
    loaded = (make_protocol(), {}, None)
    monkeypatch.setattr(simulation.site_pictures, "load_model", lambda _: loaded)
    monkeypatch.setattr(simulation.site_pictures, "load_segmenter", lambda *_: None)
    out, withheld = tmp_path / "sites.png", tmp_path / "withheld"
    with pytest.raises(StudyFolderError, match="site A has no case with a label; give --withheld"):
        draw_sites(tmp_path, out, None)
    withheld.mkdir()
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(withheld / "another.nii.gz"))
    with pytest.raises(StudyFolderError, match="site A has no case with a label"):
        draw_sites(tmp_path, out, withheld)
    assert not out.exists()
    with pytest.raises(StudyFolderError, match="is no result of a simulation"):
        draw_sites(withheld, out, None)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"labelled": 1, "validation": 1, "test": 1}, ""),
        ({"labelled": 1, "validation": 1}, ", a validation case"),
        ({"labelled": 1}, ", a training case"),
    ],
)
def test_the_title_says_what_the_site_has_the_case_for(
    result: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, parts: dict[str, int], words: str
) -> None:
    titles = []
    draw = simulation.site_pictures.three_planes
    monkeypatch.setattr(
        simulation.site_pictures,
        "three_planes",
        lambda *given, title, **more: (titles.append(title), draw(*given, title=title, **more))[1],
    )
    folder = result({"A": parts, "B": {"unlabelled": 1}})
    assert draw_sites(folder, folder / "sites.png", None) == [
        "site B has no case with a label; give --withheld the folder of labels of its unlabelled"
        " cases"
    ]
    assert titles == [f"site A{words}"]
    assert sitk.ReadImage(str(folder / "sites.png")).GetWidth() > 400


def test_every_case_that_cannot_be_read_is_told(result: Callable[..., Path]) -> None:
    folder = result({"A": {"test": 1, "labelled": 1}, "B": {"test": 1, "labelled": 1}})
    for path in folder.glob("hospital-*/imagesTs/*"):
        path.write_bytes(b"")
    with pytest.raises(LayoutError) as caught:
        draw_sites(folder, folder / "sites.png", None)
    assert [line[:7] for line in str(caught.value).splitlines()] == ["site A:", "site B:"]
    assert not (folder / "sites.png").exists()
    for path in folder.glob("hospital-*/imagesTs/*"):
        path.unlink()
        path.symlink_to("/nowhere/scan.nii.gz")  # the scans have moved
    with pytest.raises(LayoutError) as caught:
        draw_sites(folder, folder / "sites.png", None)
    assert [line[:7] for line in caught.value.mistakes] == ["site A:", "site B:"]
    assert all("is a link to what is not there" in line for line in caught.value.mistakes)
