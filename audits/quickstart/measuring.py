"""Measuring: held-out loss and accuracy, for the experimenter.

Every client's held-out examples are read in the clear. These figures are not private: they tell the
experimenter how good a model is, on public data. A deployment would have to release them through a
separate mechanism.

Source: docs/privacy-model.md, "What the figures cost".
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from audits.quickstart.fedavgm import client_loss, learning_rate, momentum
from privacy.training.hypergradients import Learner
from secfad.data.synthetic import CLASSES, ClientArrays


class Measure:
    """Mean over clients of loss and accuracy on their held-out examples."""

    def __init__(self, arrays: ClientArrays):
        examples = {"features": arrays.features, "labels": arrays.labels, "mask": arrays.mask}

        def figures(model):
            losses = jax.vmap(client_loss, in_axes=(None, 0))(model, examples)
            right = jax.vmap(client_accuracy, in_axes=(None, 0))(model, examples)
            return losses.mean(), right.mean()

        self._figures = jax.jit(figures)

    def __call__(self, state: Mapping[str, Learner]) -> dict[str, float]:
        """The figures of the private learner and, with the prefix `baseline_`, of its twin."""
        figures = {}
        for name, learner in state.items():
            prefix = "" if name == "private" else f"{name}_"
            loss, accuracy = (float(x) for x in self._figures(learner.model))
            figures[f"{prefix}loss"] = loss
            figures[f"{prefix}accuracy"] = accuracy
            figures[f"{prefix}learning_rate"] = learning_rate(learner)
            figures[f"{prefix}momentum"] = momentum(learner)
        return figures


def client_accuracy(model, batch) -> jax.Array:
    """Share of a client's examples that get their label."""
    predicted = jnp.argmax(batch["features"] @ model["weights"] + model["bias"], axis=-1)
    right = jnp.sum((predicted == batch["labels"]) * batch["mask"])
    return right / jnp.maximum(jnp.sum(batch["mask"]), 1.0)


def majority_accuracy(train: ClientArrays, test: ClientArrays) -> float:
    """Mean client accuracy of always answering the label that is most frequent in training."""
    counts = np.bincount(train.labels[train.mask > 0], minlength=CLASSES)
    right = ((test.labels == counts.argmax()) * test.mask).sum(axis=1)
    return float(np.mean(right / np.maximum(test.mask.sum(axis=1), 1.0)))
