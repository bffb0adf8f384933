"""How far rounding may carry a clipped value beyond its stated norm.

Source: the rule page FAD408.
"""

# Bits of mantissa of the floats with fewer than 23.
_SHORT = {
    "bfloat16": 7,
    "float16": 10,
    "float8_e3m4": 4,
    "float8_e4m3": 3,
    "float8_e4m3b11fnuz": 3,
    "float8_e4m3fn": 3,
    "float8_e4m3fnuz": 3,
    "float8_e5m2": 2,
    "float8_e5m2fnuz": 2,
    "float8_e8m0fnu": 0,
    "float4_e2m1fn": 1,
}


def slack_of(dtype: str) -> float:
    """The factor by which the norm of a value of a dtype may exceed its bound.

    It is 1 for dtypes with at least 23 bits of mantissa, whose rounding the assumptions cover.

    Args:
      dtype: Name of the dtype; empty for an ordinary one.
    """
    bits = _SHORT.get(dtype)
    # Four consecutive roundings of half a unit in the last place each.
    return 1.0 if bits is None else 1 + 4 * 2.0 ** -(bits + 1)
