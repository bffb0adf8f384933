"""Rules 0xx: the checker can read the program, and it is the certified program."""

from audits.rules.rules import Severity, rule

PROGRAMS = (
    rule(
        "FAD001",
        "unknown-primitive",
        Severity.REJECT,
        "primitive `{primitive}` has no rule; it cannot be certified",
        why="The checker denies by default: a primitive without a rule may move data between "
        "clients.",
        example="y = some_library.exotic_op(x)",
        remedy="Use jax.numpy operations instead, or report the primitive",
    ),
    rule(
        "FAD002",
        "opaque-kernel",
        Severity.REJECT,
        "`{primitive}` runs code the checker cannot read",
        why="A foreign kernel can do anything, including effects that no jaxpr shows. So can a "
        "custom random generator: it is a record of functions, whatever its name.",
        example='y = jax.ffi.ffi_call("kernel", out_type)(x)',
        remedy="Write the computation in JAX, at least in the certified program",
    ),
    rule(
        "FAD003",
        "host-callback",
        Severity.REJECT,
        "`{primitive}` passes a {placement} value to host Python",
        why="A callback runs arbitrary Python: it can print, store or send the value. A pure "
        "callback has no effect in the jaxpr, so nothing else would show it.",
        example='jax.debug.print("x = {x}", x=x)',
        remedy="Remove the callback; return the value of interest through `fad.sum`",
    ),
    rule(
        "FAD004",
        "mutable-reference",
        Severity.REJECT,
        "reference primitive `{primitive}` can carry values outside the dataflow",
        why="A mutable cell can connect two parts of the program without an edge in the dataflow.",
        example="r = jax.new_ref(x); r[...] = y",
        remedy="Pass the value as an argument and return it as a result",
    ),
    rule(
        "FAD005",
        "captured-array",
        Severity.REJECT,
        "array constant {shape} {dtype} is captured without a declared placement",
        why="A captured array may be the data of one party; inside the program it looks public.",
        example="DATA = load(); f = lambda w: fad.mean(loss(fad.broadcast(w), DATA))",
        remedy="Make the array an argument with a placement; if anybody may know it, pass its digest: "
        'public=["{digest}"], or --public of secfad certify',
    ),
    rule(
        "FAD006",
        "program-changed",
        Severity.REJECT,
        "program digest {found} does not match certificate {expected}",
        why="The certificate is about another program: a branch, a constant or a global variable "
        "differed in the second trace.",
        example="if time.time() > T: return x",
        remedy="Certify the program that will run",
    ),
    rule(
        "FAD007",
        "not-traceable",
        Severity.REJECT,
        "`{function}` cannot be traced with the declared arguments: {error}",
        why="The checker can only read a traced program.",
        example="if x > 0: ...   # Python branch on a traced value",
        remedy="Use jax.lax.cond or jnp.where for data-dependent branches, and check the declared "
        "shapes",
    ),
    rule(
        "FAD008",
        "dynamic-shape",
        Severity.REJECT,
        "the shape of `{primitive}` depends on data; bytes cannot be derived",
        why="The size of a message would reveal something about the data.",
        example="x[x > 0]",
        remedy="Use a fixed shape with a mask",
    ),
    rule(
        "FAD009",
        "impostor-primitive",
        Severity.REJECT,
        "primitive named `{primitive}` is not the registered one",
        why="A name is not an identity: another primitive with the same name can do anything.",
        example='fake = Primitive("federated_sum")',
        remedy="Use the library's primitives, and rename your own",
    ),
    rule(
        "FAD010",
        "environment-changed",
        Severity.REJECT,
        "{field} was {expected} when certified and is {found} now",
        why="Another JAX version or numeric flag can lower the same program to different "
        "arithmetic.",
        example='jax.config.update("jax_enable_x64", True)   # after certifying',
        remedy="Certify again in the environment of the run",
    ),
)
