"""Forks: which copy of this process is running.

A forked child has everything that its parent had, the state of random generators too. Process ids
alone do not tell the two apart: both can be process 1 of a PID namespace of their own. Whoever keeps
secret state remembers `generation()` and starts anew when it has changed.

>>> generation() == generation()
True

Sources: Python documentation of `os.register_at_fork`; threat model, section "Randomness".
"""

import os

_mark = object()


def generation() -> tuple[object, int]:
    """What a forked child does not have in common with its parent, nor a grandchild with either.

    The process id is for forks that go past the interpreter, where its hooks are not called.
    """
    return _mark, os.getpid()


def _renew() -> None:
    global _mark
    _mark = object()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_renew)
