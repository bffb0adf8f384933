"""How the line of a finding is written in a native computation, for programs of the array styles.

A native computation is written for one client: there is no axis of clients that could be reduced,
indexed or merged by mistake, and messages are calls.

>>> hint("FAD103", "drjax")
'fad.sum(g, name="delta") in place of the reduction over clients; g is what one client holds'
"""

_SUM = 'fad.sum(g, name="delta") in place of {what}; g is what one client holds'
_SLICE = (
    "each client holds its own value `x`, without an axis of clients; fad.sum(x) sums all of them"
)
_MASK = 'a client that does not contribute sends zeros: fad.sum(jnp.where(takes_part, g, 0.0), name="delta")'
_SEND = 'w_here = fad.broadcast(w, name="model"), and every client uses w_here'
_BISECTION = (
    "a bisection over counts: below = fad.sum((x < fad.broadcast(threshold)).astype(jnp.float32))"
)

HINTS = {
    "FAD101": 'return fad.mean(value, name="value"), or keep the result at the clients',
    "FAD102": _SEND,
    "FAD103": _SUM.format(what="the reduction over clients"),
    "FAD104": f"{_SEND}; what differs per client is an argument placed fad.CLIENTS",
    "FAD105": f'{_BISECTION}, or a histogram: fad.sum(jax.nn.one_hot(bucket, buckets), name="histogram")',
    "FAD106": _BISECTION,
    "FAD107": _MASK,
    "FAD108": _SLICE,
    "FAD109": _SLICE,
    "FAD110": _SUM.format(what="the sum over a group"),
    "FAD111": "what a client knows about itself is an argument placed fad.CLIENTS, not its position",
    "FAD112": 'fad.sum(jnp.outer(x, x), name="second_moment"): the product at the client, then the sum',
    "FAD113": _SUM.format(what="the collective"),
    "FAD117": "fad.sum takes a client's value and fad.broadcast the server's",
    "FAD201": "let the predicate be a sum: jax.lax.cond(fad.sum(v) > 0, ...)",
    "FAD202": _MASK,
    "FAD203": "jax.lax.scan over a fixed number of rounds, with fad.broadcast and fad.sum in its body",
    "FAD301": "fad.grad(computation) sums the cotangents of all clients",
    "FAD303": "leave the custom rule at the client: decorate the function that one client runs",
    "FAD308": "fad.grad(computation): the derivative of fad.sum is a broadcast, whatever the axis",
    "FAD605": "leave out the number of clients: fad.mean divides by it, and the code is for one client",
}


def hint(rule: str, style: str) -> str:
    """The native form, for a rule that has one; empty for native programs."""
    return "" if style == "native" else HINTS.get(rule, "")
