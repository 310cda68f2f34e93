"""Why a study stopped early."""


class QuorumError(RuntimeError):
    """Too few sites answered; the message says which did not, and why."""


class UnmetContractError(QuorumError):
    """A site's data do not meet the study's contract; the message names site and rule."""
