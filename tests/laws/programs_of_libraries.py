"""Clients and servers of other libraries: optax, equinox, lineax, optimistix, flax."""

import importlib.util

import jax
import jax.numpy as jnp
from practice import normal, program, regression

HAS = {
    n: importlib.util.find_spec(n) is not None
    for n in ("optax", "equinox", "lineax", "optimistix", "flax")
}


def loss(w, x, y):
    return jnp.mean((jnp.tanh(x @ w) - y) ** 2)


def optimised(make):
    """Two steps of an optimiser at clients."""

    def client(w, x, y):
        opt = make()
        state = opt.init(w)
        for _ in range(2):
            import optax

            updates, state = opt.update(jax.grad(loss)(w, x, y), state, w)
            w = optax.apply_updates(w, updates)
        return w

    return client


if HAS["optax"]:
    import optax

    OPTIMISERS = {
        "sgd": lambda: optax.sgd(0.3, momentum=0.9),
        "adam": lambda: optax.adam(0.1),
        "adamw": lambda: optax.adamw(0.1),
    }
    for _name, _make in OPTIMISERS.items():

        def _clients(over, w, x, y, make=_make):
            return over.mean(loss, over.mean(optimised(make), w, x, y), x, y)

        _clients.__name__ = f"optax_{_name}_at_clients"
        program("scc", regression)(_clients)

    @program("scc", regression)
    def optax_adam_of_the_server(over, w, x, y):
        opt = optax.adam(0.1)
        state = opt.init(w)
        for _ in range(2):
            updates, state = opt.update(over.mean(jax.grad(loss), w, x, y), state, w)
            w = optax.apply_updates(w, updates)
        return over.mean(loss, w, x, y)

    @program("scc", regression)
    def optax_losses(over, w, x, y):
        return over.mean(
            lambda w, x, y: jnp.mean(
                optax.huber_loss(x @ w, y)
                + optax.sigmoid_binary_cross_entropy(x @ w, (y > 0) * 1.0)
            ),
            w,
            x,
            y,
        )


if HAS["equinox"]:
    import equinox as eqx

    @program("scc", lambda n: (0.5 * normal(0, 11), *regression(n)[1:]))
    def equinox_network(over, flat, x, y):
        net = eqx.nn.MLP(3, "scalar", 2, 1, key=jax.random.key(0))
        arrays, static = eqx.partition(net, eqx.is_inexact_array)
        ravelled, unravel = jax.flatten_util.ravel_pytree(arrays)

        def client(p, x, y):
            net = eqx.combine(unravel(jax.lax.stop_gradient(ravelled) * 0.1 + p), static)
            return jnp.mean((jax.vmap(net)(x) - y) ** 2)

        return over.mean(client, flat, x, y)

    @program("scc", regression)
    def equinox_recurrent_cell(over, w, x, y):
        cell = eqx.nn.GRUCell(3, 2, key=jax.random.key(0))
        cell = jax.tree.map(lambda a: jax.lax.stop_gradient(a) if eqx.is_array(a) else a, cell)
        step = lambda h, v: (cell(v, h), None)
        return over.mean(
            lambda w, x, y: jnp.sum(jax.lax.scan(step, jnp.zeros(2), x * w)[0]) * y[0], w, x, y
        )


if HAS["lineax"]:
    import lineax as lx

    def lineax_client(solver, tags):
        def client(w, x, y):
            operator = lx.MatrixLinearOperator(x.T @ x + jnp.diag(jnp.exp(w)), tags)
            return jnp.sum(lx.linear_solve(operator, x.T @ y, solver).value ** 2)

        return client

    SOLVERS = {
        "lu": (lx.LU(), ()),
        "cholesky": (lx.Cholesky(), lx.positive_semidefinite_tag),
        "cg": (lx.CG(rtol=1e-13, atol=1e-13), lx.positive_semidefinite_tag),
    }
    for _name, (_solver, _tags) in SOLVERS.items():

        def _solved(over, w, x, y, solver=_solver, tags=_tags):
            return over.mean(lineax_client(solver, tags), w, x, y)

        _solved.__name__ = f"lineax_{_name}_at_clients"
        program("scc", regression)(_solved)

    @program("scc", regression)
    def lineax_of_the_server(over, w, x, y):
        gram, moment = over.mean(lambda w, x, y: ((x * w).T @ (x * w), x.T @ y), w, x, y)
        operator = lx.MatrixLinearOperator(gram + jnp.eye(3), lx.positive_semidefinite_tag)
        return jnp.sum(lx.linear_solve(operator, moment).value ** 2)


if HAS["optimistix"]:
    import optimistix as optx

    @program("scc", regression)
    def optimistix_root_at_clients(over, w, x, y):
        f = lambda v, a: v**3 + v - a
        solver = optx.Newton(rtol=1e-13, atol=1e-13)
        client = lambda w, x, y: jnp.sum(
            optx.root_find(f, solver, jnp.zeros(5), args=x @ w, max_steps=64).value * y
        )
        return over.mean(client, w, x, y)

    @program("scc", regression)
    def optimistix_fixed_point_of_the_server(over, w, x, y):
        moment = over.mean(lambda w, x, y: x.T @ y * w, w, x, y)
        solver = optx.FixedPointIteration(rtol=1e-14, atol=1e-14)
        z = optx.fixed_point(
            lambda z, a: jnp.tanh(0.3 * z + a), solver, jnp.zeros(3), args=moment
        ).value
        return over.mean(loss, z, x, y)


if HAS["flax"]:
    import flax.linen as nn

    @program("scc", lambda n: (0.3 * normal(0, 11), *regression(n)[1:]))
    def flax_network(over, flat, x, y):
        class Net(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Dense(1, param_dtype=float)(nn.tanh(nn.Dense(2, param_dtype=float)(x)))[
                    :, 0
                ]

        shapes = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((5, 3)))
        unravel = jax.flatten_util.ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape), shapes))[
            1
        ]
        return over.mean(
            lambda p, x, y: jnp.mean((Net().apply(unravel(p), x) - y) ** 2), flat, x, y
        )
