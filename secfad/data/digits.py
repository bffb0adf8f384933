"""Handwritten digits, 8 x 8: small real images for a federation whose partition is artificial.

1,797 rows of 64 grey values and a label, from scikit-learn's wheel, so nothing is downloaded. The
writers are not recorded: split the rows with `secfad.data.partitions`.

Source: Alpaydin, Kaynak (1998), Optical Recognition of Handwritten Digits, test part; UCI.
"""

import numpy as np

from secfad.data.errors import MissingExtra


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Features in [0, 1], float32 (1797, 64), and labels, int32 (1797,).

    Raises:
      MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra(
            "The digits are part of scikit-learn, which is not installed. "
            "Run: pip install scikit-learn"
        ) from error
    features, labels = load_digits(return_X_y=True)
    return (features / 16.0).astype(np.float32), labels.astype(np.int32)


def train_and_test(
    *, test_share: float = 0.2, seed: int = 0
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The digits in random order, split once into a training and a test part."""
    features, labels = read_digits()
    order = np.random.default_rng(seed).permutation(len(labels))
    cut = len(labels) - round(test_share * len(labels))
    train, test = order[:cut], order[cut:]
    return (features[train], labels[train]), (features[test], labels[test])
