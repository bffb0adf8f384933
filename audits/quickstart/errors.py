"""Errors of experiments.

Each message states the expected value, the actual value and the remedy. When one of these is
raised, nothing was sent or charged.

    ExperimentError
    +-- ConfigurationError (ValueError)   the TOML file is unusable; names every bad key
    +-- FolderOccupied                    the output folder holds another run

A folder that cannot be resumed with the given configuration raises `privacy.errors.ResumeRefused`.
"""


class ExperimentError(Exception):
    """Root of the errors of `audits.quickstart`."""


class ConfigurationError(ExperimentError, ValueError):
    """A configuration with unknown, missing or impossible values."""


class FolderOccupied(ExperimentError):
    """The output folder already holds a run."""
