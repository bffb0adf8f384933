"""Clients with layers, filtered transformations and loops of equinox, which is optional."""

import jax
import jax.numpy as jnp
from programs_of_solvers import BACKWARDS, HAS, local_loss, table

if HAS["equinox"]:
    import equinox as eqx
    import equinox.internal as eqxi

    def layer(make, apply=lambda net, x: jax.vmap(net)(x)):
        """The mean square of a layer whose parameters are scaled by the model."""

        def client(w, x, y):
            net = make(jax.random.key(0))
            scaled = lambda a: a * (1 + 0.1 * jnp.sum(w)) if eqx.is_inexact_array(a) else a
            return jnp.mean(apply(jax.tree.map(scaled, net), x * w) ** 2) * (1 + y[0] ** 2)

        return client

    table(
        {
            "equinox_linear": layer(lambda k: eqx.nn.Linear(3, 2, key=k)),
            "equinox_perceptron": layer(lambda k: eqx.nn.MLP(3, 2, 4, 2, key=k)),
            "equinox_layer_norm": layer(lambda k: eqx.nn.LayerNorm(3)),
            "equinox_rms_norm": layer(lambda k: eqx.nn.RMSNorm(3)),
            "equinox_group_norm": layer(lambda k: eqx.nn.GroupNorm(1, 5), lambda net, x: net(x)),
            "equinox_convolution": layer(
                lambda k: eqx.nn.Conv1d(5, 2, 2, key=k), lambda net, x: net(x)
            ),
            "equinox_attention": layer(
                lambda k: eqx.nn.MultiheadAttention(1, 3, key=k), lambda net, x: net(x, x, x)
            ),
            "equinox_lstm": layer(
                lambda k: eqx.nn.LSTMCell(3, 2, key=k),
                lambda net, x: jax.lax.scan(
                    lambda h, v: (net(v, h), None), (jnp.zeros(2), jnp.zeros(2)), x
                )[0][0],
            ),
            "equinox_pooling": layer(lambda k: eqx.nn.AvgPool1d(2), lambda net, x: net(x)),
            "equinox_filtered_gradient": lambda w, x, y: jnp.sum(
                eqx.filter_grad(lambda m: local_loss(m["w"], x, y))({"w": w, "name": 3})["w"] ** 2
            ),
            "equinox_filtered_checkpoint": lambda w, x, y: eqx.filter_checkpoint(local_loss)(
                w, x, y
            ),
            "equinox_bounded_loop": lambda w, x, y: (
                jnp.sum(
                    eqxi.while_loop(
                        lambda s: jnp.sum(s[1] ** 2) < 4.0,
                        lambda s: (s[0] + 1, s[1] * 1.5 + 0.1 * w),
                        (0, w * x[0]),
                        max_steps=8,
                        kind="bounded",
                        base=2,
                    )[1]
                )
                * y[0]
            ),
        }
    )

    @eqx.filter_custom_vjp
    def clipped_back(v):
        return v**2

    clipped_back.def_fwd(lambda perturbed, v: (v**2, v))
    clipped_back.def_bwd(lambda v, g, perturbed, _: 2 * v * g)
    table(
        {
            "equinox_checkpointed_loop": lambda w, x, y: (
                jnp.sum(
                    eqxi.while_loop(
                        lambda s: jnp.sum(s[1] ** 2) < 4.0,
                        lambda s: (s[0] + 1, s[1] * 1.5 + 0.1 * w),
                        (0, w * x[0]),
                        max_steps=8,
                        kind="checkpointed",
                    )[1]
                )
                * y[0]
            ),
            "equinox_custom_vjp": lambda w, x, y: jnp.mean(clipped_back(x @ w - y)),
        },
        **BACKWARDS,
    )
