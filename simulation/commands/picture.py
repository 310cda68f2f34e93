"""`asdnet-sim picture RESULT OUT.png`: a scan of each site with both contours.

Three planes of one test case a site, the axial one where it shows most organs: reference solid, the
model's prediction dashed.  Where a site has none: an unlabelled case whose label is withheld,
else one that it validates or trains on, which the title says.
"""

from pathlib import Path
from typing import Annotated

import typer

from reporting.terminal import make_console, user_errors
from simulation.commands.options import simulation_errors


def picture(
    result: Annotated[Path, typer.Argument(help="Result folder of a simulation.")],
    out: Annotated[Path, typer.Argument(help="PNG to write.")],
    withheld: Annotated[
        Path | None, typer.Option(help="Labels of unlabelled cases, for sites without any.")
    ] = None,
) -> None:
    """Draw three planes a site with reference and predicted contours."""
    from asdnet_models.model_files import ModelFileError
    from simulation.site_pictures import draw_sites

    with simulation_errors(), user_errors(ModelFileError):
        for line in draw_sites(result, out, withheld):
            make_console().print(f"note: {line}")
