"""The environment of a proof: versions and numeric flags that may change a program's results.

>>> sorted(current_environment())[:2]
['enable_x64', 'jax']
"""

import importlib.metadata


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
    }
