"""How far rounding may carry a clipped value beyond its stated norm.

Source: the rule page FAD408.
"""

import jax.numpy as jnp


def slack_of(dtype: str) -> float:
    """The factor by which the norm of a value of a dtype may exceed its bound.

    It is 1 for dtypes with at least 23 bits of mantissa, whose rounding the assumptions cover.

    Args:
      dtype: Name of the dtype; empty for an ordinary one.
    """
    if not dtype or not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        return 1.0
    bits = jnp.finfo(dtype).nmant
    # Four consecutive roundings of half a unit in the last place each.
    return 1.0 if bits >= 23 else 1 + 4 * 2.0 ** -(bits + 1)
