"""One site of sites.json: its key, and how many training cases it may declare."""

from typing import Annotated

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationInfo, field_validator

from asdnet_models.fields import Frozen
from protocol.config.site import SiteConfig
from protocol.keys import openssh_fingerprint, parse_openssh_line

MAX_CASES = 100_000
# Where nobody has asked the hospital: more than nearly any has, and no site can pass for a hundred.
DEFAULT_CASES = 500


class SiteKey(Frozen):
    """The key by which one site is known, and what it may say of itself."""

    public_key: str = Field(description="one OpenSSH line, EC P-384, without a comment")
    fingerprint: str = Field(description="SHA256:..., as ssh-keygen -lf prints it")
    added: AwareDatetime
    max_cases: Annotated[int, Field(ge=1, le=MAX_CASES)] = Field(
        DEFAULT_CASES, description="training cases that the site may declare, with labels or not"
    )

    @field_validator("public_key")
    @classmethod
    def _key_is_p384(cls, line: str) -> str:
        parse_openssh_line(line)
        return line

    @field_validator("fingerprint")
    @classmethod
    def _fingerprint_is_the_keys(cls, fingerprint: str, info: ValidationInfo) -> str:
        line = info.data.get("public_key")
        if line and (true := openssh_fingerprint(parse_openssh_line(line))) != fingerprint:
            raise ValueError(f"is not the key's, which is {true}; take the site out and add it")
        return fingerprint


# The rule of a name is defined once, in SiteConfig.
SiteName = TypeAdapter[str](SiteConfig.model_fields["site"].rebuild_annotation())
