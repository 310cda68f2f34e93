"""Why a study stopped early."""


class QuorumError(RuntimeError):
    """Too few sites answered; the message names those that did not, and why."""


class RequirementsNotMetError(QuorumError):
    """A site's data do not meet the study's requirements; the message names site and rule."""


class PausedError(RuntimeError):
    """A person, or a study of higher priority, had this one rest between two rounds."""
