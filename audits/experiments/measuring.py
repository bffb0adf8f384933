"""Measuring: held-out loss and accuracy, for the experimenter.

Every client's held-out examples are read in the clear. These figures are not part of what is
private: they tell the experimenter how good a model is, on public data, and a deployment would have
to release them through a mechanism of their own.

Source: docs/privacy-model.md, "What the figures cost".
"""

import jax
import jax.numpy as jnp
import numpy as np

from audits.experiments.checkpoints import History
from audits.experiments.fedavgm import Learner, client_loss
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

    def record(self, history: History, private: Learner, baseline: Learner | None) -> None:
        """Appends the figures of one round."""
        loss, accuracy = (float(x) for x in self._figures(private.model))
        history.loss.append(loss)
        history.accuracy.append(accuracy)
        history.learning_rate.append(private.learning_rate)
        history.momentum.append(private.momentum)
        if baseline is not None:
            loss, accuracy = (float(x) for x in self._figures(baseline.model))
            history.baseline_loss.append(loss)
            history.baseline_accuracy.append(accuracy)
            history.baseline_learning_rate.append(baseline.learning_rate)
            history.baseline_momentum.append(baseline.momentum)


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
