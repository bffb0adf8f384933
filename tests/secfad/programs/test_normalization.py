"""Normal form: only communication that somebody needs, each broadcast once, every sum kept."""

import jax
import jax.numpy as jnp
import pytest

import secfad as fad
from secfad.jaxprs.inside import bodies

S, C = fad.SERVER, fad.CLIENTS
ROW = jnp.ones(3)


def computation(fun):
    return fad.computation(w=S, x=C)(fun)


def messages(made, *, kind):
    """Names of the broadcasts or sums of a program, at any depth, one per value."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == f"federated_{kind}":
                yield from [equation.params["name"]] * len(equation.invars)
            for body in bodies(equation):
                yield from walk(body)

    return sorted(walk(fad.trace(made, ROW, ROW).jaxpr.jaxpr))


def test_dead_sum_is_removed():
    @computation
    def fun(w, x):
        fad.sum(x, name="dead")
        return fad.sum(x, name="live")

    assert messages(fun, kind="sum") == ["live"]


def test_dead_operand_of_a_sum_is_removed():
    @computation
    def fun(w, x):
        return fad.sum((x, x**2), name="moments")[0]

    assert messages(fun, kind="sum") == ["moments"]


def test_gradient_drops_the_primal_sum():
    @computation
    def fun(w, x):
        return fad.sum(jnp.vdot(fad.broadcast(w, name="model"), x) ** 2, name="loss")

    assert messages(fad.grad(fun), kind="sum") == ["model.cotangent"]
    assert messages(fad.value_and_grad(fun), kind="sum") == ["loss", "model.cotangent"]


def test_repeated_broadcast_of_a_value_is_merged():
    @computation
    def fun(w, x):
        return fad.sum(fad.broadcast(w, name="first") * x + fad.broadcast(w, name="second"))

    assert messages(fun, kind="broadcast") == ["first"]


def test_partly_repeated_broadcast_sends_only_what_is_new():
    @computation
    def fun(w, x):
        first = fad.broadcast(w, name="first")
        again, new = fad.broadcast((w, 2 * w), name="second")
        return fad.sum(first * again * new * x)

    assert messages(fun, kind="broadcast") == ["first", "second"]


def test_invariant_broadcast_leaves_the_loop_of_a_client():
    @computation
    def fun(w, x):
        def step(v, _):
            return v - 0.1 * fad.broadcast(w, name="anchor") * x, None

        return fad.sum(jax.lax.scan(step, fad.broadcast(w), None, length=5)[0])

    program = fad.trace(fun, ROW, ROW)
    assert program.costs.down_bytes == ROW.nbytes
    assert program.costs.contacts == 1


def test_invariant_broadcast_leaves_nested_loops():
    @computation
    def fun(w, x):
        def inner(v, _):
            return v + fad.broadcast(w, name="anchor") * x, None

        def outer(v, _):
            return jax.lax.scan(inner, v, None, length=2)[0], None

        return fad.sum(jax.lax.scan(outer, x, None, length=2)[0])

    assert fad.trace(fun, ROW, ROW).costs.down_bytes == ROW.nbytes


def test_equal_sums_are_never_merged():
    @computation
    def fun(w, x):
        return fad.sum(x, name="one") * fad.sum(x, name="two")

    assert messages(fun, kind="sum") == ["one", "two"]


def test_invariant_sum_stays_in_its_loop():
    @computation
    def fun(w, x):
        return jax.lax.scan(lambda c, _: (c + fad.sum(x), None), w, None, length=3)[0]

    assert fad.trace(fun, ROW, ROW).rounds == 3


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
def test_no_symbolic_zero_becomes_a_message(mode):
    @computation
    def fun(w, x):
        used, constant = fad.broadcast((w, jnp.arange(3.0) * 2), name="model")
        part, rest = fad.sum((used * x, x), name="parts")
        return jnp.sum(part * rest) + 0 * jnp.sum(constant)

    # Without activity there would be a derivative of `rest` and of the doubled constant too.
    expected = {
        "forward": ["parts", "parts.tangent"],
        "reverse": ["model.cotangent", "parts"],
        "mixed": ["parts", "parts"],
    }
    assert messages(fad.grad(fun, mode=mode), kind="sum") == expected[mode]


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.nothing_saveable])
def test_checkpoint_recomputes_no_communication(policy):
    def body(w, x):
        return jnp.sin(fad.sum(jnp.sin(fad.broadcast(w, name="model") * x), name="total"))

    @computation
    def plain(w, x):
        return jnp.sum(body(body(w, x), x))

    @computation
    def saved(w, x):
        remat = jax.checkpoint(body, policy=policy)
        return jnp.sum(remat(remat(w, x), x))

    for kind in ("sum", "broadcast"):
        assert messages(fad.grad(saved), kind=kind) == messages(fad.grad(plain), kind=kind)


def test_names_travel_through_differentiation():
    @computation
    def fun(w, x):
        return fad.sum(jnp.sum((fad.broadcast(w, name="model") * x) ** 2), name="loss")

    forward, reverse = (fad.value_and_grad(fun, mode=m) for m in ("forward", "reverse"))
    assert messages(forward, kind="sum") == ["loss", "loss.tangent"]
    assert messages(reverse, kind="sum") == ["loss", "model.cotangent"]
    directional = fad.jvp(fun)
    assert set(fad_names(directional)) == {"model", "model.tangent"}


def fad_names(made):
    program = fad.trace(made, ROW, ROW, ROW)
    return [m.name for item in program.schedule.items for m in getattr(item, "downloads", ())]


def test_a_number_may_be_broadcast_in_a_scan():
    """As the gradient of a sum broadcasts its cotangent, which is one."""

    @computation
    def descent(w, x):
        def step(w, _):
            loss = lambda w: fad.sum(jnp.vdot(x * fad.broadcast(2.0), jnp.sin(fad.broadcast(w))))
            return w - jax.grad(loss)(w), None

        return jax.lax.scan(step, w, length=3)[0]

    assert fad.trace(descent, ROW, ROW).costs.contacts == 3
