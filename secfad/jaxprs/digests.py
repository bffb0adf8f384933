"""A structural digest of a traced program.

Two programs with different captured arrays print the same jaxpr, and an exported program's bytes
change with the source line. The digest reads neither text nor lines: it hashes the equations in
order, with variables numbered by first use, primitives by name and origin, parameters in a canonical
form, nested programs recursively, and constants by shape, dtype and bytes.

Source: docs/decisions/0002-structural-digest.md.
"""

import dataclasses
import enum
import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from secfad._jax import ClosedJaxpr, Jaxpr, Literal, Primitive, ShapedArray, Tracer
from secfad.errors import TracingError
from secfad.jaxprs.origins import is_key_generator, is_known_dtype, is_known_type, is_registered

VERSION = "secfad-program-1"
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


def digest(closed: ClosedJaxpr, extra: Iterable[str] = ()) -> str:
    """SHA-256 over the canonical form of a program and further words.

    Raises:
      TracingError: A parameter has no canonical form, such as a host callback.
    """
    hasher = hashlib.sha256()
    _feed(hasher, VERSION)
    for word in extra:
        _feed(hasher, word)
    _closed(hasher, closed)
    return hasher.hexdigest()


def _feed(hasher, *words: str | bytes) -> None:
    """Length-prefixed, so that no two sequences of words give the same bytes."""
    for word in words:
        data = word.encode() if isinstance(word, str) else word
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)


def _closed(hasher, closed: ClosedJaxpr) -> None:
    for constant in closed.consts:
        _value(hasher, constant)
    _jaxpr(hasher, closed.jaxpr)


def _jaxpr(hasher, jaxpr: Jaxpr) -> None:
    numbers: dict[Any, int] = {}

    def atom(a) -> None:
        if isinstance(a, Literal):
            _value(hasher, a.val)
            _aval(hasher, a.aval)
        else:
            number = numbers.setdefault(a, len(numbers))
            _feed(hasher, "var", str(number))

    for variable in (*jaxpr.constvars, *jaxpr.invars):
        atom(variable)
        _aval(hasher, variable.aval)
    for equation in jaxpr.eqns:
        _feed(hasher, "equation", _primitive(equation.primitive))
        for a in equation.invars:
            atom(a)
        for key in sorted(equation.params.keys() - _IRRELEVANT):
            if key == "name" and equation.primitive.name in _CALL_NAMES:
                continue
            _feed(hasher, "param", key)
            _param(hasher, equation.params[key], equation.primitive.name)
        for variable in equation.outvars:
            numbers[variable] = len(numbers)
            _aval(hasher, variable.aval)
    _feed(hasher, "results")
    for a in jaxpr.outvars:
        atom(a)


def _primitive(primitive) -> str:
    # An impostor may have a registered name and claim any module; it is another object.
    known = "" if is_registered(primitive) else "foreign:"
    return f"{known}{primitive.name}@{getattr(primitive.impl, '__module__', '')}"


def _aval(hasher, aval) -> None:
    if type(aval) is not ShapedArray:
        _feed(hasher, type(aval).__qualname__)
    dtype = getattr(aval, "dtype", None)
    if dtype is not None and not is_known_dtype(dtype):
        raise TracingError(_foreign_generator(dtype))
    weak = getattr(aval, "weak_type", False)
    _feed(hasher, f"{getattr(aval, 'dtype', aval)}{getattr(aval, 'shape', ())}{weak}")


def _foreign_generator(what: Any) -> str:
    return (
        f"Expected keys of one of JAX's own generators, got {what} of another one. Its functions can do "
        'anything under any name; make keys with impl="threefry2x32", "rbg" or "unsafe_rbg", or run with '
        "simulate."
    )


def _value(hasher, value: Any) -> None:
    if isinstance(value, Tracer):
        raise TracingError(
            f"Expected constants with values, got {value.aval.str_short()} of a trace, for example of the "
            "function in which a custom derivative rule was defined. A program that holds it has no "
            "digest; pass it to the rule as an argument."
        )
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        if not is_known_dtype(value.dtype):
            raise TracingError(_foreign_generator(value.dtype))
        _feed(hasher, "key", str(jax.random.key_impl(value)))
        value = jax.random.key_data(value)
    array = np.asarray(value)
    _feed(hasher, "array", array.dtype.str, str(array.shape), np.ascontiguousarray(array).tobytes())


def _param(hasher, value: Any, primitive: str) -> None:
    if not is_known_type(type(value)):
        raise TracingError(
            f"Expected parameters of types of Python, NumPy or JAX in `{primitive}`, got a "
            f"{type(value).__qualname__}. What a type of one's own means is not bound by a digest."
        )
    match value:
        case ClosedJaxpr():
            _closed(hasher, value)
        case Jaxpr():
            _jaxpr(hasher, value)
        case ShapedArray():
            _aval(hasher, value)
        case None | bool() | int() | float() | complex() | str() | bytes() | np.dtype():
            _feed(hasher, f"{type(value).__name__}:{value!r}")
        case enum.Enum():
            _feed(hasher, f"{type(value).__name__}.{value.name}")
        case _ if _is_key_generator(value):
            # A record of functions. Each of JAX's own has a name that no other of them has.
            if not is_key_generator(value):
                raise TracingError(_foreign_generator(f"the generator {value.name!r}"))
            _feed(hasher, f"PRNGImpl:{value.name}")
        case Primitive():
            _feed(hasher, "Primitive", _primitive(value))
        case tuple() | list():
            _feed(hasher, f"{type(value).__name__}{len(value)}")
            for item in value:
                _param(hasher, item, primitive)
        case dict():
            _feed(hasher, f"dict{len(value)}")
            for key in sorted(value, key=repr):
                _param(hasher, key, primitive)
                _param(hasher, value[key], primitive)
        case np.ndarray() | np.generic() | jax.Array():
            _value(hasher, value)
        case frozenset() | set():
            _feed(hasher, "set", *sorted(map(repr, value)))
        case _:
            _object(hasher, value, primitive)


def _is_key_generator(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "PRNGImpl" and kind.__module__.startswith("jax.")


def _object(hasher, value: Any, primitive: str) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        _feed(hasher, type(value).__qualname__)
        for field in dataclasses.fields(value):
            _param(hasher, getattr(value, field.name), primitive)
    elif isinstance(value, type):
        _feed(hasher, f"{value.__module__}.{value.__qualname__}")
    elif callable(value) or isinstance(value, functools.partial):
        raise TracingError(
            f"Expected a program without host functions, got a callable in `{primitive}`. "
            "Its behaviour cannot be bound by a digest; write it in JAX, or run with simulate."
        )
    elif hasattr(value, "__module__") and value.__module__.startswith(("jax", "jaxlib")):
        _feed(hasher, f"{type(value).__qualname__}:{value}")
    else:
        raise TracingError(
            f"Expected a parameter with a canonical form, got a {type(value).__qualname__} in "
            f"`{primitive}`. Report the primitive, so that it gets one."
        )
