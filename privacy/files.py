"""Files of a run: written so that a crash leaves the old content or the new, read so that damage shows.

What the operating system refuses (a full disk, a read-only folder) is `StorageFailed`: nothing was
replaced. What cannot be read as arrays is `Damaged`, and whose file it is says what that means.

Sources: the zip format, whose members carry a CRC-32; NumPy's documentation of the npy format.
"""

import contextlib
import io
import os
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from privacy.errors import StorageFailed


class Damaged(Exception):
    """A file does not hold what was written; for the module that reads it to explain."""


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Raises errors of the operating system inside as `StorageFailed` about path."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(
            f"Expected to read and write {path}, got: {error}. Make room on the disk, or check the"
            " folder and its permissions; then call again: what was charged stays charged, and what was"
            " journalled is replayed."
        ) from error


def make_folder(path: Path) -> None:
    """Makes a folder and those above it."""
    with storage(path):
        path.mkdir(parents=True, exist_ok=True)


def write_durably(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Writes a file so that a crash leaves the old content or the new, on disk when this returns.

    Args:
      path: Of the file.
      content: All of it.
      replace: Whether a file that is there is replaced; otherwise the path must be free.

    Raises:
      FileExistsError: replace is False and something is there. It is left as it is.
      StorageFailed: The operating system refused. What was there is still there.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")
    try:
        with storage(path), draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            (os.replace if replace else os.link)(draft, path)  # a link fails if the path is taken
        except FileExistsError:
            raise
        except OSError:
            with storage(path):
                raise
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    with storage(path):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, every member checked against its CRC-32 before it is parsed.

    Raises:
      StorageFailed: The file cannot be opened.
      Damaged: It is not such a file, or was cut off or altered.
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
