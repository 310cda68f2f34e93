"""Why a simulation cannot be run."""


class SplitError(ValueError):
    """The folder does not hold what the split needs."""


class CohortError(ValueError):
    """The folder holds another made cohort, or none."""


class StudyFolderError(ValueError):
    """The result folder cannot be used."""
