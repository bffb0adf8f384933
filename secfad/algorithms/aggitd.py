"""Federated bilevel optimisation: derivatives of min_x f(x, y*(x)) with y* = argmin_y g(x, y).

f and g are means over clients, so the hypergradient holds products and inverses of *mean* Hessians.
Four ways to it, with T lower-level steps of size a and H, J the second derivatives g_yy, g_yx:

  forward_matrix    Z <- (I - a H) Z - a J        exact derivative of the unrolled loop; Z is d_y x d_x
  reverse_unrolled  p <- (I - a H) p, backwards   the same number; addresses the same clients again
  shared_rounds     z <- z - a (H z - f_y)        one vector, in the very rounds that improve y
  fednest           T rounds for y, then N for z  approximate implicit differentiation, the baseline

The first two are `secfad.grad` of one program in forward and in reverse mode. `shared_rounds` is our
derivation of estimating the hypergradient at the same time as y; the paper's own pseudo-code was
not at hand.

Sources: Xiao, Ji, "Communication-Efficient Federated Hypergradient Computation via Aggregated
Iterative Differentiation" (2023), abstract; Tarzanagh et al. (2022), FedNest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

import secfad as fad
from secfad.algorithms.trees import Tree, add, axpy, scale, subtract, zeros

ClientLoss = Callable[[Tree, Tree, Tree], jax.Array]


@dataclass(frozen=True)
class Bilevel:
    """A federated bilevel problem and its lower-level solver.

    Attributes:
      upper: f of (x, y, data of one client).
      lower: g of (x, y, data of one client), strongly convex in y.
      rate: Step a of the lower level.
      steps: T.
    """

    upper: ClientLoss
    lower: ClientLoss
    rate: float
    steps: int


def unrolled(problem: Bilevel) -> fad.Computation:
    """`(x, y, data) -> f(x, y_T)`, where y_T comes from T rounds from y; T + 1 rounds."""

    @fad.computation(x=fad.SERVER, y=fad.SERVER, data=fad.CLIENTS)
    def unrolled_loss(x, y, data):
        sent_x = fad.broadcast(x, name="x")
        sent_y = fad.broadcast(solve(problem, sent_x, y, data), name="final_y")
        return fad.mean(problem.upper(sent_x, sent_y, data), name="upper")

    return unrolled_loss


def solve(problem: Bilevel, sent_x: Tree, y: Tree, data: Tree) -> Tree:
    """T rounds of gradient descent on the lower level, inside a computation."""

    def step(y, _):
        sent = fad.broadcast(y, name="y")
        gradient = fad.mean(jax.grad(problem.lower, 1)(sent_x, sent, data), name="lower")
        return axpy(-problem.rate, gradient, y), None

    return jax.lax.scan(step, y, None, length=problem.steps)[0]


def forward_matrix(problem: Bilevel) -> fad.Computation:
    """`(x, y, data) -> dF/dx` with a d_y x d_x tangent in every message; for small d_x."""
    return fad.grad(unrolled(problem), mode="forward")


def reverse_unrolled(problem: Bilevel) -> fad.Computation:
    """`(x, y, data) -> dF/dx` with T further rounds backwards through the same clients."""
    return fad.grad(unrolled(problem), mode="reverse")


def shared_rounds(problem: Bilevel) -> fad.Computation:
    """`(x, y, data) -> (dF/dx, y_T)` in T + 1 rounds of 2 d_y numbers, the last of d_x."""

    @fad.computation(x=fad.SERVER, y=fad.SERVER, data=fad.CLIENTS)
    def shared(x, y, data):
        sent_x = fad.broadcast(x, name="x")

        def step(carry, _):
            sent_y, sent_z = fad.broadcast(carry, name="y")
            gradient, hessian_z = jax.jvp(
                lambda v: jax.grad(problem.lower, 1)(sent_x, v, data), (sent_y,), (sent_z,)
            )
            residual = subtract(hessian_z, jax.grad(problem.upper, 1)(sent_x, sent_y, data))
            change = fad.mean((gradient, residual), name="lower")
            return axpy(-problem.rate, change, carry), None

        y, z = jax.lax.scan(step, (y, zeros(y)), None, length=problem.steps)[0]
        return hypergradient(problem, sent_x, y, z, data), y

    return shared


def fednest(problem: Bilevel, terms: int) -> fad.Computation:
    """`(x, y, data) -> (dF/dx, y_T)` in T + N + 2 rounds of d_y numbers, the last of d_x.

    Args:
      problem: With T lower-level steps.
      terms: N, the Hessian rounds of the Neumann series for H^-1 f_y.
    """

    @fad.computation(x=fad.SERVER, y=fad.SERVER, data=fad.CLIENTS)
    def implicit(x, y, data):
        sent_x = fad.broadcast(x, name="x")
        y = solve(problem, sent_x, y, data)
        sent_y = fad.broadcast(y, name="final_y")
        first = fad.mean(jax.grad(problem.upper, 1)(sent_x, sent_y, data), name="upper")

        def term(carry, _):
            total, p = carry
            sent_p = fad.broadcast(p, name="p")
            lower = lambda v: jax.grad(problem.lower, 1)(sent_x, v, data)
            product = fad.mean(jax.jvp(lower, (sent_y,), (sent_p,))[1], name="hessian")
            p = axpy(-problem.rate, product, p)
            return (add(total, p), p), None

        total, _ = jax.lax.scan(term, (first, first), None, length=terms)[0]
        return hypergradient(problem, sent_x, y, scale(problem.rate, total), data), y

    return implicit


def hypergradient(problem: Bilevel, sent_x: Tree, y: Tree, z: Tree, data: Tree) -> Any:
    """Mean of f_x - J^T z, inside a computation: the last round."""
    sent_y, sent_z = fad.broadcast((y, z), name="final_yz")
    _, pull = jax.vjp(lambda v: jax.grad(problem.lower, 1)(v, sent_y, data), sent_x)
    direct = jax.grad(problem.upper)(sent_x, sent_y, data)
    return fad.mean(subtract(direct, pull(sent_z)[0]), name="hypergradient")
