"""Synthetic(alpha, beta): clients whose models and inputs differ, made on the spot from a seed.

Client i draws its own linear classifier and its own input distribution:

    u_i ~ N(0, alpha),  W_i ~ N(u_i, 1) (10 x 60),  b_i ~ N(u_i, 1) (10)
    c_i ~ N(0, beta),   v_i ~ N(c_i, 1) (60),       x ~ N(v_i, diag(j^-1.2)),  y = argmax(W_i x + b_i)
    number of examples = 50 + floor(exp(N(4, 2)))

Nothing ties the classifiers of two clients together (u_i shifts all ten logits alike and changes no
label), so a single model learns by telling clients apart through v_i, and the more clients there
are, the less of them one linear model can hold. Sizes have a very long tail; `max_examples` states
a cap. Clients are stacked: rows past a client's last example are zero and masked out.

>>> data = synthetic(clients=3, seed=0, max_examples=80)
>>> data.train.features.shape, data.train.counts.tolist()
((3, 72, 60), [72, 72, 59])

Sources: Li et al. (2020), "Federated Optimization in Heterogeneous Networks", section 5.1 and its
generator, which passes alpha and beta as standard deviations (the same at (1, 1)) and draws sizes
with standard deviation 2; Rush, Charles, Garrett (JMLR 2024), appendix B.2, says "same implementation".
"""

from dataclasses import dataclass

import numpy as np

FEATURES = 60
CLASSES = 10
LEAST_EXAMPLES = 50
TRAIN_SHARE = 0.9
_LOG_SIZE_MEAN, _LOG_SIZE_STD = 4.0, 2.0
_SAFE_SIZE = 1 << 62


@dataclass(frozen=True)
class ClientArrays:
    """Examples of many clients, padded to the longest and stacked.

    Attributes:
      features: float32, (clients, rows, 60).
      labels: int32, (clients, rows).
      mask: float32, (clients, rows); 1 for an example, 0 for padding.
    """

    features: np.ndarray
    labels: np.ndarray
    mask: np.ndarray

    @property
    def clients(self) -> int:
        """Number of clients."""
        return self.features.shape[0]

    @property
    def counts(self) -> np.ndarray:
        """Number of examples of each client."""
        return self.mask.sum(axis=1).astype(np.int64)


@dataclass(frozen=True)
class SyntheticData:
    """A population of clients, with 90 % of each one's examples for training.

    Attributes:
      train: Training examples.
      test: Held-out examples of the same clients.
      drawn_sizes: Examples that each client drew, before the cap.
    """

    train: ClientArrays
    test: ClientArrays
    drawn_sizes: np.ndarray


def synthetic(
    *,
    clients: int,
    seed: int,
    alpha: float = 1.0,
    beta: float = 1.0,
    max_examples: int | None = None,
) -> SyntheticData:
    """Draws a population.

    Guarantees:
      Client i depends on seed and i only: a larger population has the same first clients, and a
      larger cap the same first examples.

    Args:
      clients: Size of the population.
      seed: Of the data; public, since these data are nobody's.
      alpha: Standard deviation of u_i, how much the clients' models differ.
      beta: Standard deviation of c_i, how much their inputs differ.
      max_examples: Cap on one client's examples, of both splits together; None for no cap.

    Raises:
      ValueError: A number out of range; the cap is below 50, the least a client has.
    """
    _check(clients, seed, alpha, beta, max_examples)
    made = [_client(seed, index, alpha, beta, max_examples) for index in range(clients)]
    splits = [int(TRAIN_SHARE * len(labels)) for _, labels, _ in made]
    train = [(x[:cut], y[:cut]) for (x, y, _), cut in zip(made, splits)]
    test = [(x[cut:], y[cut:]) for (x, y, _), cut in zip(made, splits)]
    sizes = np.array([size for _, _, size in made], np.int64)
    return SyntheticData(_stack(train), _stack(test), sizes)


def _check(clients: int, seed: int, alpha: float, beta: float, max_examples: int | None) -> None:
    if clients < 1:
        raise ValueError(f"Expected clients of at least 1, got {clients}.")
    if seed < 0:
        raise ValueError(f"Expected a seed of at least 0, got {seed}.")
    if not (0 <= alpha < np.inf and 0 <= beta < np.inf):
        raise ValueError(
            f"Expected alpha and beta as finite standard deviations, got {alpha} and {beta}."
        )
    if max_examples is not None and max_examples < LEAST_EXAMPLES:
        raise ValueError(
            f"Expected max_examples of at least {LEAST_EXAMPLES}, the fewest that a client has, "
            f"got {max_examples}."
        )


def _client(seed: int, index: int, alpha: float, beta: float, max_examples: int | None):
    """One client's examples, and how many it drew before the cap."""
    rng = np.random.default_rng((seed, index))
    log_size = rng.normal(_LOG_SIZE_MEAN, _LOG_SIZE_STD)
    size = LEAST_EXAMPLES + int(min(np.exp(log_size), _SAFE_SIZE))
    model_mean, input_mean = rng.normal(0.0, [alpha, beta])
    weights = rng.normal(model_mean, 1.0, (FEATURES, CLASSES))
    bias = rng.normal(model_mean, 1.0, CLASSES)
    center = rng.normal(input_mean, 1.0, FEATURES)
    # Covariance j^-1.2 on the diagonal, hence standard deviation j^-0.6.
    spread = np.arange(1, FEATURES + 1) ** -0.6
    rows = size if max_examples is None else min(size, max_examples)
    features = center + spread * rng.standard_normal((rows, FEATURES))
    labels = np.argmax(features @ weights + bias, axis=1)
    return features.astype(np.float32), labels.astype(np.int32), size


def _stack(parts: list[tuple[np.ndarray, np.ndarray]]) -> ClientArrays:
    rows = max(len(labels) for _, labels in parts)
    features = np.zeros((len(parts), rows, FEATURES), np.float32)
    labels = np.zeros((len(parts), rows), np.int32)
    mask = np.zeros((len(parts), rows), np.float32)
    for index, (x, y) in enumerate(parts):
        features[index, : len(y)] = x
        labels[index, : len(y)] = y
        mask[index, : len(y)] = 1.0
    return ClientArrays(features, labels, mask)
