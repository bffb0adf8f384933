"""What can go wrong around an experiment, as types.

Each message says what was expected, what came, and what to do. Nothing was sent or charged when one
of these is raised.

    ExperimentError
    +-- ConfigurationError (ValueError)   the TOML file is unusable; names every bad key
    +-- FolderOccupied                    the output folder holds another run

A folder that cannot be continued with what was given is `privacy.errors.ResumeRefused`.
"""


class ExperimentError(Exception):
    """Root of the errors of `audits.quickstart`."""


class ConfigurationError(ExperimentError, ValueError):
    """A configuration with unknown, missing or impossible values."""


class FolderOccupied(ExperimentError):
    """The output folder already holds a run."""
