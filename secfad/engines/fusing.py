"""Fusing: the program of one client as one program for many clients at once.

The program is mapped over a leading axis of clients. Its sums reduce that axis, and what is only added
up is contracted over it (`secfad.engines.contractions`). A simulation fuses a whole program over all clients,
or one contact over a chunk of them: the same function of a program does both.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from secfad import _jax
from secfad._jax import ClosedJaxpr
from secfad.engines.contractions import contract
from secfad.programs.following import axis_of, marked


def over_clients(
    closed: ClosedJaxpr, mapped: Sequence[bool], stacked: Sequence[bool]
) -> Callable[..., list[Any]]:
    """The program of one client as a function of the values of many.

    Args:
      closed: The program, without dead equations.
      mapped: Which arguments differ between clients and have a leading axis of them; one at least.
      stacked: Which results shall have one; the others are alike for all clients.
    """
    closed = contract(closed, mapped)
    source = marked(closed)
    return jax.vmap(
        functools.partial(_jax.eval_jaxpr, source.jaxpr, source.consts),
        in_axes=[0 if m else None for m in mapped],
        out_axes=[0 if s else None for s in stacked],
        axis_name=axis_of(closed),
    )
