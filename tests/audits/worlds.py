"""Oracles that know nothing of labels: programs are executed, and what the server sees is compared.

A program without an axis of clients runs once per client, in lock-step: each run is a *world* that
stops at every message. A broadcast must be the same in all worlds, as must what the server returns.
Then each side runs alone with the recorded messages of the other: the server with other client data,
a client with other server data. A program with an axis of clients is run with all sums frozen to
their recorded values while client data change.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from secfad._jax import ClosedJaxpr, Literal, sub_jaxprs

CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call",
         "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin"}  # fmt: skip
LONGEST = 500  # iterations of a loop before an oracle gives up


class Leak(AssertionError):
    """An oracle has found a way from a client to the server, or a bound that does not hold."""


class Undecided(Exception):
    """The program cannot be followed by this oracle."""


@dataclasses.dataclass(frozen=True)
class Message:
    """A world stops here: at `where`, it wants to send these values."""

    kind: str
    where: str
    values: tuple


def run(closed, values, path=()):
    """Runs a closed jaxpr as a generator that stops at every broadcast and sum."""
    return (yield from _jaxpr(closed.jaxpr, closed.consts, values, path))


def _jaxpr(jaxpr, consts, values, path):
    env = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, values))
    read = lambda atom: atom.val if isinstance(atom, Literal) else env[atom]
    for position, equation in enumerate(jaxpr.eqns):
        here = (*path, position)
        outs = yield from _equation(equation, [read(a) for a in equation.invars], here)
        env |= dict(zip(equation.outvars, outs))
    return [read(a) for a in jaxpr.outvars]


def _equation(equation, values, path):
    name = equation.primitive.name
    if name == "scan":
        return (yield from _scan(equation.params, values, (*path, "body")))
    if name == "while":
        return (yield from _while(equation.params, values, path))
    if name == "cond":
        branches = equation.params["branches"]
        index = int(np.clip(int(values[0]), 0, len(branches) - 1))
        return (yield from run(branches[index], values[1:], (*path, f"branch{index}")))
    if name in CALLS:
        (body,) = [b for v in equation.params.values() for b in sub_jaxprs(v)]
        closed = body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())
        return (yield from run(closed, values, path))
    where = "/".join(map(str, path))
    answer = yield Message(name, where, (equation, tuple(values)))
    return answer


def _scan(params, values, path):
    consts, carries = params["num_consts"], params["num_carry"]
    fixed, carry = values[:consts], list(values[consts : consts + carries])
    rows, kept = values[consts + carries :], []
    order = range(params["length"])
    for k in reversed(order) if params["reverse"] else order:
        outs = yield from run(params["jaxpr"], [*fixed, *carry, *(r[k] for r in rows)], path)
        carry, ys = outs[:carries], outs[carries:]
        kept.append(ys)
    if params["reverse"]:
        kept.reverse()
    return [*carry, *(jnp.stack(column) for column in zip(*kept))]


def _while(params, values, path):
    conds, bodies = params["cond_nconsts"], params["body_nconsts"]
    tested, fixed = values[:conds], values[conds : conds + bodies]
    carry = list(values[conds + bodies :])
    for _ in range(LONGEST):
        (go,) = yield from run(params["cond_jaxpr"], [*tested, *carry], (*path, "test"))
        if not np.any(go):
            return carry
        after = yield from run(params["body_jaxpr"], [*fixed, *carry], (*path, "body"))
        carry = [_where(go, new, old) for new, old in zip(after, carry)]
    raise Undecided("a loop without end")


def _where(go, new, old):
    """`new` in the rows of a batched loop that still run (those of its predicate), else `old`."""
    if not np.ndim(go):
        return new
    return jnp.where(jnp.reshape(go, go.shape + (1,) * (jnp.ndim(new) - np.ndim(go))), new, old)


def local(message):
    """The result of an equation that sends nothing."""
    equation, values = message.values
    primitive = equation.primitive
    made = primitive.bind(*values, **equation.params)
    return list(made) if primitive.multiple_results else [made]


def bits(value):
    """A value as something that can be compared exactly, NaN included."""
    if jax.dtypes.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return (array.dtype.str, array.shape, np.where(array != array, 0, array).tobytes(),
            (array != array).tobytes())  # fmt: skip


def same(a, b):
    """Whether two lists of values are equal bit by bit."""
    return len(a) == len(b) and all(bits(x) == bits(y) for x, y in zip(a, b))


def step(world, answer):
    """The next message of a world, or its results."""
    try:
        while True:
            message = world.send(answer)
            if message.kind in SENT:
                return message, None
            answer = local(message)
    except StopIteration as end:
        return None, end.value


SENT = {"federated_broadcast": "broadcast", "federated_sum": "sum", "psum": "sum"}


def lockstep(closed, worlds):
    """Runs all worlds together; returns the transcript and the results of the first.

    Args:
      closed: The program.
      worlds: Argument values, per client.

    Raises:
      Leak: The worlds disagree about what only the server decides.
    """
    running = [run(closed, values) for values in worlds]
    answers = [None] * len(running)
    transcript = []
    while True:
        stops = [step(world, answer) for world, answer in zip(running, answers)]
        messages = [message for message, _ in stops if message is not None]
        if not messages:
            return transcript, [results for _, results in stops]
        if len(messages) < len(stops) or len({m.where for m in messages}) > 1:
            raise Leak("clients are at different messages")
        values = [list(m.values[1]) for m in messages]
        kind, where = SENT[messages[0].kind], messages[0].where
        if kind == "broadcast":
            if not all(same(v, values[0]) for v in values):
                raise Leak(f"the broadcast at {where} depends on a client")
            total = values[0]
        else:
            total = [sum(column[1:], column[0]) for column in zip(*values)]
        transcript.append((kind, where, values, total))
        answers = [total] * len(running)


def alone(closed, values, transcript, *, client):
    """Runs one side with the recorded messages of the other.

    Args:
      closed: The program.
      values: Its arguments.
      transcript: What `lockstep` recorded.
      client: Which client this is; None for the server.

    Returns:
      The results.
    """
    world, answer = run(closed, values), None
    for kind, where, sent, total in transcript:
        message, _ = step(world, answer)
        if message is None or message.where != where:
            raise Leak(f"the message at {where} is not sent when other data change")
        mine = list(message.values[1])
        if kind == "broadcast" and client is None and not same(mine, total):
            raise Leak(f"the broadcast at {where} depends on client data besides the sums")
        if kind == "sum" and client is not None and not same(mine, sent[client]):
            raise Leak(f"the contribution at {where} depends on server data besides the broadcasts")
        answer = total
    message, results = step(world, answer)
    if message is not None:
        raise Leak(f"a new message at {message.where} when other data change")
    return results
