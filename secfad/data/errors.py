"""What can go wrong while reading data.

DataError
+- FormatError    a file is not what its reader expects
+- MissingExtra   an optional package is not installed; also an ImportError
"""

from secfad.errors import SecfadError


class DataError(SecfadError):
    """Data cannot be had."""


class FormatError(DataError):
    """A file is not in the expected format."""


class MissingExtra(DataError, ImportError):
    """An optional package is needed."""
