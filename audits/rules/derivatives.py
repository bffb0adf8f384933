"""Rules 3xx: the derivative in each mode is again a program of broadcasts and sums."""

from audits.rules.rules import Severity, rule

REJECT, CAVEAT, NOTE = Severity.REJECT, Severity.CAVEAT, Severity.NOTE

DERIVATIVES = (
    rule(
        "FAD301",
        "derivative-bypasses-aggregator",
        REJECT,
        "{mode} derivative with respect to `{value}` reaches the server without a sum",
        why="The transpose of an implicit broadcast contracts the client axis without an "
        "aggregator.",
        example="r = x @ w - y   # w never broadcast, reverse mode",
        remedy="Broadcast `{value}` explicitly before clients use it",
    ),
    rule(
        "FAD302",
        "custom-rule",
        NOTE,
        "custom derivative of `{primitive}` was not checked in this mode",
        why="A custom rule is opaque until its mode is traced; a certificate of the primal does "
        "not cover it.",
        example="@jax.custom_vjp ... bwd sorts over clients",
        remedy="Certify the mode of this derivative",
    ),
    rule(
        "FAD303",
        "custom-rule-placement",
        REJECT,
        "derivative rule returns a {found} value for the {expected} argument `{value}`",
        why="A cotangent has the placement of its argument; here the cotangent of each client "
        "would reach the server.",
        example="send.defvjp(fwd, lambda _, g: (g,))   # forgets the sum",
        remedy="Return `fad.sum(g)` for a server argument of the custom rule",
    ),
    rule(
        "FAD304",
        "mode-unavailable",
        REJECT,
        "{mode} is not defined for this program: {error}",
        why="The derivative does not exist in this mode, so there is no program to certify.",
        example="jax.grad through jax.lax.while_loop",
        remedy="Use jax.lax.scan with a fixed length, or certify another mode",
    ),
    rule(
        "FAD305",
        "residuals-on-clients",
        NOTE,
        "clients keep {bytes} bytes between phases",
        why="Reverse mode uses residuals of the forward phase on the same client.",
        example="fad.vjp of two dependent rounds",
        remedy="Use mixed mode, which sums local Jacobians instead",
    ),
    rule(
        "FAD306",
        "same-cohort",
        CAVEAT,
        "a later phase needs the clients of an earlier one again",
        why="The same clients must be online twice, and their two contributions compose within "
        "one draw.",
        example="reverse mode through a non-linear server step",
        remedy="Acknowledge it, or use forward or mixed mode",
    ),
    rule(
        "FAD307",
        "derivative-unclipped",
        REJECT,
        "sum {sum} of the {mode} derivative has no bound although the primal has one",
        why="The derivative of a clip is not clipped.",
        example="vjp of a clipped program",
        remedy="Privatize the derived program, so that every sum of it is clipped",
    ),
    rule(
        "FAD308",
        "untracked-psum-transpose",
        REJECT,
        "gradient of `psum` is taken where replication is not tracked",
        why="The result is a local gradient times the number of clients, without a sum over "
        "clients.",
        example='jax.grad(lambda w: jax.lax.psum(loss(w), "clients"))(w)',
        remedy="Differentiate first, then sum; or write the program in native style",
    ),
)
