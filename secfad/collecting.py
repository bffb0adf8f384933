"""Collecting: Python's garbage collector, while a program is traced or certified.

Tracing, placing, staging and checking make many objects at once, nearly all of which stay. The
collector would walk them again and again and find nothing: for a program of 10,000 equations that is
a third of the time (`python benchmarks/bench_federated_ad.py --only staging`).
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keeps the garbage collector from running; as it was before, afterwards."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
