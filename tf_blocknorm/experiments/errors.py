"""The one error that the command line shows as a line instead of a traceback."""


class ExperimentError(ValueError):
    """Something the user can put right: a wrong option, a missing file, unusable data."""
