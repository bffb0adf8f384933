"""Clients of unequal size as arrays: padded to the longest, with a mask, and cut into mini-batches.

>>> data = stack([(np.ones((3, 2)), np.zeros(3)), (np.ones((1, 2)), np.zeros(1))])
>>> data.features.shape, data.counts.tolist()
((2, 3, 2), [3, 1])
>>> minibatches(data, 2)["x"].shape
(2, 2, 2, 2)
"""

from collections.abc import Sequence

import numpy as np

from secfad.data.synthetic import ClientArrays


def stack(
    clients: Sequence[tuple[np.ndarray, np.ndarray]], *, max_rows: int | None = None
) -> ClientArrays:
    """Pads clients with zeros to the same number of rows.

    Args:
      clients: Features and labels of each, with the rows first; dtypes are kept.
      max_rows: Cap on a client's rows; later ones are left out. None for no cap.

    Raises:
      ValueError: There is no client, or a client's features and labels differ in length.
    """
    if not clients:
        raise ValueError("Expected at least one client, got none.")
    for index, (x, y) in enumerate(clients):
        if len(x) != len(y):
            raise ValueError(
                f"Expected as many labels as rows of features at client {index}, got {len(y)} and "
                f"{len(x)}."
            )
    rows = max(len(y) for _, y in clients)
    rows = rows if max_rows is None else min(rows, max_rows)
    first_x, first_y = (np.asarray(part) for part in clients[0])
    features = np.zeros((len(clients), rows, *first_x.shape[1:]), first_x.dtype)
    labels = np.zeros((len(clients), rows, *first_y.shape[1:]), first_y.dtype)
    mask = np.zeros((len(clients), rows), np.float32)
    for index, (x, y) in enumerate(clients):
        count = min(len(y), rows)
        features[index, :count], labels[index, :count] = x[:count], y[:count]
        mask[index, :count] = 1.0
    return ClientArrays(features, labels, mask)


def minibatches(
    data: ClientArrays, batch_size: int, *, rng: np.random.Generator | None = None
) -> dict[str, np.ndarray]:
    """`x`, `y` and `mask` with the leading axes (clients, steps, batch size).

    Rows are padded to whole mini-batches. With `rng` each client's rows are put in random order
    first, its examples before its padding, so that only trailing mini-batches are empty.
    """
    if batch_size < 1:
        raise ValueError(f"Expected a batch size of at least 1, got {batch_size}.")
    order = None
    if rng is not None:
        order = np.argsort(rng.random(data.mask.shape) + 2.0 * (1.0 - data.mask), axis=1)
    missing = -data.mask.shape[1] % batch_size

    def cut(array: np.ndarray) -> np.ndarray:
        if order is not None:
            array = array[np.arange(len(array))[:, None], order]
        padded = np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))
        return padded.reshape(len(array), -1, batch_size, *array.shape[2:])

    return {"x": cut(data.features), "y": cut(data.labels), "mask": cut(data.mask)}


def select(data: ClientArrays, members: np.ndarray) -> ClientArrays:
    """Some of the clients, in the given order."""
    return ClientArrays(data.features[members], data.labels[members], data.mask[members])
