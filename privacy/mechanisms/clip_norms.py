"""`typical_norms`: the norms of contributions, for choosing clip norms.

Sources: Andrew et al. (2021) for the median as a clip norm; `privacy.mechanisms.adaptive` finds it privately.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from privacy.checking import expect
from privacy.errors import MechanismError
from secfad import CLIENTS, Computation, execute, trace
from secfad.inner import Aggregate, Upload, plain_sum


def typical_norms(computation: Computation, args: Sequence[Any]) -> dict[str, float]:
    """Sum name to the median over clients of their contributions' norms, maximised over the rounds.

    The norms are computed in the clear and not charged: use only public or simulated data. Norms of
    private data reveal something about them; use `privacy.mechanisms.adaptive` instead.

    Client arguments are stacked. The result is a `clip_norm` for a mechanism.
    """
    expect(
        computation,
        Computation,
        "computation",
        "a computation",
        "Decorate the function with @secfad.computation(argument=secfad.SERVER, ...).",
        MechanismError,
    )
    expect(args, Sequence, "args", "a sequence", "Pass them as one tuple.", MechanismError)
    args = computation.bind(*args)
    found: dict[str, float] = {}

    def record(upload: Upload) -> Aggregate:
        for name in dict.fromkeys(upload.names):
            own = [v for v, n in zip(upload.values, upload.names) if n == name]
            rows = np.concatenate([np.asarray(v).reshape(upload.clients, -1) for v in own], axis=1)
            norm = float(np.median(np.linalg.norm(rows, axis=1)))
            found[name] = max(norm, found.get(name, 0.0))
        return plain_sum(upload)

    specs = [
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), arg)
        if place is CLIENTS
        else arg
        for arg, place in zip(args, computation.placements.values())
    ]
    execute(trace(computation, *specs), *args, aggregate=record)
    return found
