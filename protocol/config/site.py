"""The site's file: paths, device, labels of one hospital.  Nothing that changes the results."""

import re
import unicodedata
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from asdnet_models.fields import Frozen
from protocol.config.limits import SiteLimits
from protocol.config.study import ProtocolError, read_yaml

SITE_CONFIGS = Path("site_configs")

SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_Fact = TypeVar("_Fact")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# What slices without a contour, between others of a structure, mean.
GapRule = Literal["interpolate", "refuse", "keep"]
# What an organ's structure without a contour, or a segment without a voxel, means.
EmptyRule = Literal["refuse", "undrawn", "absent"]


class SiteConfig(Frozen):
    """One site's file.  Relative paths count from the folder of the file that names them."""

    site: Annotated[str, Field(pattern=f"^{SITE_NAME.pattern}$")] = Field(
        description="the site's name, equal to the file's"
    )
    description: str = Field("", description="a line about the site, for its own people")
    data: Path = Field(description="folder with imagesTr/, labelsTr/, imagesUn/, ...")
    cache: Path = Field(description="preprocessed scans; may be deleted at any time")
    state: Path = Field(description="optimiser states and pseudo-labels between rounds")
    device: Literal["auto", "cpu", "cuda"] | Annotated[str, Field(pattern=r"^cuda:\d+$")] = Field(
        "auto", description="where the networks run; auto: a GPU where there is one"
    )
    min_cases_reported: PositiveInt = Field(
        3, description="sums over fewer cases stay at the site: a sum of one is a patient's value"
    )
    threads: NonNegativeInt = Field(0, description="CPU threads for the networks; 0: PyTorch's")
    compile: bool = Field(
        False, description="let torch.compile make the networks' kernels: slow to start, then fast"
    )
    accumulate: PositiveInt = Field(
        1, description="parts that a step's batch is worked through in, where memory is short"
    )
    twin: bool = Field(
        False,
        description="train each round after which scores are due once more, without the unlabelled"
        " scans, and tell how much better or worse that is on the validation cases",
    )
    labels: dict[str, tuple[str | int, ...]] = Field(
        {}, description="by organ, its names and numbers in this site's labels; {}: the study's"
    )
    ignored_labels: tuple[str | int, ...] = Field(
        (), description="names and numbers in this site's labels that are no organ of the study"
    )
    not_annotated: tuple[str, ...] = Field(
        (), description="organs that are not annotated at this site; they are unknown, not absent"
    )
    undrawn: dict[str, tuple[str, ...]] = Field(
        {}, description="by case, organs that were not drawn in it"
    )
    empty_structures: EmptyRule = Field(
        "refuse",
        description="an organ's structure without a contour, or segment without a voxel: the case"
        " refused; the organ not drawn in that case; or absent from it",
    )
    contour_gaps: GapRule = Field(
        "interpolate",
        description="slices without a contour, between others of an organ: drawn sparsely, and"
        " interpolated; the case refused; or kept empty",
    )
    exclude: dict[str, str] = Field(
        {}, description="by case, why the site leaves it out of every study"
    )
    incomplete: tuple[str, ...] = Field(
        (),
        description="cases whose DICOM series was cut on purpose: fewer slices than headers count",
    )
    series: tuple[str, ...] = Field(
        (), description="patterns of SeriesDescription, such as t2_tse_tra*; []: the only series"
    )
    patients: Path | None = Field(
        None, description="CSV of case,patient where scans' headers do not say whose they are"
    )
    centre: str | None = Field(
        None, description="host:port of the coordinating centre; null: this site only simulates"
    )
    ca: Path | None = Field(None, description="the centre's CA certificate; null: state/ca.pem")
    key: Path | None = Field(None, description="the site's private key; null: state/site.key")
    centre_key: Path | None = Field(
        None, description="the centre's public key for studies; null: state/centre.pub"
    )
    approved_bundles: tuple[Sha256, ...] = Field(
        (), description="digests of app bundles that may run here, besides the installed version"
    )
    approved_studies: tuple[Sha256, ...] = Field(
        (), description="digests of manifests of studies that may run here, unasked"
    )
    code_updates: Literal["ask", "follow"] = Field(
        "ask",
        description="follow: a later revision of an approved study that differs in its code alone"
        " is approved by itself, where that code is installed or approved here",
    )
    limits: SiteLimits = Field(
        SiteLimits(), description="what a study gets at most, and what an update rests on at least"
    )

    @field_validator("undrawn", "exclude")
    @classmethod
    def _letters_are_composed(cls, of_case: dict[str, _Fact]) -> dict[str, _Fact]:
        """By names as they are compared: macOS takes letters apart (NFD), an editor does not."""
        composed = {unicodedata.normalize("NFC", name): fact for name, fact in of_case.items()}
        if len(composed) < len(of_case):
            raise ValueError("names a case twice, its letters composed and taken apart (Unicode)")
        return composed

    @field_validator("incomplete")
    @classmethod
    def _names_are_composed(cls, cases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(unicodedata.normalize("NFC", name) for name in cases)

    @field_validator("centre")
    @classmethod
    def _centre_is_an_address(cls, centre: str | None) -> str | None:
        if centre is None:
            return None
        if centre.startswith("http://"):
            raise ValueError(f"plain HTTP is refused; write host:port, without a scheme: {centre}")
        address = centre.removeprefix("https://")
        matched = _ADDRESS.fullmatch(address)
        if not matched or not 0 < int(matched[1]) < 65536:
            raise ValueError(
                f"must be host:port, such as centre.example.org:9092 or [2001:db8::1]:9092, "
                f"not {centre!r}"
            )
        return address

    @property
    def ca_file(self) -> Path:
        """The certificate that the centre's server certificate must be signed by."""
        return self.ca or self.state / "ca.pem"

    @property
    def key_file(self) -> Path:
        """The site's private key, which never leaves the site."""
        return self.key or self.state / "site.key"

    @property
    def centre_key_file(self) -> Path:
        """What the centre's signature under a study is verified by."""
        return self.centre_key or self.state / "centre.pub"

    @property
    def running_file(self) -> Path:
        """Its lock is held while the site runs."""
        return self.state / "running.lock"

    @property
    def audit_file(self) -> Path:
        """The hash-chained log of what came, what was refused and what left."""
        return self.state / "audit.jsonl"

    @property
    def protocol_file(self) -> Path:
        """The protocol of the study that the centre last spoke of; the preflight goes by it."""
        return self.state / "protocol.json"

    @property
    def bundles(self) -> Path:
        """App bundles that the centre has sent: waiting/ and approved/."""
        return self.state / "bundles"

    @property
    def statements(self) -> Path:
        """What this site and the others have signed about each round: a file a run."""
        return self.state / "statements"

    @property
    def studies(self) -> Path:
        """Studies that the centre has signed: waiting/ and approved/."""
        return self.state / "studies"

    def in_folder(self, folder: Path) -> "SiteConfig":
        """The same facts with every relative path resolved against `folder`."""
        resolved = {
            key: (folder / getattr(self, key)).resolve()
            for key in ("data", "cache", "state", "patients", "ca", "key", "centre_key")
            if getattr(self, key) is not None
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
    return config.in_folder(path.parent)
