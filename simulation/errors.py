"""Why a simulation cannot be run."""


class SplitError(ValueError):
    """The folder does not hold what the split needs."""


class CohortError(ValueError):
    """The folder holds another made cohort, or none."""


class ReportError(ValueError):
    """A folder that holds no experiment, or a file of one that cannot be read."""


class StudyFolderError(ValueError):
    """The result folder cannot be used."""
