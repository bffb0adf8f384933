"""HDF5 as TensorFlow Federated lays it out: `examples/<client>/<feature>`, rows first.

EMNIST, CIFAR-100, Shakespeare and Stack Overflow come as such files. Clients are read one by one,
on demand, since the larger sets do not fit into memory.

Source: the layout that `tff.simulation.datasets` reads.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from secfad.data.errors import FormatError, MissingExtra


class Hdf5Clients(Mapping[str, dict[str, np.ndarray]]):
    """Client name to its features; a context manager that closes the file.

    Args:
      path: The HDF5 file.

    Raises:
      MissingExtra: h5py is not installed.
      FormatError: The file is not HDF5 or has no group `examples`.
    """

    def __init__(self, path: str | Path):
        try:
            import h5py
        except ImportError as error:
            raise MissingExtra(
                "Reading HDF5 needs h5py, which is not installed. Run: pip install h5py"
            ) from error
        try:
            self._file = h5py.File(path, "r")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise FormatError(f"Expected an HDF5 file, got {path}: {error}.") from error
        if "examples" not in self._file:
            self._file.close()
            raise FormatError(f"Expected a group `examples` with a group per client in {path}.")
        self._examples: Any = self._file["examples"]

    def __enter__(self) -> "Hdf5Clients":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, client: str) -> dict[str, np.ndarray]:
        features = {name: np.asarray(values) for name, values in self._examples[client].items()}
        lengths = {len(values) for values in features.values()}
        if len(lengths) != 1:
            raise FormatError(
                f"Expected features of one length at client {client!r}, got {sorted(lengths)}."
            )
        return features
