"""Mutants of accepted programs: one equation of the traced program does something else.

A mutant is a function again, so it is checked like any program. Mutations are of two kinds: those
that any programmer could make by mistake (a missing clip, a wrong operand, another reduction), and
leaks built on purpose (a client value in a branch, an index, a loop count, the sign of a result).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from secfad._jax import ClosedJaxpr, Literal, evaluate, sub_jaxprs

CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call")


class Inapplicable(Exception):
    """The mutation makes no program here."""


def bodies(equation):
    """Nested programs by the name of their step in a path."""
    params, name = equation.params, equation.primitive.name
    if name == "scan":
        return {"body": params["jaxpr"]}
    if name == "while":
        return {"test": params["cond_jaxpr"], "body": params["body_jaxpr"]}
    if name == "cond":
        return {f"branch{k}": b for k, b in enumerate(params["branches"])}
    if name in CALLS:
        (body,) = [b for v in params.values() for b in sub_jaxprs(v)]
        return {"": body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())}
    return {}


def sites(closed, path=()):
    """Paths of all equations, nested ones included."""
    found = []
    for position, equation in enumerate(closed.jaxpr.eqns):
        inner = bodies(equation)
        if not inner:
            found.append((*path, position))
        for step, body in inner.items():
            found += sites(body, (*path, position, step))
    return found


def mutant(closed, path, change):
    """The function that a program becomes if `change` replaces the equation at `path`."""
    return lambda *values: _run(closed, list(values), path, change)


def _run(closed, values, path, change):
    jaxpr = closed.jaxpr
    env = dict(zip(jaxpr.constvars, closed.consts)) | dict(zip(jaxpr.invars, values))
    read = lambda atom: atom.val if isinstance(atom, Literal) else env[atom]
    for position, equation in enumerate(jaxpr.eqns):
        inputs = [read(a) for a in equation.invars]
        if path[:1] != (position,):
            outs = evaluate(equation, inputs)
        elif len(path) == 1:
            outs = _changed(equation, inputs, list(env.values()), change)
        else:
            outs = _inside(equation, inputs, path[1], path[2:], change)
        env |= dict(zip(equation.outvars, outs))
    return [read(a) for a in jaxpr.outvars]


def _changed(equation, inputs, known, change):
    outs = change(equation, inputs, known)
    return [fit(value, variable.aval) for value, variable in zip(outs, equation.outvars)]


def _inside(equation, inputs, step, path, change):
    params, name = equation.params, equation.primitive.name
    parts = bodies(equation)
    run = lambda key, values: _run(
        parts[key], list(values), path if key == step else (), change if key == step else None
    )
    if name == "scan":
        consts, carries = params["num_consts"], params["num_carry"]
        fixed = inputs[:consts]

        def body(carry, row):
            outs = run("body", [*fixed, *carry, *row])
            return outs[:carries], outs[carries:]

        carry, rows = lax.scan(
            body, inputs[consts : consts + carries], inputs[consts + carries :],
            length=params["length"], reverse=params["reverse"],
        )  # fmt: skip
        return [*carry, *rows]
    if name == "while":
        conds, both = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        return lax.while_loop(
            lambda c: run("test", [*inputs[:conds], *c])[0],
            lambda c: run("body", [*inputs[conds:both], *c]),
            inputs[both:],
        )
    if name == "cond":
        chosen = [lambda *v, key=key: run(key, v) for key in parts]
        return lax.switch(inputs[0].astype(jnp.int32), chosen, *inputs[1:])
    return run("", inputs)


def fit(value, aval):
    """A value in the shape and dtype that the rest of the program expects."""
    key = lambda v: jax.dtypes.issubdtype(jnp.result_type(v), jax.dtypes.prng_key)
    if key(value) != key(aval):
        raise Inapplicable
    value = jnp.asarray(value) if not key(value) else value
    if value.shape != aval.shape:
        if value.size == int(np.prod(aval.shape)):
            value = value.reshape(aval.shape)
        elif value.size > 0:
            value = jnp.broadcast_to(value.ravel()[0], aval.shape)
        else:
            raise Inapplicable
    return value if key(value) else value.astype(aval.dtype)


# Changes: (equation, operands, all values known here) to results.


def _numbers(values):
    return [v for v in values if jnp.issubdtype(jnp.result_type(v), jnp.floating)]


def _first(rng, equation, values):
    out = equation.outvars[0].aval
    alike = [v for v in values if jnp.shape(v) == out.shape and jnp.result_type(v) == out.dtype]
    if not alike:
        raise Inapplicable
    return [alike[int(rng.integers(len(alike)))]] * len(equation.outvars)


def dropped(rng, equation, inputs, known):
    """The operand instead of the result: no clip, no sum, no mask, no noise."""
    sent = equation.primitive.name in ("federated_sum", "federated_broadcast", "psum")
    return list(inputs) if sent else _first(rng, equation, inputs)


def swapped(rng, equation, inputs, known):
    """Operands in the other order."""
    return evaluate(equation, inputs[::-1])


def another_value(rng, equation, inputs, known):
    """An operand is replaced by another value of its kind."""
    position = int(rng.integers(len(inputs)))
    wanted = inputs[position]
    alike = [v for v in known if v is not wanted and jnp.shape(v) == jnp.shape(wanted)
             and jnp.result_type(v) == jnp.result_type(wanted)]  # fmt: skip
    if not alike:
        raise Inapplicable
    chosen = alike[int(rng.integers(len(alike)))]
    return evaluate(equation, [*inputs[:position], chosen, *inputs[position + 1 :]])


def another_result(rng, equation, inputs, known):
    """Any value that is known here instead of the result."""
    outs = list(evaluate(equation, inputs))
    outs[int(rng.integers(len(outs)))] = known[int(rng.integers(len(known)))]
    return outs


def other_constant(rng, equation, inputs, known):
    """A literal is larger, smaller, negative or zero."""
    constants = [k for k, v in enumerate(equation.invars) if isinstance(v, Literal)]
    if not constants:
        raise Inapplicable
    position = constants[int(rng.integers(len(constants)))]
    value = np.asarray(inputs[position])
    changed = [value * 100, value * 0.01, -value, value * 0, value + 1][int(rng.integers(5))]
    changed = np.asarray(changed).astype(value.dtype)
    return evaluate(equation, [*inputs[:position], changed, *inputs[position + 1 :]])


BINARY = {
    "add": jnp.subtract, "sub": jnp.add, "mul": jnp.divide, "div": jnp.multiply, "min": jnp.maximum,
    "max": jnp.minimum, "lt": jnp.greater, "gt": jnp.less, "le": jnp.greater, "ge": jnp.less,
    "and": jnp.logical_or, "pow": jnp.multiply,
}  # fmt: skip
UNARY = [jnp.exp, jnp.square, jnp.tanh, jnp.abs, jnp.negative, lambda x: 1 / x, jnp.round,
         jnp.cumsum, jnp.sort, lambda x: 100.0 * x]  # fmt: skip
REDUCERS = [jnp.max, jnp.prod, jnp.mean, jnp.median, lambda x, axis: jnp.take(x, 0, axis=axis),
            lambda x, axis: jnp.sum(x * x, axis=axis), jnp.argmax]  # fmt: skip


def other_primitive(rng, equation, inputs, known):
    """A related primitive."""
    name = equation.primitive.name
    if name in BINARY:
        return [BINARY[name](*inputs)]
    if name.startswith("reduce_"):
        reducer = REDUCERS[int(rng.integers(len(REDUCERS)))]
        return [reducer(inputs[0], axis=equation.params["axes"][0])]
    if name in ("federated_sum", "psum"):
        return evaluate(equation, [UNARY[int(rng.integers(len(UNARY)))](v) for v in inputs])
    if len(inputs) != 1 or not _numbers(inputs):
        raise Inapplicable
    return [UNARY[int(rng.integers(len(UNARY)))](inputs[0])]


def afterwards(rng, equation, inputs, known):
    """Something is done to the result: along an axis, or entry by entry."""
    outs = list(evaluate(equation, inputs))
    position = int(rng.integers(len(outs)))
    value = outs[position]
    if not _numbers([value]):
        raise Inapplicable
    if value.ndim == 0 or rng.random() < 0.3:
        outs[position] = UNARY[int(rng.integers(len(UNARY)))](value)
        return outs
    axis = int(rng.integers(value.ndim))
    along = [
        lambda x: jnp.roll(x, 1, axis), lambda x: jnp.flip(x, axis), lambda x: jnp.sort(x, axis),
        lambda x: jnp.cumsum(x, axis), lambda x: x - jnp.mean(x, axis, keepdims=True),
        lambda x: x / jnp.max(jnp.abs(x), axis, keepdims=True), lambda x: jnp.swapaxes(x, 0, axis),
        lambda x: x * jnp.arange(1.0, x.shape[axis] + 1).reshape(
            [-1 if k == axis else 1 for k in range(x.ndim)]),
        lambda x: x.at[(slice(None),) * axis + (0,)].set(0.0),
    ]  # fmt: skip
    outs[position] = along[int(rng.integers(len(along)))](value)
    return outs


def leaked(rng, equation, inputs, known):
    """Another value shows in the result: added, as its sign, in a branch, an index or a loop."""
    outs = list(evaluate(equation, inputs))
    others = _numbers(known)
    position = int(rng.integers(len(outs)))
    value = outs[position]
    if not others or not _numbers([value]):
        raise Inapplicable
    other = jnp.ravel(others[int(rng.integers(len(others)))])[0].astype(value.dtype)
    whole = others[int(rng.integers(len(others)))]
    ways = [
        lambda: value + other,
        lambda: value + fit(whole, value),
        lambda: jnp.where(other > 0, value, -value),
        lambda: lax.cond(other > 0, lambda: value, lambda: jnp.zeros_like(value)),
        lambda: value + lax.while_loop(
            lambda c: (c < other) & (c < 9), lambda c: c + 1, jnp.zeros_like(other)),
        lambda: value + jnp.arange(8.0)[jnp.clip(jnp.int32(other), 0, 7)].astype(value.dtype),
        lambda: value * (1 + 0 * other),
        lambda: value + jnp.where(jnp.isnan(other), 1, 0).astype(value.dtype),
    ]  # fmt: skip
    outs[position] = ways[int(rng.integers(len(ways)))]()
    return outs


CHANGES = [dropped, swapped, another_value, another_result, other_constant, other_primitive,
           afterwards, leaked]  # fmt: skip


def random_mutant(closed, rng):
    """A random change at a random place: its name, and the function."""
    places = sites(closed)
    path = places[int(rng.integers(len(places)))]
    kind = CHANGES[int(rng.integers(len(CHANGES)))]
    seed = int(rng.integers(2**31))
    change = lambda *a: kind(np.random.default_rng(seed), *a)
    return f"{kind.__name__} at {'/'.join(map(str, path))}", mutant(closed, path, change)
