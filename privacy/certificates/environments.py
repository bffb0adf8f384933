"""The environment of a proof: versions and numeric flags that may change a program's results.

>>> sorted(current_environment())[:2]
['enable_x64', 'jax']
"""

import importlib.metadata
import os


def current_environment() -> dict[str, str]:
    """Versions and numeric flags of this process, as certificates bind them."""
    import jax

    try:
        package = importlib.metadata.version("secfad")
    except importlib.metadata.PackageNotFoundError:
        package = "source"
    return {
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "secfad": package,
        "enable_x64": str(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        "matmul_precision": str(jax.config.jax_default_matmul_precision),  # type: ignore[attr-defined]
        "prng_impl": str(jax.config.jax_default_prng_impl),  # type: ignore[attr-defined]
        "threefry_partitionable": str(jax.config.jax_threefry_partitionable),  # type: ignore[attr-defined]
        "xla_flags": _numeric_flags(os.environ.get("XLA_FLAGS", "")),
    }


# Flags that change neither a number nor an order of additions on one device.
_HARMLESS = ("--xla_force_host_platform_device_count", "--xla_dump_")


def _numeric_flags(flags: str) -> str:
    """Flags of the compiler that may change results, in one order."""
    return " ".join(sorted(f for f in flags.split() if not f.startswith(_HARMLESS)))
