"""The canonical form of a traced program, and its digest.

Two programs with different captured arrays print the same jaxpr, and an exported program's bytes
change with the source line. The canonical form has neither text of a printer nor lines: it is JSON
with the equations in order, variables numbered where they are defined, primitives by name and origin,
and parameters in a form of their own. Bodies stand in a list, each once, before those that contain them.
Numbers of one entry are written out; of larger constants there are shape, dtype and SHA-256, so a
canonical form shows no captured data. Who has no JAX can read it.

>>> import jax, jax.numpy as jnp
>>> print(canonical(jax.make_jaxpr(jnp.sin)(1.0), ["server"]))  # doctest: +ELLIPSIS
{"format":"secfad-program-2","words":["server"],"bodies":[{"avals":[["float32",[],1],["float32",[],1]],...

Source: docs/decisions/0002-structural-digest.md.
"""

import dataclasses
import enum
import functools
import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, ShapedArray, Tracer
from secfad.errors import TracingError
from secfad.jaxprs.origins import is_key_generator, is_known_dtype, is_known_type, is_registered

FORMAT = "secfad-program-2"
# Parameters that say how JAX compiles or prints, not what is computed; some hold callables.
_IRRELEVANT = frozenset(
    {
        "name_stack",
        "ctx_mesh",
        "compiler_options_kvs",
        "donated_invars",
        "in_layouts",
        "out_layouts",
        "inline",
        "keep_unused",
        "policy",
        "prevent_cse",
        "jvp_jaxpr_fun",
        "fwd_jaxpr_thunk",
        "bwd",
    }
)
_CALL_NAMES = frozenset({"jit", "pjit", "remat2", "checkpoint", "closed_call"})


def digest(form: str) -> str:
    """SHA-256 of a canonical form, as hexadecimal digits."""
    return hashlib.sha256(form.encode()).hexdigest()


def canonical(closed: ClosedJaxpr, words: Iterable[str] = ()) -> str:
    """The canonical form of a program, with further words that belong to it.

    Raises:
      TracingError: A parameter has no canonical form, such as a host callback.
    """
    writer = _Writer()
    program = _text(writer.program(closed))
    bodies = ",".join(writer.bodies)
    return f'{{"format":"{FORMAT}","words":{_text(list(words))},"bodies":[{bodies}],"program":{program}}}'


def _text(form: Any) -> str:
    return json.dumps(form, separators=(",", ":"))


class _Writer:
    """The bodies of a program, each once, in the order in which they are complete."""

    def __init__(self) -> None:
        self.bodies: dict[str, int] = {}
        self.seen: dict[int, tuple[Jaxpr, int]] = {}

    def program(self, closed: ClosedJaxpr) -> list:
        return [self.body(closed.jaxpr), [_value(c) for c in closed.consts]]

    def body(self, jaxpr: Jaxpr) -> int:
        if id(jaxpr) not in self.seen:
            text = _text(self._body(jaxpr))
            self.seen[id(jaxpr)] = jaxpr, self.bodies.setdefault(text, len(self.bodies))
        return self.seen[id(jaxpr)][1]

    def _body(self, jaxpr: Jaxpr) -> dict[str, Any]:
        inputs = [*jaxpr.constvars, *jaxpr.invars]
        numbers: dict[Any, int] = {v: n for n, v in enumerate(inputs)}
        avals = [_aval(v.aval) for v in inputs]
        rows = []
        for equation in jaxpr.eqns:
            operands = [_atom(a, numbers) for a in equation.invars]
            rows.append(
                [
                    _primitive(equation.primitive),
                    operands,
                    self._params(equation),
                    len(equation.outvars),
                ]
            )
            for variable in equation.outvars:
                numbers[variable] = len(avals)
                avals.append(_aval(variable.aval))
        results = [_atom(a, numbers) for a in jaxpr.outvars]
        counts = [len(jaxpr.constvars), len(jaxpr.invars)]
        return {"avals": avals, "inputs": counts, "equations": rows, "results": results}

    def _params(self, equation: JaxprEqn) -> dict[str, Any]:
        name = equation.primitive.name
        return {
            key: self.param(equation.params[key], name)
            for key in sorted(equation.params.keys() - _IRRELEVANT)
            if key != "name" or name not in _CALL_NAMES
        }

    def param(self, value: Any, primitive: str) -> Any:
        """One parameter: a plain JSON value, or a list that starts with its kind."""
        if not is_known_type(type(value)):
            raise TracingError(
                f"Expected parameters of types of Python, NumPy or JAX in `{primitive}`, got a "
                f"{type(value).__qualname__}. What a type of one's own means is not bound by a digest."
            )
        match value:
            case ClosedJaxpr():
                return ["program", *self.program(value)]
            case Jaxpr():
                return ["body", self.body(value)]
            case ShapedArray():
                return ["aval", _aval(value)]
            case enum.Enum():
                return ["enum", f"{type(value).__name__}.{value.name}"]
            case None | bool() | int() | str() if type(value) in _PLAIN:
                return value
            case int() | float() | complex() | str() | bytes() | np.dtype():
                return [type(value).__name__, repr(value)]
            case _ if _is_key_generator(value):
                # A record of functions. Each of JAX's own has a name that no other of them has.
                if not is_key_generator(value):
                    raise TracingError(_foreign_generator(f"the generator {value.name!r}"))
                return ["generator", value.name]
            case Primitive():
                return ["primitive", _primitive(value)]
            case tuple() | list():
                kind = type(value).__name__
                return ["items", kind, [self.param(item, primitive) for item in value]]
            case dict():
                keys = sorted(value, key=repr)
                pairs = [[self.param(k, primitive), self.param(value[k], primitive)] for k in keys]
                return ["dict", pairs]
            case np.ndarray() | np.generic() | jax.Array():
                return ["value", _value(value)]
            case frozenset() | set():
                return ["set", sorted(map(repr, value))]
        return self._object(value, primitive)

    def _object(self, value: Any, primitive: str) -> list:
        kind = type(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [f.name for f in dataclasses.fields(value)]
            pairs = [[name, self.param(getattr(value, name), primitive)] for name in fields]
            return ["record", kind.__qualname__, pairs]
        if isinstance(value, type):
            return ["type", f"{value.__module__}.{value.__qualname__}"]
        if callable(value) or isinstance(value, functools.partial):
            raise TracingError(
                f"Expected a program without host functions, got a callable in `{primitive}`. "
                "Its behaviour cannot be bound by a digest; write it in JAX, or run with simulate."
            )
        if hasattr(value, "__module__") and value.__module__.startswith(("jax", "jaxlib")):
            return ["object", kind.__qualname__, str(value)]
        raise TracingError(
            f"Expected a parameter with a canonical form, got a {kind.__qualname__} in "
            f"`{primitive}`. Report the primitive, so that it gets one."
        )


_PLAIN = (type(None), bool, int, str)


def _atom(atom: Any, numbers: dict[Any, int]) -> Any:
    """The number of a variable, or a constant of the program."""
    return [_aval(atom.aval), _value(atom.val)] if isinstance(atom, Literal) else numbers[atom]


def _primitive(primitive: Primitive) -> str:
    # An impostor may have a registered name and claim any module; it is another object.
    known = "" if is_registered(primitive) else "foreign:"
    return f"{known}{primitive.name}@{getattr(primitive.impl, '__module__', '')}"


def _aval(aval: Any) -> list:
    """Dtype, shape and whether the type is weak; of other types also what they are."""
    dtype = getattr(aval, "dtype", None)
    if type(aval) is ShapedArray and isinstance(dtype, np.dtype):
        return _plain_aval(aval)
    # Never from a cache, which compares: the dtype of another generator can be equal to JAX's.
    if dtype is not None and not is_known_dtype(dtype):
        raise TracingError(_foreign_generator(dtype))
    words = _aval_words(aval, dtype)
    return words if type(aval) is ShapedArray else [*words, type(aval).__qualname__]


@functools.lru_cache(maxsize=4096)
def _plain_aval(aval: ShapedArray) -> list:
    return _aval_words(aval, aval.dtype)


def _aval_words(aval: Any, dtype: Any) -> list:
    shape = [d if type(d) is int else str(d) for d in getattr(aval, "shape", ())]
    words = str(aval if dtype is None else dtype)
    return [words, shape, int(getattr(aval, "weak_type", False))]


def _foreign_generator(what: Any) -> str:
    return (
        f"Expected keys of one of JAX's own generators, got {what} of another one. Its functions can do "
        'anything under any name; make keys with impl="threefry2x32", "rbg" or "unsafe_rbg", or run with '
        "simulate."
    )


def _value(value: Any) -> list:
    """A constant: generator of a key, dtype, shape, and a number or the SHA-256 of its bytes."""
    if isinstance(value, Tracer):
        raise TracingError(
            f"Expected constants with values, got {value.aval.str_short()} of a trace, for example of the "
            "function in which a custom derivative rule was defined. A program that holds it has no "
            "digest; pass it to the rule as an argument."
        )
    generator = ""
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        if not is_known_dtype(value.dtype):
            raise TracingError(_foreign_generator(value.dtype))
        generator = str(jax.random.key_impl(value))
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return [generator, str(array.dtype), list(array.shape), _number(array)]


def _number(array: np.ndarray) -> Any:
    """A number of one entry, exactly; of other arrays, and of what JSON has no number for, a hash."""
    if array.size == 1 and array.dtype.kind in "biufV" and array.dtype.names is None:
        number = array.astype(np.float64).item() if array.dtype.kind in "fV" else array.item()
        if not isinstance(number, float) or math.isfinite(number):
            return number
    data = np.ascontiguousarray(array).tobytes()
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _is_key_generator(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "PRNGImpl" and kind.__module__.startswith("jax.")
