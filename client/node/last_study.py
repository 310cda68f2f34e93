"""The study that the centre last spoke of, as this site keeps it for its own checks."""

from pydantic import ValidationError

from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol


def last_study(config: SiteConfig) -> tuple[StudyProtocol | None, str]:
    """The study, or None; and a line about a file that is there and cannot be used.

    Such a file keeps nobody from anything: the next study writes it anew.
    """
    file = config.protocol_file
    try:
        return StudyProtocol.model_validate_json(file.read_bytes()), ""
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except ValidationError as error:
        count = error.error_count()
        reason = f"is no study of this version ({count} mistake{'s' if count > 1 else ''})"
    return None, f"{file}: {reason}; it is passed over, the next study writes it anew"
