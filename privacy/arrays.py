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
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privacy.errors import MechanismError


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


def array_digest(domain: bytes, arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of arrays' names of dtypes, shapes and bytes, as hexadecimal digits."""
    hasher = hashlib.sha256(domain)
    for array in arrays:
        header = f"{array.dtype.name}{array.shape}".encode()
        hasher.update(len(header).to_bytes(8, "big") + header)
        hasher.update(storable(array).tobytes())
    return hasher.hexdigest()
