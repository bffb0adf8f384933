"""Arrays of numbers in files: preserves every bit, shape and dtype.

NumPy's file format has no name for some dtypes (bfloat16, 8-bit floats). Such arrays are stored as
unsigned integers of the same width.

>>> import jax.numpy as jnp
>>> half = as_array(jnp.array([1.0, -0.0], jnp.bfloat16))
>>> storable(half).dtype.name, restored(storable(half), "bfloat16").dtype.name
('uint16', 'bfloat16')

Source: docs/decisions/0033-own-checkpoints.md.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privacy.errors import MechanismError
from privacy.files import Damaged, read_arrays, write_arrays


def as_array(leaf: Any) -> np.ndarray:
    """A leaf as an array of numbers.

    Raises:
      MechanismError: The leaf is not an array of numbers.
    """
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise MechanismError(
            "Expected a state of arrays of numbers, got a typed random key. Keep "
            "jax.random.key_data(key) in the state and wrap it where it is used."
        )
    array = np.asarray(leaf)
    if array.dtype.hasobject or array.dtype.kind in "SUMm":
        raise MechanismError(
            f"Expected a state of arrays of numbers, got a {type(leaf).__name__}. "
            "Keep it outside the state, or encode it as numbers."
        )
    return array


def storable(array: np.ndarray) -> np.ndarray:
    """The same bits under a dtype of the file format."""
    known = array.dtype.kind in "biufc"
    return array if known else array.view(np.dtype(f"u{array.dtype.itemsize}"))


def restored(array: np.ndarray, dtype: str) -> np.ndarray:
    """A stored array under its original dtype."""
    return array.view(jnp.dtype(dtype))


def write_tree(path: Path, header: Mapping[str, Any], tree: Any, *, domain: bytes = b"") -> str:
    """Writes a header of JSON values and a tree of arrays, durably; returns the digest of both.

    Raises:
      MechanismError: A leaf is not an array of numbers.
      StorageFailed: The disk is full or cannot be written; an old file is unchanged.
    """
    leaves, structure = jax.tree.flatten(tree)
    arrays = [as_array(leaf) for leaf in leaves]
    names = [array.dtype.name for array in arrays]
    text = json.dumps({**header, "tree": str(structure), "dtypes": names})
    digest = _digest(domain + text.encode(), arrays)
    named = {f"leaf{i}": storable(array) for i, array in enumerate(arrays)}
    write_arrays(path, {"header": np.array(text), "digest": np.array(digest), **named})
    return digest


def read_tree(path: Path, *, domain: bytes = b"") -> tuple[dict[str, Any], list[np.ndarray], str]:
    """The header, with the structure as text under "tree", the leaves, and the digest.

    Raises:
      StorageFailed: The file cannot be opened.
      Damaged: It was not written by `write_tree`, or it was altered.
    """
    data = read_arrays(path)
    try:
        text, stated = str(data["header"]), str(data["digest"])
        header = json.loads(text)
        arrays = [restored(data[f"leaf{i}"], name) for i, name in enumerate(header["dtypes"])]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error
    if _digest(domain + text.encode(), arrays) != stated:
        raise Damaged("it was altered")
    return header, arrays, stated


def _digest(domain: bytes, arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of arrays' names of dtypes, shapes and bytes, as hexadecimal digits."""
    hasher = hashlib.sha256(domain)
    for array in arrays:
        header = f"{array.dtype.name}{array.shape}".encode()
        hasher.update(len(header).to_bytes(8, "big") + header)
        hasher.update(storable(array).tobytes())
    return hasher.hexdigest()
