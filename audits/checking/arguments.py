"""Arguments of a program under check as trees, and the program over their leaves.

The walk reads programs of arrays. A program of trees is the same program over their leaves: every leaf is
an argument of its own, held where its tree is held, with the path as part of its name.

>>> tree_of("model", {"w": jax.ShapeDtypeStruct((3,), "float32")}, "server")["w"].name
"model['w']"
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from audits.checking.frontends import Arg
from audits.transfer.labels import constant_digest


@dataclasses.dataclass(frozen=True)
class Leaves:
    """A program over the leaves of its arguments.

    Attributes:
      fn: The function of the leaves, in order.
      args: The leaves.
      names: The name of each argument.
      counts: The number of leaves of each argument.
    """

    fn: Callable
    args: tuple[Arg, ...]
    names: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, fn: Callable, args: Sequence[Any]) -> "Leaves":
        """Flattens the arguments of a function; one of arrays only is left as it is."""
        if not isinstance(args, Sequence):
            raise ValueError(
                f"Expected the arguments as a list, got a {type(args).__name__}. Write "
                "audits.check(fn, [audits.Arg(name, shape, dtype, placement), ...])."
            )
        flat, tree = jax.tree.flatten(list(args))
        counts = tuple(len(jax.tree.leaves(arg)) for arg in args)
        for arg in flat:
            if not isinstance(arg, Arg):
                raise ValueError(
                    f"Expected audits.Arg, or trees of them, as arguments, got {arg!r}. Write "
                    "audits.Arg.tree(name, spec, placement) for a tree of shapes."
                )
        names = tuple(_name(arg, f"argument{k}") for k, arg in enumerate(args))
        if all(isinstance(arg, Arg) for arg in args):
            return cls(fn, tuple(flat), names, counts)
        inner = getattr(fn, "fun", fn)

        def of_leaves(*leaves: Any) -> Any:
            return inner(*jax.tree.unflatten(tree, leaves))

        functools.update_wrapper(of_leaves, inner)
        return cls(of_leaves, tuple(flat), names, counts)

    def positions(self, wrt: Iterable[int | str]) -> tuple[int, ...]:
        """The positions of the leaves of arguments, given by position or by name.

        Raises:
          ValueError: There is no such argument.
        """
        starts = np.cumsum([0, *self.counts])
        found: list[int] = []
        for at in wrt:
            if isinstance(at, str):
                if at not in self.names:
                    raise ValueError(
                        f"Expected arguments among {', '.join(self.names)} in `wrt`, got {at!r}."
                    )
                at = self.names.index(at)
            if not 0 <= at < len(self.counts):
                raise ValueError(
                    f"Expected positions of arguments in `wrt`, got {at} with {len(self.counts)} "
                    "arguments. Name at least one, for example wrt=(0,)."
                )
            found += range(int(starts[at]), int(starts[at + 1]))
        return tuple(found)


def tree_of(name: str, spec: Any, placement: str) -> Any:
    """One `Arg` for every leaf of a tree of shapes, all at one placement."""

    def leaf(path: Any, value: Any) -> Arg:
        dtype = value.dtype if hasattr(value, "dtype") else np.result_type(value)
        return Arg(name + jax.tree_util.keystr(path), np.shape(value), dtype, placement)

    return jax.tree_util.tree_map_with_path(leaf, spec)


def digests_of(public: Iterable[Any]) -> tuple[str, ...]:
    """The digests of public constants, each a digest, an array or a tree of arrays.

    An array gets two digests where JAX captures it with another dtype.

    Raises:
      ValueError: A leaf is no array, or is a PRNG key, which is not public.
    """
    found: list[str] = []
    for item in public:
        if isinstance(item, str):
            found.append(item)
            continue
        for leaf in jax.tree.leaves(item):
            array = isinstance(leaf, np.ndarray | np.generic | jax.Array)
            if not array or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                raise ValueError(
                    f"Expected arrays or digests in `public`, got {type(leaf).__name__}. A key is "
                    "not public."
                )
            held = (np.asarray(leaf), np.asarray(jax.numpy.asarray(leaf)))
            found += map(constant_digest, held)
    return tuple(dict.fromkeys(found))


def _name(arg: Any, default: str) -> str:
    """The name of an argument: of an array its own, of a tree what precedes the paths."""
    if isinstance(arg, Arg):
        return arg.name
    leaves = jax.tree.leaves(arg)
    return leaves[0].name.split("[")[0].split(".")[0] if leaves else default
