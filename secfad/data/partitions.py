"""Partitions: from one data set to clients, as one array of row numbers per client.

`iid` deals rows at random, `dirichlet` gives each client its own mixture of labels, `shards` gives
each client a few blocks of rows sorted by label, `by_id` follows a natural identifier. The first
three are exact partitions: every row goes to one client.

Sources: McMahan et al. (2017), section 3 (shards); Hsu et al. (2019), section 3 (Dirichlet).
"""

import numpy as np


def iid(rows: int, clients: int, *, seed: int) -> list[np.ndarray]:
    """Deals rows at random; client sizes differ by at most one.

    Raises:
      ValueError: There are fewer rows than clients.
    """
    _check(rows, clients)
    return _sorted(np.array_split(np.random.default_rng(seed).permutation(rows), clients))


def dirichlet(
    labels: np.ndarray, clients: int, *, concentration: float, seed: int, least: int = 1
) -> list[np.ndarray]:
    """Splits the rows of each label in proportions drawn from Dirichlet(concentration).

    Args:
      labels: One per row.
      clients: How many.
      concentration: Small for few labels per client, large for about the same mixture everywhere.
      seed: Of the draw; public.
      least: Fewest rows of a client; draws are repeated, up to 1000 times, until all have as many.

    Raises:
      ValueError: A number out of range, or no draw gave every client enough rows.
    """
    _check(len(labels), clients)
    if not 0 < concentration < np.inf:
        raise ValueError(f"Expected a positive concentration, got {concentration}.")
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(clients, concentration))
            cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
            for own, piece in zip(parts, np.split(rows, cuts)):
                own.append(piece)
        joined = [np.concatenate(own) for own in parts]
        if min(map(len, joined)) >= least:
            return _sorted(joined)
    raise ValueError(
        f"Expected every client to get at least {least} of {len(labels)} rows, got fewer in 1000 "
        "draws. Ask for fewer clients, a smaller `least` or a larger concentration."
    )


def shards(
    labels: np.ndarray, clients: int, *, shards_per_client: int = 2, seed: int
) -> list[np.ndarray]:
    """Sorts rows by label, cuts them into equal blocks and deals each client the same number.

    Raises:
      ValueError: There are fewer rows than blocks.
    """
    blocks = clients * shards_per_client
    _check(len(labels), blocks)
    ordered = np.argsort(labels, kind="stable")
    order = np.random.default_rng(seed).permutation(blocks).reshape(clients, shards_per_client)
    pieces = np.array_split(ordered, blocks)
    return _sorted([np.concatenate([pieces[b] for b in own]) for own in order])


def by_id(ids: np.ndarray, *, least: int = 1) -> dict[str, np.ndarray]:
    """One client per identifier with at least `least` rows, in the order of the identifiers."""
    names, inverse, counts = np.unique(np.asarray(ids), return_inverse=True, return_counts=True)
    return {
        str(name): np.flatnonzero(inverse == index)
        for index, name in enumerate(names)
        if counts[index] >= least
    }


def _check(rows: int, clients: int) -> None:
    if not 1 <= clients <= rows:
        raise ValueError(f"Expected between 1 and {rows} parts for {rows} rows, got {clients}.")


def _sorted(parts: list[np.ndarray]) -> list[np.ndarray]:
    return [np.sort(part) for part in parts]
