"""What secfad takes from JAX beyond its public, stable interface: programs and their lines.

JAX promises compatibility for neither `jax.extend`, `jax.core` nor `jax.interpreters`. The first two are
imported here and nowhere else, the third in `secfad._jax_interpreters`, and a change of JAX is a
change of these files. The rest of the package reads like public-interface JAX. Supported: JAX 0.8.3 to
0.10.

Sources: JAX documentation, "API compatibility"; JEP 15856 (`jax.extend`).
"""

import dis
import functools
import itertools
import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any

import jax
from jax.core import ShapedArray, Tracer, eval_jaxpr
from jax.extend import random as jax_random
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var
from jax.extend.core import primitives as jax_primitives

# Handed on as they are.
__all__ = ["Literal", "Primitive", "ShapedArray", "Tracer", "jax_primitives"]

# Records of functions that say what a draw, a split and a fold of a key compute.
KEY_GENERATORS = (
    jax_random.threefry_prng_impl,
    jax_random.rbg_prng_impl,
    jax_random.unsafe_rbg_prng_impl,
)


def hide_file_from_tracebacks(path: str) -> None:
    """Leaves a file, or a folder, out when JAX looks for the user's line of an equation."""
    source_info_util.register_exclusion(path)


# What is written as users write (`algorithms`, `data`, `cohorts`) has lines of its own.
_OWN = tuple(
    os.path.join(os.path.dirname(__file__), *name.split("/"))
    for name in (
        *("_jax.py", "_jax_interpreters.py", "clipping.py", "computations.py", "primitives.py"),
        "vmap_rules.py",
        *("derivatives/", "engines/", "interop/", "jaxprs/", "programs/"),
    )
)
_JAX = os.path.dirname(jax.__file__) + os.sep
_RAISE = dis.opmap["RAISE_VARARGS"]
for _path in _OWN:
    hide_file_from_tracebacks(_path)


# JAX counts columns from zero, editors from one.
_COLUMN = re.compile(r"(?<=\d):(\d+) \(")


def user_line(equation: JaxprEqn) -> str:
    """The user's place of an equation, as `file:line:column (function)`, counted from one.

    What a library of the user's does is placed where the user calls it.
    """
    return _place(equation.source_info)


def error_line(error: BaseException) -> str:
    """The user's place in a trace that an error came from, as `user_line` gives it, or nothing."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    calls = [(frame.f_code, frame.f_lasti) for frame in reversed(frames)]
    inside = _inside(calls)
    return _place(_called(inside)) if len(inside) < len(calls) else ""


def raised_on_purpose(error: BaseException) -> bool:
    """Whether secfad, or a `raise` outside of JAX, raised the error; else JAX or Python did."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or last.tb_frame.f_code is make_jaxpr.__code__:
        return False
    code = last.tb_frame.f_code
    if code.co_filename.startswith(_JAX):
        return False
    return code.co_filename.startswith(_OWN) or code.co_code[last.tb_lasti] == _RAISE


class _Frames:
    """Python frames, innermost first, in the form in which JAX keeps those of an equation."""

    def __init__(self, calls: Sequence[tuple[CodeType, int]]):
        self._calls = calls

    def raw_frames(self) -> tuple[list[CodeType], list[int]]:
        return [code for code, _ in self._calls], [at for _, at in self._calls]


def _called(calls: Sequence[tuple[CodeType, int]]) -> Any:
    return source_info_util.new_source_info().replace(traceback=_Frames(calls))  # type: ignore[arg-type]


def _place(source_info: Any) -> str:
    """The innermost place outside of libraries that is inside of a trace, or else the innermost."""
    place = source_info_util.summarize(source_info)
    if _is_installed(place):
        calls = list(zip(*source_info.traceback.raw_frames()))
        own = [call for call in _inside(calls) if not _is_installed(call[0].co_filename)]
        place = source_info_util.summarize(_called(own)) or place
    return _from_one(place)


def _inside(calls: Sequence[tuple[CodeType, int]]) -> list[tuple[CodeType, int]]:
    """The calls that a trace of ours made, innermost first."""
    return list(itertools.takewhile(lambda call: call[0] is not make_jaxpr.__code__, calls))


def _is_installed(place: str) -> bool:
    return "site-packages" in place or "dist-packages" in place


def _from_one(text: str) -> str:
    return _COLUMN.sub(lambda found: f":{int(found[1]) + 1} (", text)


def current_line() -> str:
    """The user's place that is being traced, as `user_line` gives it for an equation."""
    return _place(source_info_util.current())


def here() -> str:
    """The user's place that is being traced, for the start of an error."""
    line = current_line()
    return f"{line}: " if line else ""


def at_line(equation: JaxprEqn) -> Any:
    """A context in which new equations get the user's line of this one."""
    return source_info_util.user_context(equation.source_info.traceback)


def with_line(equation: JaxprEqn, caller: JaxprEqn) -> JaxprEqn:
    """The equation at the user's line of its caller, if it has none of its own.

    What is traced by itself, as the body of a `jit`, does not know from where it was called.
    """
    place = user_line(equation)
    if place and not (_is_installed(place) and user_line(caller)):
        return equation
    here = equation.source_info.replace(traceback=caller.source_info.traceback)
    return equation.replace(source_info=here)


def without_line(equation: JaxprEqn) -> JaxprEqn:
    """The equation without a line and a scope of its own, so that it gets those of its caller."""
    return equation.replace(source_info=source_info_util.new_source_info())


_NO_MESH = jax.sharding.AbstractMesh((), ())


def make_jaxpr(fun: Callable, specs: Sequence[Any]) -> tuple[ClosedJaxpr, Any]:
    """Traces `fun` at argument pytrees of `ShapeDtypeStruct`; returns the jaxpr and the output tree."""
    # The mesh of the context is that of the run, not of the trace.
    with jax.sharding.use_abstract_mesh(_NO_MESH):
        closed, shapes = jax.make_jaxpr(fun, return_shape=True)(*specs)
    return closed, jax.tree.structure(shapes)


def new_jaxpr(
    invars: Sequence[Var],
    outvars: Sequence[Any],
    eqns: Sequence[JaxprEqn],
    constvars: Sequence[Var] = (),
) -> Jaxpr:
    """A jaxpr of the given parts; its effects are those of its equations."""
    effects = frozenset().union(*(equation.effects for equation in eqns)) if eqns else frozenset()
    return Jaxpr(
        list(constvars), list(invars), list(outvars), list(eqns), effects, _unknown(invars, outvars)
    )


@functools.cache
def _debug_template() -> Any:
    return jax.make_jaxpr(lambda: 0)().jaxpr.debug_info


def _unknown(invars: Sequence[Any], outvars: Sequence[Any]) -> Any:
    template = _debug_template()
    return template._replace(arg_names=("",) * len(invars), result_paths=("",) * len(outvars))


def evaluate(equation: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Evaluates one equation, custom derivative rules included."""
    known = {v: value for v, value in zip(equation.invars, values) if isinstance(v, Var)}
    jaxpr = new_jaxpr(list(known), equation.outvars, [equation])
    return eval_jaxpr(jaxpr, (), *known.values())


def spec(aval: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a value, and whether the dtype is weak, as that of a Python number."""
    weak = getattr(aval, "weak_type", False)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=weak)


def is_reference(aval: Any) -> bool:
    """Whether a type is that of a mutable reference (`jax.new_ref`)."""
    return hasattr(aval, "inner_aval")


_PROGRAMS, _LISTS = (ClosedJaxpr, Jaxpr), (tuple, list)
# Most parameters; asking for their type first is what makes looking at all of them quick.
_NUMBERS = frozenset({bool, int, float, str, type(None)})


def sub_jaxprs(value: Any) -> Iterator[ClosedJaxpr | Jaxpr]:
    """Every jaxpr inside one equation parameter, also in tuples, records and mappings."""
    if isinstance(value, _PROGRAMS):
        yield value
    elif isinstance(value, _LISTS):
        for item in value:
            if type(item) not in _NUMBERS:
                yield from sub_jaxprs(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from sub_jaxprs(item)
