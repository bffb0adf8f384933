"""Rules 0xx: can the program be read, and is it the program that was certified?"""

from audits.rules.rules import Severity, rule

PROGRAMS = (
    rule(
        "FAD001",
        "unknown-primitive",
        Severity.REJECT,
        "primitive `{primitive}` has no rule; it cannot be certified",
        why="The checker denies by default: what it has no rule for may move data between clients.",
        example="y = some_library.exotic_op(x)",
        remedy="Express the step with ordinary jax.numpy operations, or report the primitive",
    ),
    rule(
        "FAD002",
        "opaque-kernel",
        Severity.REJECT,
        "`{primitive}` runs code the checker cannot read",
        why="A foreign kernel can do anything, also what no jaxpr shows. So can a random generator of "
        "one's own, which is a record of functions, whatever it calls itself.",
        example='y = jax.ffi.ffi_call("kernel", out_type)(x)',
        remedy="Write the computation in JAX, at least for the certified program",
    ),
    rule(
        "FAD003",
        "host-callback",
        Severity.REJECT,
        "`{primitive}` hands a {placement} value to host Python",
        why="A callback runs arbitrary Python: it can print, store or send the value. Pure callbacks "
        "leave no effect in the program, so nothing else would show it.",
        example='jax.debug.print("x = {x}", x=x)',
        remedy="Remove the callback; return what you want to look at through `fad.sum`",
    ),
    rule(
        "FAD004",
        "mutable-reference",
        Severity.REJECT,
        "reference primitive `{primitive}` can carry values outside the dataflow",
        why="A mutable cell connects places that have no edge in the program.",
        example="r = jax.new_ref(x); r[...] = y",
        remedy="Pass the value as an argument and return it as a result",
    ),
    rule(
        "FAD005",
        "captured-array",
        Severity.REJECT,
        "array constant {shape} {dtype} is captured without a declared placement",
        why="A captured array may be one party's data; inside the program it looks like public knowledge.",
        example="DATA = load(); f = lambda w: fad.mean(loss(fad.broadcast(w), DATA))",
        remedy="Make the array an argument with a placement",
    ),
    rule(
        "FAD006",
        "program-changed",
        Severity.REJECT,
        "program digest {found} does not match certificate {expected}",
        why="The certificate speaks about another program: a branch, a constant or a global differed "
        "at the second trace.",
        example="if time.time() > T: return x",
        remedy="Certify again the program that will run",
    ),
    rule(
        "FAD007",
        "not-traceable",
        Severity.REJECT,
        "`{function}` cannot be traced with the declared arguments: {error}",
        why="What cannot be traced cannot be read.",
        example="if x > 0: ...   # Python branch on a traced value",
        remedy="Use jax.lax.cond or jnp.where for data-dependent choices, and check the declared shapes",
    ),
    rule(
        "FAD008",
        "dynamic-shape",
        Severity.REJECT,
        "the shape of `{primitive}` depends on data; bytes cannot be derived",
        why="The size of a message would say something about the data.",
        example="x[x > 0]",
        remedy="Use a fixed shape with a mask",
    ),
    rule(
        "FAD009",
        "impostor-primitive",
        Severity.REJECT,
        "primitive named `{primitive}` is not the registered one",
        why="A name is not an identity: another primitive of the same name can mean anything.",
        example='fake = Primitive("federated_sum")',
        remedy="Use the primitives of the library, and give your own another name",
    ),
    rule(
        "FAD010",
        "environment-changed",
        Severity.REJECT,
        "{field} was {expected} when certified and is {found} now",
        why="Another JAX version or numeric flag can lower the same program to other arithmetic.",
        example='jax.config.update("jax_enable_x64", True)   # after certifying',
        remedy="Certify again in the environment of the run",
    ),
)
