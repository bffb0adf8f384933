"""What the modules of the corpus share: the form of a case, common arguments and a proper clip.

A module `corpus_*` holds ordinary user code of one theme and lists it in its own `CASES`.
Nothing here imports the checker.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

N = 6  # clients of stacked programs

X = ("x", (N, 3), "clients")
W = ("w", (3,), "server")
V = ("v", (3,), "clients")
KEY = ("key", (), "server", "key<fry>")


@dataclasses.dataclass(frozen=True)
class Case:
    """A program and its verdict.

    Attributes:
      name: Of the program, unique in the corpus.
      style: How it communicates: native, stacked, spmd or drjax.
      fn: The program.
      args: A tuple (name, shape, dtype, placement) for each argument.
      kind: The verdict: accept, caveat or reject.
      rules: One of these is in the report, unless the program is accepted.
      mode: What is checked: the program itself ("primal") or a derivative of it.
      wrt: By which arguments it is differentiated.
      profile: What it is checked for.
    """

    name: str
    style: str
    fn: Callable
    args: tuple
    kind: str
    rules: frozenset = frozenset()
    mode: str = "primal"
    wrt: tuple = ()
    profile: str = "secagg"


def recording(cases: list[Case]) -> Callable:
    """A decorator that adds the program below it to `cases`.

    Its arguments are those of a case; an item of `args` is (name, shape, placement), with a
    dtype behind it where that is not float32.
    """

    def case(kind, *rules, style="stacked", args, mode="primal", wrt=(), profile="secagg"):
        def add(fn):
            filled = tuple((n, s, "float32" if len(r) == 1 else r[1], r[0]) for n, s, *r in args)
            cases.append(
                Case(fn.__name__, style, fn, filled, kind, frozenset(rules), mode, wrt, profile)
            )
            return fn

        return add

    return case


def guarded(v, c=1.0):
    n = jnp.sqrt(jnp.sum(v**2))
    good = jnp.isfinite(n)
    return jnp.where(
        good, v * jnp.where(good, jnp.minimum(1.0, c / jnp.maximum(n, 1e-9)), 0.0), 0.0
    )
