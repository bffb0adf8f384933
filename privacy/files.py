"""Files of a run: a crash leaves either the old or the new content, and a read detects damage.

If the operating system refuses a write (a full disk, a read-only folder), this module raises
`StorageFailed`, and nothing was replaced. If a file cannot be read as arrays, it raises `Damaged`,
and the module that owns the file explains it.

Sources: the zip format, whose members carry a CRC-32; NumPy's documentation of the npy format.
"""

import contextlib
import io
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from privacy.errors import StorageFailed


class Damaged(Exception):
    """A file does not hold its written content; the module that reads it explains the error."""


@contextlib.contextmanager
def storage(path: Path, *, may_exist: bool = True) -> Iterator[None]:
    """Converts errors of the operating system to `StorageFailed` about path.

    Raises:
      FileExistsError: may_exist is False and the path exists.
    """
    try:
        yield
    except OSError as error:
        if not may_exist and isinstance(error, FileExistsError):
            raise
        raise StorageFailed(
            f"Expected to read and write {path}, got: {error}. Make room on the disk, or check the"
            " folder and its permissions; then call again: what was charged stays charged, and what was"
            " journalled is replayed."
        ) from error


@contextlib.contextmanager
def draft_of(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """A path for a draft, which durably takes the place of path when the block ends without error.

    The block syncs what it writes. In any case no draft remains.

    Raises:
      FileExistsError: replace is False and the path exists. It is left unchanged.
      OSError: The operating system refused.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")
    try:
        yield draft
        (os.replace if replace else os.link)(draft, path)  # a link fails if the path is taken
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_durably(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Writes a file durably; a crash leaves either the old or the new content.

    Raises:
      FileExistsError: replace is False and the path exists. It is left unchanged.
      StorageFailed: The operating system refused. The old content is unchanged.
    """
    into = draft_of(path, replace=replace)
    with storage(path, may_exist=replace), into as draft, draft.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], *, replace: bool = True) -> None:
    """Writes an npz file durably; see `write_durably`."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_durably(path, buffer.getvalue(), replace=replace)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, every member checked against its CRC-32 before it is parsed.

    Raises:
      StorageFailed: The file cannot be opened.
      Damaged: It is not an npz file, or it was truncated or altered.
    """
    with storage(path):
        file = path.open("rb")
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                return {
                    name.removesuffix(".npy"): np.lib.format.read_array(
                        io.BytesIO(archive.read(name)), allow_pickle=False
                    )
                    for name in archive.namelist()
                }
        except Exception as error:  # zipfile and NumPy raise a dozen types for damaged bytes
            raise Damaged(f"{type(error).__name__}: {error}") from error
