"""Rules 4xx: the contribution of each client to each sum is bounded, and the noise fits the bound."""

from audits.rules.rules import Severity, rule

REJECT, CAVEAT, NOTE = Severity.REJECT, Severity.CAVEAT, Severity.NOTE

BOUNDS = (
    rule(
        "FAD401",
        "unclipped-sum",
        REJECT,
        "one client can change sum {sum} without limit",
        why="No noise hides an unbounded contribution.",
        example="fad.mean(jax.grad(loss)(fad.broadcast(w), x))",
        remedy="Clip the contribution with `fad.clip` before the sum, or use privacy.privatize",
    ),
    rule(
        "FAD402",
        "clip-after-sum",
        REJECT,
        "clip is applied to the sum {sum}, not to the contribution",
        why="The sum before the clip has no bounded sensitivity.",
        example="clip(fad.sum(g), 1.0)",
        remedy="Clip each contribution: `fad.sum(fad.clip(g, 1.0))`",
    ),
    rule(
        "FAD403",
        "split-clip-budget",
        REJECT,
        "leaves are clipped separately, jointly bounded by {joint}; the noise fits only a single "
        "leaf",
        why="The joint norm of leaves that are released together is the root of the sum of their "
        "squared norms.",
        example="sum(clip(a, 1)) + z * noise, sum(clip(b, 1)) + z * noise",
        remedy="Clip the leaves jointly, or scale the noise by the joint bound",
    ),
    rule(
        "FAD404",
        "unbounded-weight",
        REJECT,
        "client weight in sum {sum} has no upper bound",
        why="A clipped update times an unbounded weight is not clipped.",
        example="fad.mean(fad.clip(g, 1.0), weights=count)",
        remedy="Bound the weight with jnp.clip after replacing non-finite values",
    ),
    rule(
        "FAD405",
        "exact-denominator",
        REJECT,
        "denominator {sum} is released without noise",
        why="The ratio depends exactly on the denominator, so the denominator is a separate "
        "release.",
        example="(fad.sum(w * g) + noise) / fad.sum(w)",
        remedy="Add noise to the denominator too, or divide by a public constant",
    ),
    rule(
        "FAD406",
        "noise-mismatch",
        REJECT,
        "noise std {std} for sensitivity {sensitivity}: multiplier {multiplier}, expected "
        "{expected}",
        why="Noise that is scaled for a mean but added to a sum is too small by a factor of the "
        "number of clients.",
        example="fad.sum(u) + (z * c / n) * jax.random.normal(key, shape)",
        remedy="Scale the noise by the sensitivity of the value to which it is added",
    ),
    rule(
        "FAD407",
        "non-finite-bypass",
        REJECT,
        "clip does not bound non-finite inputs, such as NaN, of sum {sum}",
        why="A comparison with NaN is false: where(norm > c, clipped, raw) lets the raw value through.",
        example="jnp.where(n > c, v * c / n, v)",
        remedy="Use `fad.clip`, or set the contribution to zero unless its norm is finite",
    ),
    rule(
        "FAD408",
        "floating-point-slack",
        CAVEAT,
        "bound {bound} of sum {sum} holds up to a factor {factor} in {dtype}",
        why="In low precision the norm is rounded, so the clip can exceed its bound.",
        example="clip(x.astype(jnp.bfloat16), 1.0)",
        remedy="Clip in float32, or charge the larger bound",
    ),
    rule(
        "FAD409",
        "undefined-derivative",
        CAVEAT,
        "derivative of a norm is NaN at zero",
        why="One client with a zero update would make the sum NaN.",
        example="jax.jvp(lambda v: clip(v, 1.0), ...)   # sqrt at zero",
        remedy="Use `fad.clip`, whose derivative is defined at zero",
    ),
    rule(
        "FAD410",
        "private-clip-bound",
        REJECT,
        "clip bound of sum {sum} depends on client data without noise",
        why="The bound is itself a release, and the sensitivity depends on private data.",
        example="c = fad.mean(norm(g)); fad.sum(clip(g, fad.broadcast(c)))",
        remedy="Use a public bound, or adapt it with noised statistics",
    ),
    rule(
        "FAD411",
        "private-normaliser",
        REJECT,
        "normaliser {sum} depends on client data without noise",
        why="Dividing by the exact number of participants releases it.",
        example="(fad.sum(u) + noise) / fad.sum(flag)",
        remedy="Divide by a public constant or a noised count",
    ),
    rule(
        "FAD412",
        "neighbouring-relation",
        CAVEAT,
        "noise is calibrated for {found}; the relation is {expected}",
        why="Replacing a client changes a sum by up to twice the clip norm; adding or removing "
        "one changes it by up to the clip norm.",
        example="noise std z * c, claimed under replace-one",
        remedy="Declare the relation, and scale the noise by its sensitivity",
    ),
    rule(
        "FAD413",
        "integer-range",
        REJECT,
        "sum {sum} of {clients} contributions can leave {dtype}",
        why="Integer sums wrap silently, and a wrapped sum is wrong.",
        example="fad.sum(jnp.round(2**29 * u).astype(jnp.int32))",
        remedy="Use a coarser grid or a wider integer",
    ),
    rule(
        "FAD414",
        "repeated-release",
        NOTE,
        "{count} releases of the same data; the ledger must compose them",
        why="Every release costs privacy.",
        example="a scan of rounds over the same clients",
        remedy="Charge every release that the certificate lists",
    ),
    rule(
        "FAD415",
        "exact-release",
        REJECT,
        "sum {sum} is released without noise",
        why="One exact statistic next to private ones voids the privacy guarantee of all.",
        example="return update_with_noise, fad.mean(loss)",
        remedy="Add noise to it, or do not return it",
    ),
)
