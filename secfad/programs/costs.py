"""Costs: rounds, contacts, bytes and client state, read off a program's schedule.

Nothing is measured: the figures are those of the messages that an engine sends. A sum of constants
is the size of the cohort and costs nothing. What is counted is the payload; a secure-aggregation
protocol adds its own bytes, which it reports itself.

Source: Rush, Charles, Garrett (JMLR 2024), section 3.4, as numbers computed from the program.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from secfad._jax import spec
from secfad.jaxprs.equations import Atom, Cond, Scan, While
from secfad.placements import CLIENTS
from secfad.programs.pairing import goes_back
from secfad.programs.stages import Nested, Round, Schedule


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one evaluation costs each client; infinite where a while loop decides.

    Attributes:
      contacts: How often the cohort is contacted, to send or to receive.
      rounds: Contacts in which clients send.
      broadcasts: Values received by a client.
      sums: Values sent by a client.
      down_bytes: Payload received.
      up_bytes: Payload sent.
      released: Numbers that sums give to the server: the dimension that noise has, where it is added.
      state_bytes: Most that a client keeps from one contact to a later one, apart from its data and
        what follows from them alone. In a loop, what is collected counts as if it were complete.
      readdressed: Whether any contact needs the clients of an earlier one: for what they keep, or for
        their part of a derivative, which travels without their part of the value.
    """

    contacts: float = 0
    rounds: float = 0
    broadcasts: float = 0
    sums: float = 0
    down_bytes: float = 0
    up_bytes: float = 0
    released: float = 0
    state_bytes: float = 0
    readdressed: bool = False


def costs(plan: Schedule, iterations: float = math.inf) -> Costs:
    """Adds up a schedule, loops included.

    Args:
      plan: The schedule.
      iterations: How often a while loop runs, as far as anyone knows.
    """
    total = _items(plan, iterations)
    return dataclasses.replace(total, readdressed=total.readdressed or goes_back(plan))


def _items(plan: Schedule, iterations: float) -> Costs:
    total = [Costs()]
    for item in plan.items:
        if isinstance(item, Round):
            total.append(_round(plan, item))
        elif isinstance(item, Nested):
            total.append(_nested(item, iterations))
    return _together(total)


def _round(plan: Schedule, item: Round) -> Costs:
    sent = [v for m in item.uploads for v in m.inputs if plan.placed.placement(v) is CLIENTS]
    received = [v for m in item.downloads for v in m.outputs]
    kept = nbytes(item.kept)
    return Costs(
        contacts=int(bool(item.downloads or item.uploads)),
        rounds=int(bool(sent)),
        broadcasts=len(received),
        sums=len(sent),
        down_bytes=nbytes(received),
        up_bytes=nbytes(sent),
        released=sum(math.prod(spec(v.aval).shape) for v in sent),
        state_bytes=kept,
        readdressed=kept > 0,
    )


def _nested(item: Nested, iterations: float) -> Costs:
    bodies = [_items(body, iterations) for body in item.bodies]
    match item.step:
        case Cond():
            # The branch is known at run time only: the most that either costs.
            total = _together(bodies, counted=max)
        case Scan(length=length):
            total = _times(bodies[0], length)
        case While():
            total = _times(_together(bodies), iterations)
    state = max(nbytes(item.kept), nbytes(item.held) + total.state_bytes)
    return dataclasses.replace(total, state_bytes=state, readdressed=state > 0)


# What adds up over contacts; of the rest, the most is what counts.
_COUNTED = ("contacts", "rounds", "broadcasts", "sums", "down_bytes", "up_bytes", "released")


def _together(costs: Sequence[Costs], counted: Callable = sum) -> Costs:
    columns = {f.name: [getattr(c, f.name) for c in costs] for f in dataclasses.fields(Costs)}
    return Costs(**{n: (counted if n in _COUNTED else max)(c) for n, c in columns.items()})


def _times(cost: Costs, count: float) -> Costs:
    if count == 0:
        return Costs()
    return dataclasses.replace(cost, **{n: _product(getattr(cost, n), count) for n in _COUNTED})


def _product(value: float, count: float) -> float:
    product = 0 if value == 0 else value * count
    return math.inf if math.isinf(product) else int(product)


def nbytes(values: Iterable[Atom]) -> int:
    """Payload of values: entries times the size of their dtype; of keys, that of their data."""
    return sum(_size(v.aval) for v in values)


def _size(aval: Any) -> int:
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
        # How long a key is depends on its generator.
        aval = jax.eval_shape(jax.random.key_data, spec(aval))
    return math.prod(aval.shape) * aval.dtype.itemsize
