"""SCAFFOLD: local training corrected by control variates, one of which each client keeps.

    y <- y - rate (grad f_i(y) - c_i + c)        K times, from y = x
    c_i' = c_i - c + (x - y) / (K rate)
    x <- x - server_rate mean(x - y),   c <- c + fraction mean(c_i' - c_i)

The client's state c_i is declared: an argument placed at the clients and a result placed there, so
whoever drives the rounds must find the same client again. Two vectors go down and two up.

Source: Karimireddy et al. (2020), Algorithm 1, option II.
"""

import jax

import secfad as fad
from secfad.algorithms.trees import Loss, Tree, add, axpy, scale, subtract


def make_round(loss: Loss, learning_rate: float, *, fraction: float = 1.0) -> fad.Computation:
    """One round: `(server_rate, model, control, own, batches) -> (model, control, own)`.

    Args:
      loss: Of a model on a batch.
      learning_rate: Of local training.
      fraction: Share of the population that takes part in a round.
    """

    @fad.computation(
        server_rate=fad.SERVER,
        model=fad.SERVER,
        control=fad.SERVER,
        own=fad.CLIENTS,
        batches=fad.CLIENTS,
    )
    def scaffold_round(server_rate, model, control, own, batches):
        start, shared = fad.broadcast((model, control), name="model")
        moved, new_own = local_round(loss, learning_rate, start, shared, own, batches)
        delta, change = fad.mean((moved, subtract(new_own, own)), name="delta")
        new_control = add(control, scale(fraction, change))
        return axpy(-server_rate, delta, model), new_control, new_own

    return scaffold_round


def local_round(
    loss: Loss, learning_rate: float, start: Tree, shared: Tree, own: Tree, batches: Tree
) -> tuple[Tree, Tree]:
    """What a client does: `(x - y, c_i')` after one pass over its mini-batches."""
    correction = subtract(shared, own)

    def step(current, batch):
        gradient = add(jax.grad(loss)(current, batch), correction)
        return axpy(-learning_rate, gradient, current), None

    moved = subtract(start, jax.lax.scan(step, start, batches)[0])
    steps = jax.tree.leaves(batches)[0].shape[0]
    return moved, axpy(1.0 / (steps * learning_rate), moved, subtract(own, shared))
