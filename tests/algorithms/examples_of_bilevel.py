"""Examples of bilevel hypergradients: AggITD in its forms, and FedNest."""

import centralised_algorithms as centralised
import jax
import jax.numpy as jnp
from algorithm_entries import Algorithm
from example_arguments import normal

from secfad.algorithms import aggitd

LOWER_SIZE, UPPER_SIZE = 3, 2


def _bilevel_example() -> aggitd.Bilevel:
    def lower(x, y, data):
        shifted = data["a"] @ y - data["c"] @ jnp.sin(x)
        return 0.5 * jnp.sum(shifted**2) + 0.5 * jnp.sum(y**2) + 0.1 * jnp.sum(jnp.cos(y))

    def upper(x, y, data):
        return 0.5 * jnp.sum((y - data["t"]) ** 2) + 0.1 * jnp.sum(x**2) * jnp.sum(y)

    return aggitd.Bilevel(upper, lower, rate=0.1, steps=3)


def _bilevel_arguments(clients: int) -> tuple:
    data = {
        "a": normal(40, clients, 3, 3), "c": normal(41, clients, 3, 2), "t": normal(42, clients, 3)
    }  # fmt: skip
    return normal(43, 2), normal(44, 3), data


def bilevel() -> list[Algorithm]:
    """The unrolled loss, its exact derivatives, shared rounds and the implicit baseline."""
    problem, steps, dx, dy = _bilevel_example(), 3, UPPER_SIZE, LOWER_SIZE
    parts = (problem.upper, problem.lower, problem.rate, problem.steps)
    value = centralised.unrolled(*parts)
    entry = lambda name, made, reference, down, up, **more: Algorithm(
        name, made, _bilevel_arguments, reference, down, up, **more
    )
    once = dx + (steps + 1) * dy
    return [
        entry("aggitd_unrolled", aggitd.unrolled(problem), value, once, steps * dy + 1),
        entry(
            "aggitd_forward_matrix", aggitd.forward_matrix(problem), jax.grad(value),
            dx + (steps + 1) * dy * (1 + dx), steps * dy * (1 + dx) + dx,
        ),
        entry(
            "aggitd_reverse", aggitd.reverse_unrolled(problem), jax.grad(value),
            once + steps * dy + 1, (2 * steps + 1) * dy + dx,
            # Its clients carry values through the loop that goes back, which mixed mode refuses.
            modes=("forward", "reverse"),
        ),
        entry(
            "aggitd_shared_rounds", aggitd.shared_rounds(problem),
            centralised.implicit(*parts, None), dx + 2 * (steps + 1) * dy, 2 * steps * dy + dx,
        ),
        entry(
            "fednest", aggitd.fednest(problem, 2), centralised.implicit(*parts, 2),
            dx + (steps + 2 + 2) * dy, (steps + 1 + 2) * dy + dx,
        ),
    ]  # fmt: skip
