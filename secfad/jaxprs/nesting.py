"""Nesting: programs that an equation holds where JAX has no rule for looking at them.

A call or control flow has its bodies in parameters that `equations` knows. Other primitives may hold a
program in any object: in a tree, a dataclass, the closure of a function, a partial function. What such
a program says would be in no table, cost or certificate, so communication inside is refused. A function
cannot be looked into: whoever holds one is *opaque*, and what it does shows when it is compiled
(`following`).
"""

import enum
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from secfad._jax import ClosedJaxpr, Jaxpr

_SIMPLE = frozenset({type(None), bool, int, float, complex, str, bytes})
_SEQUENCES = frozenset({tuple, list, set, frozenset})
_PLAIN = (
    *(type, enum.Enum, types.ModuleType, np.ndarray, np.generic, np.dtype),
    *(jax.Array, jax.ShapeDtypeStruct, jax.sharding.Sharding),
)
_TRUSTED = ("jax", "jaxlib", "numpy", "ml_dtypes", "builtins", "operator", "functools", "math")
# Objects looked at before a parameter counts as one that cannot be looked into.
_MOST = 10_000


class Nested:
    """What the parameters of an equation hold.

    Attributes:
      programs: Every program found in them, at any depth.
      opaque: Whether they hold something that cannot be looked into.
    """

    def __init__(self, params: Mapping[str, Any]):
        self.programs: list[Jaxpr] = []
        self.opaque = False
        # Holds the objects themselves, so that an id is never reused while it is a key.
        self._seen: dict[int, Any] = {}
        self._look([value for value in params.values() if not _is_simple(value)])

    def _look(self, stack: list[Any]) -> None:
        while stack:
            value = stack.pop()
            if type(value) in _SIMPLE or isinstance(value, _PLAIN) or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            if len(self._seen) > _MOST:
                self.opaque = True
                return
            if isinstance(value, ClosedJaxpr | Jaxpr):
                self.programs.append(value.jaxpr if isinstance(value, ClosedJaxpr) else value)
            elif callable(value) and not _is_followed(value):
                self.opaque = True
                stack += _parts(value)
            else:
                stack += _parts(value)


def may_hold_more(params: Mapping[str, Any]) -> bool:
    """False for the parameters of most equations: numbers and tuples of them."""
    return not all(map(_is_simple, params.values()))


def _is_simple(value: Any) -> bool:
    """True for most parameters: numbers and tuples of them."""
    kind = type(value)
    return kind in _SIMPLE or (kind is tuple and all(type(item) in _SIMPLE for item in value))


def _is_followed(function: Callable) -> bool:
    """True for what holds no code but JAX's own: its parts say what it does."""
    code = function
    while isinstance(code, functools.partial | types.MethodType):
        code = code.func if isinstance(code, functools.partial) else code.__func__
    named = code if isinstance(code, types.FunctionType) else type(code)
    if isinstance(code, types.BuiltinFunctionType | np.ufunc):
        return True
    return (named.__module__ or "").partition(".")[0] in _TRUSTED


def _parts(value: Any) -> Iterator[Any]:
    """The objects that an object consists of."""
    match value:
        case dict():
            yield from value.keys()
            yield from value.values()
            return
        case tuple() | list() | set() | frozenset():
            yield from value
            if type(value) in _SEQUENCES:
                return
        case functools.partial():
            yield from (value.func, value.args, value.keywords)
        case types.MethodType():
            yield from (value.__self__, value.__func__)
        case types.FunctionType():
            yield from (value.__defaults__, value.__kwdefaults__)
            for cell in value.__closure__ or ():
                try:
                    yield cell.cell_contents
                except ValueError:  # Not filled yet.
                    continue
            return
    yield getattr(value, "__dict__", None)
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            # Python 3.11.2 lists this one among the slots and refuses to read it.
            if name != "__weakref__":
                yield getattr(value, name, None)
    yield from jax.tree.leaves(value)
