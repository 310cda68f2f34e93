"""The facts of one hospital: where its data are, its device.  Nothing that changes the science."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from protocol.study import Frozen, ProtocolError, read_yaml

SITE_CONFIGS = Path("site_configs")


class SiteConfig(Frozen):
    """One site's file.  Relative paths count from the folder of the file that names them."""

    site: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
    description: str = ""
    data: Path = Field(description="folder with imagesTr/, labelsTr/, imagesUn/, ...")
    cache: Path = Field(description="preprocessed scans; may be deleted at any time")
    state: Path = Field(description="optimiser states between rounds")
    device: Literal["auto", "cpu", "cuda"] | Annotated[str, Field(pattern=r"^cuda:\d+$")] = "auto"
    min_cases_reported: PositiveInt = Field(
        3, description="sums over fewer cases stay at the site: a sum of one is a patient's value"
    )
    threads: NonNegativeInt = Field(0, description="CPU threads for the networks; 0: PyTorch's")

    def beside(self, folder: Path) -> "SiteConfig":
        """The same facts with every relative path resolved against `folder`."""
        resolved = {
            key: (folder / getattr(self, key)).resolve() for key in ("data", "cache", "state")
        }
        return self.model_copy(update=resolved)


def read_site(path: Path) -> SiteConfig:
    """A site's file, checked, its paths made absolute.

    Raises:
        ProtocolError: With every mistake of the file.
    """
    config = read_yaml(path, SiteConfig)
    if config.site != path.stem:
        raise ProtocolError(
            f"{path}: site is {config.site!r}, but the file is named {path.stem!r}; make them equal"
        )
    return config.beside(path.parent)
