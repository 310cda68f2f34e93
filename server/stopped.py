"""Why a study stopped early."""


class QuorumError(RuntimeError):
    """Too few sites answered; the message says which did not, and why."""
