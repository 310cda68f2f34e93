"""Which case of a site is drawn, and what is said where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk

import simulation.site_pictures
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from simulation.site_pictures import draw_sites


def test_a_site_without_a_case_to_draw_is_one_clear_error(
    make_site: Callable[..., SiteConfig],
    make_protocol: Callable[..., StudyProtocol],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_site(labelled=1, unlabelled=1)
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "A.yaml").write_text(
        f"site: A\ndata: {config.data}\ncache: {config.cache}\nstate: {config.state}\n"
    )
    loaded = (make_protocol(), {}, None)
    monkeypatch.setattr(simulation.site_pictures, "load_model", lambda _: loaded)
    monkeypatch.setattr(simulation.site_pictures, "load_segmenter", lambda *_: None)
    out, withheld = tmp_path / "sites.png", tmp_path / "withheld"
    with pytest.raises(ValueError, match="site A has no test case; give --withheld"):
        draw_sites(tmp_path, out, None)
    withheld.mkdir()
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(withheld / "another.nii.gz"))
    with pytest.raises(ValueError, match="site A has neither a test case nor an unlabelled one"):
        draw_sites(tmp_path, out, withheld)
    assert not out.exists()
